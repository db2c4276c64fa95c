//! Why a master could not be reached: which layer, on what evidence, and what can be done.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use rustls::CertificateError;

use super::{MasterAddress, stage::Layer};
use crate::link::{
    proxy::{ProxyAddress, ProxyError, environment::EnvironmentError},
    tls::{PinMismatch, TlsError},
    upgrade::UpgradeError,
};

/// Whom a layer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The master, or what stands before it.
    Master,
    /// The proxy on this side.
    Proxy,
}

impl Peer {
    /// The field that says where it is.
    fn field(self) -> &'static str {
        match self {
            Peer::Master => "master",
            Peer::Proxy => "proxy",
        }
    }

    /// Before the name of a layer.
    fn prefix(self) -> &'static str {
        match self {
            Peer::Master => "",
            Peer::Proxy => "proxy's ",
        }
    }
}

/// Why a master could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name does not resolve.
    #[error("{}name: `{host}` does not resolve ({reason}); check the host in `{}` and the DNS server", .peer.prefix(), .peer.field())]
    Name {
        /// Whose.
        peer: Peer,
        /// The name.
        host: String,
        /// What the resolver says.
        reason: String,
    },
    /// No address of the host takes a connection.
    #[error("{}TCP: no connection to {}", .peer.prefix(), describe_attempts(*.peer, .attempts))]
    Connect {
        /// To whom.
        peer: Peer,
        /// The addresses, and what each said.
        attempts: Vec<(SocketAddr, io::Error)>,
    },
    /// The environment names a proxy that cannot be used.
    #[error("proxy: {0}; or set `proxy` in the configuration")]
    Environment(#[from] EnvironmentError),
    /// The proxy gives no way.
    #[error("proxy {proxy}: {source}")]
    Proxy {
        /// Which one.
        proxy: Box<ProxyAddress>,
        /// Why.
        source: ProxyError,
    },
    /// The authorities for TLS with a proxy cannot be read.
    #[error(transparent)]
    Authorities(#[from] TlsError),
    /// The file with headers cannot be used.
    #[error("HTTP: the file of `headers_file`, {}, {problem}", path.display())]
    HeadersFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// TLS could not be established.
    #[error("{}TLS with `{host}`: {problem}{}", .peer.prefix(), .problem.remedy(*.peer))]
    Tls {
        /// With whom.
        peer: Peer,
        /// The name that the certificate must be for.
        host: String,
        /// What went wrong.
        problem: TlsProblem,
    },
    /// The connection did not become a WebSocket.
    #[error("HTTP with {address}: {source}")]
    Upgrade {
        /// Where the request went.
        address: Box<MasterAddress>,
        /// What went wrong.
        source: UpgradeError,
    },
    /// It all took too long.
    #[error("{}{layer}: {whom} gave no answer within {} s; {}", if *.layer == Layer::Proxy { "" } else { .peer.prefix() }, .after.as_secs_f32(), .layer.remedy(*.peer))]
    Deadline {
        /// What was waited for.
        layer: Layer,
        /// Of whom.
        peer: Peer,
        /// Where that is.
        whom: String,
        /// The whole time that there was.
        after: Duration,
    },
}

/// Why TLS could not be established.
#[derive(Debug, thiserror::Error)]
pub enum TlsProblem {
    /// Nobody whom we trust signed the certificate.
    #[error(
        "the certificate is signed by an authority that is not trusted here; name its PEM file with `tls.ca`, or mend the certificate's chain"
    )]
    UnknownIssuer,
    /// The certificate is for other names.
    #[error("the certificate is not for this name ({0})")]
    WrongName(String),
    /// The certificate is not valid any more.
    #[error("the certificate has expired ({0}); renew it there, or set this machine's clock")]
    Expired(String),
    /// The certificate is not valid yet.
    #[error("the certificate is not valid yet ({0}); set this machine's clock")]
    NotYetValid(String),
    /// The certificate is that of an authority itself, as `openssl req -x509` makes it unless told otherwise.
    #[error("it shows the certificate of an authority as its own; make one for it with basicConstraints=CA:FALSE")]
    Authority,
    /// Another problem with the certificate.
    #[error("the certificate does not verify: {0}")]
    Certificate(String),
    /// The certificate is another than the pinned one.
    #[error(
        "{0} is the SHA-256 of the certificate, which is none of those in `tls.pin_sha256`: somebody stands in between, or the certificate was renewed"
    )]
    Pin(PinMismatch),
    /// The peer's TLS is too old or too odd.
    #[error("both sides have no version or cipher of TLS in common ({0}); rePort speaks TLS 1.2 and 1.3")]
    NothingInCommon(String),
    /// What listens there does not speak TLS.
    #[error("what listens there does not speak TLS")]
    NotTls,
    /// The peer refused, or the handshake failed in another way.
    #[error("the handshake failed: {0}")]
    Handshake(String),
}

impl TlsProblem {
    /// What can be done, where it depends on whose certificate it is.
    fn remedy(&self, peer: Peer) -> &'static str {
        match (self, peer) {
            (TlsProblem::WrongName(_), Peer::Master) => "; write the name that it is for in `master`",
            (TlsProblem::WrongName(_), Peer::Proxy) => "; write the name that it is for in `proxy`",
            (TlsProblem::NotTls, Peer::Master) => "; write ws:// in `master`, or the port of the TLS endpoint",
            (TlsProblem::NotTls, Peer::Proxy) => "; write http:// in `proxy`, or the port at which it speaks TLS",
            _ => "",
        }
    }
}

fn describe_attempts(peer: Peer, attempts: &[(SocketAddr, io::Error)]) -> String {
    let mut text = String::new();
    for (address, error) in attempts {
        let separator = if text.is_empty() { "" } else { ", " };
        let reason = match error.kind() {
            io::ErrorKind::ConnectionRefused => "refused".to_owned(),
            io::ErrorKind::TimedOut => "no answer".to_owned(),
            _ => error.to_string(),
        };
        text.push_str(&format!("{separator}{address} ({reason})"));
    }
    let refused = |(address, error): &(SocketAddr, io::Error)| {
        error.kind() == io::ErrorKind::ConnectionRefused && !matches!(address.ip(), IpAddr::V4(ip) if ip.is_unspecified())
    };
    let remedy = if attempts.iter().any(refused) {
        match peer {
            Peer::Master => "; is the master running, and is the port right?",
            Peer::Proxy => "; is that the proxy's port in `proxy`?",
        }
    } else {
        "; is the machine reachable, and does a firewall let the port through?"
    };
    text + remedy
}

pub(super) fn tls_problem(error: &io::Error) -> TlsProblem {
    let Some(rustls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
                TlsProblem::Handshake("the connection was closed; does that port speak TLS?".to_owned())
            }
            _ => TlsProblem::Handshake(error.to_string()),
        };
    };
    match rustls {
        rustls::Error::InvalidCertificate(reason) => certificate_problem(reason),
        rustls::Error::InvalidMessage(_) => TlsProblem::NotTls,
        rustls::Error::PeerIncompatible(_)
        | rustls::Error::AlertReceived(rustls::AlertDescription::ProtocolVersion | rustls::AlertDescription::HandshakeFailure) => {
            TlsProblem::NothingInCommon(rustls.to_string())
        }
        other => TlsProblem::Handshake(other.to_string()),
    }
}

fn certificate_problem(reason: &CertificateError) -> TlsProblem {
    match reason {
        // A bad signature: the authority was made anew under the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsProblem::UnknownIssuer,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            TlsProblem::WrongName(reason.to_string())
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsProblem::Expired(reason.to_string()),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            TlsProblem::NotYetValid(reason.to_string())
        }
        CertificateError::Other(other) if other.0.downcast_ref::<PinMismatch>().is_some() => {
            other.0.downcast_ref::<PinMismatch>().map_or(TlsProblem::NotTls, |mismatch| TlsProblem::Pin(*mismatch))
        }
        // The verifier's own error has no type here, only its name.
        other if format!("{other:?}").contains("CaUsedAsEndEntity") => TlsProblem::Authority,
        other => TlsProblem::Certificate(other.to_string()),
    }
}
