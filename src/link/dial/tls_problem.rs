//! Why TLS could not be established: what the peer showed or said in its place, and what is likely behind it.

use std::io;

use rustls::{AlertDescription, CertificateError, PeerIncompatible, pki_types::CertificateDer};

use super::{Peer, first_bytes::FirstBytes};
use crate::link::{
    Reason,
    tls::{Certificate, PinMismatch, moment, now},
    upgrade::evidence,
};

/// Why TLS could not be established.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.reason(Peer::Master))]
pub enum TlsProblem {
    /// Nobody whom we trust signed the certificate, which is this one if it could be read.
    UnknownIssuer(Option<Box<Certificate>>),
    /// The same, and its issuer is known to open TLS on the way.
    Intercepted {
        /// What does.
        by: &'static str,
        /// What it shows.
        certificate: Box<Certificate>,
    },
    /// The same, and it signed itself.
    SelfSigned(Box<Certificate>),
    /// The certificate is for other names.
    WrongName(Option<Box<Certificate>>),
    /// The certificate is not valid any more.
    Expired(Option<Box<Certificate>>),
    /// The certificate is not valid yet.
    NotYetValid(Option<Box<Certificate>>),
    /// The certificate is that of an authority itself, as `openssl req -x509` makes it unless told otherwise.
    Authority(Option<Box<Certificate>>),
    /// Another problem with the certificate.
    Certificate(String, Option<Box<Certificate>>),
    /// The certificate is another than the pinned one.
    Pin(PinMismatch, Option<Box<Certificate>>),
    /// The peer speaks TLS 1.1 or older.
    TooOld(String),
    /// The peer's TLS is too odd.
    NothingInCommon(String),
    /// What listens there speaks HTTP without TLS, and said this.
    PlainHttp(String),
    /// What listens there does not speak TLS, and said this.
    NotTls(String),
    /// The connection ended in this way behind the first message of the handshake, which names the host in the clear.
    Cut(&'static str),
    /// The peer wants to be shown a certificate, or another one.
    ClientCertificate(String),
    /// The peer has no site of this name.
    NoSuchSite(String),
    /// The handshake failed in another way.
    Handshake(String),
}

impl TlsProblem {
    /// What is told of it.
    pub(super) fn reason(&self, peer: Peer) -> Reason {
        match self {
            TlsProblem::UnknownIssuer(_)
            | TlsProblem::Intercepted { .. }
            | TlsProblem::SelfSigned(_)
            | TlsProblem::Authority(_)
            | TlsProblem::Certificate(..)
            | TlsProblem::Pin(..) => self.distrust(peer),
            TlsProblem::WrongName(_) | TlsProblem::Expired(_) | TlsProblem::NotYetValid(_) => {
                self.unfit(peer)
            }
            _ => self.no_handshake(peer),
        }
    }

    /// Who signed the certificate is not trusted.
    fn distrust(&self, peer: Peer) -> Reason {
        let mend = "name the authority's PEM file with `tls.ca`, or mend the certificate's chain";
        match self {
            TlsProblem::Intercepted { by, certificate } => Reason::new(
                format!(
                    "the certificate is signed by an authority that is not trusted here, \"{}\"",
                    certificate.issuer
                ),
                format!("TLS is opened on the way by {by}"),
                format!(
                    "name its root in `tls.ca` (the file that this network gives to its machines), or have {by} let this host through unopened"
                ),
            ),
            TlsProblem::SelfSigned(certificate) => Reason::new(
                format!(
                    "the certificate of \"{}\" is signed by itself, and not trusted here",
                    certificate.subject
                ),
                "it is a makeshift certificate, or that of something in between",
                format!(
                    "if it is the right one, name its PEM file with `tls.ca`{}",
                    or_pin(peer, Some(certificate))
                ),
            ),
            TlsProblem::Authority(certificate) => Reason::new(
                "it shows the certificate of an authority as its own",
                "`openssl req -x509` makes such a certificate unless told otherwise",
                format!(
                    "make one for it with basicConstraints=CA:FALSE{}",
                    or_pin(peer, certificate.as_deref())
                ),
            ),
            TlsProblem::Certificate(problem, certificate) => {
                let of = certificate
                    .as_ref()
                    .map_or_else(String::new, |certificate| {
                        format!(" of \"{}\"", certificate.subject)
                    });
                Reason::new(
                    format!("the certificate{of} does not verify: {problem}"),
                    "",
                    "make a new one there",
                )
            }
            TlsProblem::Pin(found, certificate) => {
                let by = certificate.as_deref().and_then(Certificate::inspector);
                let cause = match by {
                    Some(by) => format!("TLS is opened on the way by {by}"),
                    None => "somebody stands in between, or the certificate was renewed".to_owned(),
                };
                let evidence = format!(
                    "{found} is the SHA-256 of the certificate, which is none of those in `tls.pin_sha256`"
                );
                Reason::new(
                    evidence,
                    cause,
                    "if it was renewed, put its SHA-256 there; else leave this network",
                )
            }
            TlsProblem::UnknownIssuer(Some(certificate)) => Reason::new(
                format!(
                    "the certificate of \"{}\" is signed by an authority that is not trusted here, \"{}\"",
                    certificate.subject, certificate.issuer
                ),
                "it is an authority of one's own, the certificates between are missing in the chain, or TLS is opened on the way",
                mend,
            ),
            _ => Reason::new(
                "the certificate is signed by an authority that is not trusted here",
                "",
                mend,
            ),
        }
    }

    /// The certificate is not for this name or this time.
    fn unfit(&self, peer: Peer) -> Reason {
        let clock = format!("this machine's time is {}", moment(now()));
        match self {
            TlsProblem::WrongName(certificate) => {
                let names = certificate
                    .as_deref()
                    .map_or_else(|| "other names".to_owned(), Certificate::names_shown);
                let issuer = certificate
                    .as_deref()
                    .map_or("somebody", |certificate| certificate.issuer.as_str());
                Reason::new(
                    format!(
                        "the certificate is not for this name, it is for {names} (signed by \"{issuer}\")"
                    ),
                    "the address leads to another site, or the certificate was made for another name",
                    match peer {
                        Peer::Master => {
                            "write the name that it is for in `master`, or in `tls.server_name`"
                        }
                        Peer::Proxy => "write the name that it is for in `proxy`",
                    },
                )
            }
            TlsProblem::Expired(certificate) => {
                let until = certificate
                    .as_ref()
                    .map_or_else(String::new, |certificate| {
                        format!(
                            " (it was valid until {}, signed by \"{}\")",
                            moment(certificate.not_after),
                            certificate.issuer
                        )
                    });
                Reason::new(
                    format!("the certificate has expired{until}; {clock}"),
                    "",
                    "renew it there; or set this machine's clock, if that is wrong",
                )
            }
            _ => {
                let certificate = match self {
                    TlsProblem::NotYetValid(certificate) => certificate.as_ref(),
                    _ => None,
                };
                let from = certificate.map_or_else(String::new, |certificate| {
                    format!(" (it is valid from {})", moment(certificate.not_before))
                });
                Reason::new(
                    format!("the certificate is not valid yet{from}; {clock}"),
                    "this machine's clock is slow, as one without a battery is after it was off",
                    "set this machine's clock",
                )
            }
        }
    }

    /// There was no certificate to judge.
    fn no_handshake(&self, peer: Peer) -> Reason {
        let plain = match peer {
            Peer::Master => "write ws:// in `master`, or the port of the TLS endpoint",
            Peer::Proxy => "write http:// in `proxy`, or the port at which it speaks TLS",
        };
        match self {
            TlsProblem::TooOld(said) => Reason::new(
                format!(
                    "both sides have no version of TLS in common ({said}); rePort speaks TLS 1.2 and 1.3"
                ),
                "what listens there, or something that opens TLS on the way, speaks TLS 1.1 or older",
                "turn on TLS 1.2 there (nginx: `ssl_protocols TLSv1.2 TLSv1.3`)",
            ),
            TlsProblem::NothingInCommon(said) => Reason::new(
                format!(
                    "both sides have no version or cipher of TLS in common ({said}); rePort speaks TLS 1.2 and 1.3"
                ),
                "what listens there is old, or is set up for few ciphers",
                "turn on TLS 1.2 with ECDHE and AES-GCM there (nginx: `ssl_protocols TLSv1.2 TLSv1.3`)",
            ),
            TlsProblem::PlainHttp(said) => Reason::new(
                format!("what listens there does not speak TLS, it speaks plain HTTP ({said:?})"),
                "",
                plain,
            ),
            TlsProblem::NotTls(said) => Reason::new(
                format!("what listens there does not speak TLS (it said {said:?})"),
                "",
                plain,
            ),
            TlsProblem::Cut(how) => Reason::new(
                format!("the connection was {how} right behind the ClientHello, before any answer"),
                "a firewall does that which filters by the name in it (SNI), or that port does not speak TLS",
                "try another name by `tls.server_name`, another port, another network, or a proxy; does that port speak TLS?",
            ),
            TlsProblem::ClientCertificate(said) => Reason::new(
                format!("the handshake failed: {said}"),
                "what listens there wants to be shown a certificate, or does not know the one that it was shown",
                "name one by `tls.client_cert` and `tls.client_key`",
            ),
            TlsProblem::NoSuchSite(said) => Reason::new(
                format!("the handshake failed: {said}"),
                "what listens there has no site of this name",
                format!(
                    "check the host in `{}`, or write the name that it has in `tls.server_name`",
                    peer.field()
                ),
            ),
            TlsProblem::Handshake(said) => Reason::new(
                format!("the handshake failed: {said}"),
                "something on the way breaks TLS, or what listens there does",
                "look into the log of what listens there, and try from another network",
            ),
            _ => Reason::new("TLS failed", "", plain),
        }
    }
}

/// Proxies are not pinned.
fn or_pin(peer: Peer, certificate: Option<&Certificate>) -> String {
    match (peer, certificate) {
        (Peer::Master, Some(found)) => format!(
            ", or write \"pin_sha256\": \"{}\" in `tls`",
            found.fingerprint()
        ),
        _ => String::new(),
    }
}

/// What became of a handshake that failed: the chain that was shown in it, and what the peer said first.
pub(super) fn tls_problem(
    error: &io::Error,
    shown: &[CertificateDer<'_>],
    first: Option<&FirstBytes>,
) -> TlsProblem {
    let first = first.and_then(|first| first.get());
    let Some(rustls) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    else {
        let nothing_came = first.is_none_or(|first| first.is_empty());
        return match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe if nothing_came => {
                TlsProblem::Cut("reset")
            }
            io::ErrorKind::UnexpectedEof if nothing_came => TlsProblem::Cut("closed"),
            io::ErrorKind::UnexpectedEof => {
                TlsProblem::Handshake("the connection was closed in the middle of it".to_owned())
            }
            _ => TlsProblem::Handshake(error.to_string()),
        };
    };
    let said = || evidence(first.map_or(&[][..], |first| first));
    match rustls {
        rustls::Error::InvalidCertificate(reason) => certificate_problem(reason, shown),
        rustls::Error::InvalidMessage(_)
            if first.is_some_and(|first| first.starts_with(b"HTTP/")) =>
        {
            TlsProblem::PlainHttp(said())
        }
        rustls::Error::InvalidMessage(_) => TlsProblem::NotTls(said()),
        rustls::Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13)
        | rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            TlsProblem::TooOld(rustls.to_string())
        }
        rustls::Error::PeerIncompatible(_)
        | rustls::Error::AlertReceived(
            AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity,
        ) => TlsProblem::NothingInCommon(rustls.to_string()),
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::AccessDenied,
        ) => TlsProblem::ClientCertificate(rustls.to_string()),
        rustls::Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            TlsProblem::NoSuchSite(rustls.to_string())
        }
        other => TlsProblem::Handshake(other.to_string()),
    }
}

fn certificate_problem(reason: &CertificateError, shown: &[CertificateDer<'_>]) -> TlsProblem {
    let chain: Vec<Certificate> = shown
        .iter()
        .filter_map(|shown| Certificate::read(shown))
        .collect();
    let own = chain.first().cloned().map(Box::new);
    match reason {
        // A bad signature: the authority was made anew under the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            let by = chain.iter().find_map(Certificate::inspector);
            match (by, own) {
                (Some(by), Some(certificate)) => TlsProblem::Intercepted { by, certificate },
                (None, Some(certificate)) if certificate.is_self_signed => {
                    TlsProblem::SelfSigned(certificate)
                }
                (_, own) => TlsProblem::UnknownIssuer(own),
            }
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            TlsProblem::WrongName(own)
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            TlsProblem::Expired(own)
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            TlsProblem::NotYetValid(own)
        }
        CertificateError::Other(other) => match other.0.downcast_ref::<PinMismatch>() {
            Some(mismatch) => TlsProblem::Pin(*mismatch, own),
            // The verifier's own error has no type here, only its name.
            None if format!("{other:?}").contains("CaUsedAsEndEntity") => {
                TlsProblem::Authority(own)
            }
            None => TlsProblem::Certificate(reason.to_string(), own),
        },
        other => TlsProblem::Certificate(other.to_string(), own),
    }
}
