//! TLS handshake failures: the evidence from the peer, and the likely cause.

use std::io;

use rustls::{AlertDescription, CertificateError, PeerIncompatible, pki_types::CertificateDer};

use super::{DialPeer, first_bytes::FirstBytes};
use crate::net::{
    Reason,
    tls::{CertificateInfo, PinMismatch, format_utc, now},
    upgrade::evidence,
};

/// Why TLS could not be established.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.reason(DialPeer::Master))]
pub enum TlsProblem {
    /// No trusted authority signed the certificate. Holds the certificate if it could be read.
    UnknownIssuer(Option<Box<CertificateInfo>>),
    /// Like `UnknownIssuer`, with an issuer that is known to intercept TLS.
    Intercepted {
        /// The intercepting product.
        by: &'static str,
        /// The certificate that it presented.
        certificate: Box<CertificateInfo>,
    },
    /// Like `UnknownIssuer`, with a self-signed certificate.
    SelfSigned(Box<CertificateInfo>),
    /// The certificate is for other names.
    WrongName(Option<Box<CertificateInfo>>),
    /// The certificate has expired.
    Expired(Option<Box<CertificateInfo>>),
    /// The certificate is not yet valid.
    NotYetValid(Option<Box<CertificateInfo>>),
    /// The certificate belongs to an authority, as `openssl req -x509` creates it by default.
    Authority(Option<Box<CertificateInfo>>),
    /// Another problem with the certificate.
    OtherCertificate(String, Option<Box<CertificateInfo>>),
    /// The certificate does not match any pin.
    Pin(PinMismatch, Option<Box<CertificateInfo>>),
    /// The peer supports only TLS 1.1 or older.
    TooOld(String),
    /// The peer and rePort share no TLS version or cipher.
    NothingInCommon(String),
    /// The port speaks plain HTTP. Holds the first bytes received.
    PlainHttp(String),
    /// The port does not speak TLS. Holds the first bytes received.
    NotTls(String),
    /// The connection ended, in the way given, right after the ClientHello. The ClientHello shows
    /// the host name in the clear.
    Cut(&'static str),
    /// The peer requires a client certificate, or rejects the one presented.
    ClientCertificate(String),
    /// The peer has no site with this name.
    NoSuchSite(String),
    /// The handshake failed for another reason.
    Handshake(String),
}

impl TlsProblem {
    /// Returns the evidence, the likely cause and the remedy.
    pub(super) fn reason(&self, peer: DialPeer) -> Reason {
        match self {
            TlsProblem::UnknownIssuer(_)
            | TlsProblem::Intercepted { .. }
            | TlsProblem::SelfSigned(_)
            | TlsProblem::Authority(_)
            | TlsProblem::OtherCertificate(..)
            | TlsProblem::Pin(..) => self.describe_untrusted(peer),
            TlsProblem::WrongName(_) | TlsProblem::Expired(_) | TlsProblem::NotYetValid(_) => {
                self.describe_mismatch(peer)
            }
            _ => self.describe_handshake_failure(peer),
        }
    }

    /// Describes a certificate whose signer is not trusted.
    fn describe_untrusted(&self, peer: DialPeer) -> Reason {
        let remedy =
            "set `tls.ca` to the authority's PEM file, or complete the server's certificate chain";
        match self {
            TlsProblem::Intercepted { by, certificate } => Reason::new(
                format!(
                    "the certificate is signed by an untrusted authority, \"{}\"",
                    certificate.issuer
                ),
                format!("{by} intercepts TLS"),
                format!(
                    "set `tls.ca` to its root (the file that this network gives to its machines), or exempt this host in {by}"
                ),
            ),
            TlsProblem::SelfSigned(certificate) => Reason::new(
                format!(
                    "the certificate of \"{}\" is self-signed and not trusted",
                    certificate.subject
                ),
                "it is a test certificate, or that of a device on the path",
                format!(
                    "if it is the right one, set `tls.ca` to its PEM file{}",
                    pin_hint(peer, Some(certificate))
                ),
            ),
            TlsProblem::Authority(certificate) => Reason::new(
                "the server presents the certificate of an authority as its own",
                "`openssl req -x509` creates such a certificate by default",
                format!(
                    "create a certificate with basicConstraints=CA:FALSE{}",
                    pin_hint(peer, certificate.as_deref())
                ),
            ),
            TlsProblem::OtherCertificate(problem, certificate) => {
                let of = certificate
                    .as_ref()
                    .map_or_else(String::new, |certificate| {
                        format!(" of \"{}\"", certificate.subject)
                    });
                Reason::new(
                    format!("the certificate{of} does not verify: {problem}"),
                    "",
                    "issue a new certificate",
                )
            }
            TlsProblem::Pin(found, certificate) => {
                let by = certificate.as_deref().and_then(CertificateInfo::inspector);
                let cause = match by {
                    Some(by) => format!("{by} intercepts TLS"),
                    None => "a device on the path intercepts TLS, or the certificate was renewed"
                        .to_owned(),
                };
                let evidence =
                    format!("the SHA-256 of the certificate, {found}, is not in `tls.pin_sha256`");
                Reason::new(
                    evidence,
                    cause,
                    "if it was renewed, add its SHA-256 there; otherwise avoid this network",
                )
            }
            TlsProblem::UnknownIssuer(Some(certificate)) => Reason::new(
                format!(
                    "the certificate of \"{}\" is signed by an untrusted authority, \"{}\"",
                    certificate.subject, certificate.issuer
                ),
                "the authority is private, intermediate certificates are missing from the chain, or a device on the path intercepts TLS",
                remedy,
            ),
            _ => Reason::new(
                "the certificate is signed by an untrusted authority",
                "",
                remedy,
            ),
        }
    }

    /// Describes a certificate that does not match the name or the current time.
    fn describe_mismatch(&self, peer: DialPeer) -> Reason {
        let clock = format!("this machine's time is {}", format_utc(now()));
        match self {
            TlsProblem::WrongName(certificate) => {
                let names = certificate
                    .as_deref()
                    .map_or_else(|| "other names".to_owned(), CertificateInfo::display_names);
                let issuer = certificate
                    .as_deref()
                    .map_or("an unknown issuer", |certificate| {
                        certificate.issuer.as_str()
                    });
                Reason::new(
                    format!(
                        "the certificate is not for this name, it is for {names} (signed by \"{issuer}\")"
                    ),
                    "the address belongs to another site, or the certificate is for another name",
                    match peer {
                        DialPeer::Master => {
                            "write the certificate's name in `master` or `tls.server_name`"
                        }
                        DialPeer::Proxy => "write the certificate's name in `proxy`",
                    },
                )
            }
            TlsProblem::Expired(certificate) => {
                let until = certificate
                    .as_ref()
                    .map_or_else(String::new, |certificate| {
                        format!(
                            " (valid until {}, signed by \"{}\")",
                            format_utc(certificate.not_after),
                            certificate.issuer
                        )
                    });
                Reason::new(
                    format!("the certificate has expired{until}; {clock}"),
                    "",
                    "renew it, or correct this machine's clock",
                )
            }
            _ => {
                let certificate = match self {
                    TlsProblem::NotYetValid(certificate) => certificate.as_ref(),
                    _ => None,
                };
                let from = certificate.map_or_else(String::new, |certificate| {
                    format!(" (valid from {})", format_utc(certificate.not_before))
                });
                Reason::new(
                    format!("the certificate is not valid yet{from}; {clock}"),
                    "this machine's clock is slow, as after a power-off without a battery",
                    "set this machine's clock",
                )
            }
        }
    }

    /// Describes a handshake that failed without a certificate to verify.
    fn describe_handshake_failure(&self, peer: DialPeer) -> Reason {
        let plain = match peer {
            DialPeer::Master => "write ws:// in `master`, or the port of the TLS endpoint",
            DialPeer::Proxy => "write http:// in `proxy`, or the port at which it speaks TLS",
        };
        match self {
            TlsProblem::TooOld(detail) => Reason::new(
                format!(
                    "there is no common TLS version ({detail}); rePort supports TLS 1.2 and 1.3"
                ),
                "the server, or a device that intercepts TLS, supports only TLS 1.1 or older",
                "enable TLS 1.2 on the server (nginx: `ssl_protocols TLSv1.2 TLSv1.3`)",
            ),
            TlsProblem::NothingInCommon(detail) => Reason::new(
                format!(
                    "there is no common TLS version or cipher ({detail}); rePort supports TLS 1.2 and 1.3"
                ),
                "the server is old, or allows few ciphers",
                "enable TLS 1.2 with ECDHE and AES-GCM on the server (nginx: `ssl_protocols TLSv1.2 TLSv1.3`)",
            ),
            TlsProblem::PlainHttp(detail) => Reason::new(
                format!("the port does not speak TLS, it speaks plain HTTP ({detail:?})"),
                "",
                plain,
            ),
            TlsProblem::NotTls(detail) => Reason::new(
                format!("the port does not speak TLS (it sent {detail:?})"),
                "",
                plain,
            ),
            TlsProblem::Cut(how) => Reason::new(
                format!(
                    "the connection was {how} right after the ClientHello, before any response"
                ),
                "a firewall filters by the name in it (SNI), or the port does not speak TLS",
                "try another name in `tls.server_name`, another port, another network or a proxy; check that the port speaks TLS",
            ),
            TlsProblem::ClientCertificate(detail) => Reason::new(
                format!("the handshake failed: {detail}"),
                "the server requires a client certificate, or rejects the one presented",
                "set `tls.client_cert` and `tls.client_key`",
            ),
            TlsProblem::NoSuchSite(detail) => Reason::new(
                format!("the handshake failed: {detail}"),
                "the server has no site with this name",
                format!(
                    "check the host in `{}`, or write the site's name in `tls.server_name`",
                    peer.field()
                ),
            ),
            TlsProblem::Handshake(detail) => Reason::new(
                format!("the handshake failed: {detail}"),
                "a device on the path breaks TLS, or the server does",
                "check the server's log, and try from another network",
            ),
            _ => Reason::new("TLS failed", "", plain),
        }
    }
}

/// Suggests pinning the certificate. Proxies cannot be pinned.
fn pin_hint(peer: DialPeer, certificate: Option<&CertificateInfo>) -> String {
    match (peer, certificate) {
        (DialPeer::Master, Some(found)) => format!(
            ", or write \"pin_sha256\": \"{}\" in `tls`",
            found.fingerprint()
        ),
        _ => String::new(),
    }
}

/// Classifies a failed handshake from its error, the certificate chain and the first bytes
/// received.
pub(super) fn tls_problem(
    error: &io::Error,
    presented: &[CertificateDer<'_>],
    first: Option<&FirstBytes>,
) -> TlsProblem {
    let first = first.and_then(|first| first.get());
    let Some(rustls) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    else {
        let nothing_received = first.is_none_or(|first| first.is_empty());
        return match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe if nothing_received => {
                TlsProblem::Cut("reset")
            }
            io::ErrorKind::UnexpectedEof if nothing_received => TlsProblem::Cut("closed"),
            io::ErrorKind::UnexpectedEof => {
                TlsProblem::Handshake("the connection was closed in the middle".to_owned())
            }
            _ => TlsProblem::Handshake(error.to_string()),
        };
    };
    let first_line = || evidence(first.map_or(&[][..], |first| first));
    match rustls {
        rustls::Error::InvalidCertificate(reason) => certificate_problem(reason, presented),
        rustls::Error::InvalidMessage(_)
            if first.is_some_and(|first| first.starts_with(b"HTTP/")) =>
        {
            TlsProblem::PlainHttp(first_line())
        }
        rustls::Error::InvalidMessage(_) => TlsProblem::NotTls(first_line()),
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

fn certificate_problem(reason: &CertificateError, presented: &[CertificateDer<'_>]) -> TlsProblem {
    let chain: Vec<CertificateInfo> = presented
        .iter()
        .filter_map(|presented| CertificateInfo::read(presented))
        .collect();
    let own = chain.first().cloned().map(Box::new);
    match reason {
        // A bad signature means that the authority was recreated under the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            let by = chain.iter().find_map(CertificateInfo::inspector);
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
            // The verifier's own error type is not accessible here, so match its name.
            None if format!("{other:?}").contains("CaUsedAsEndEntity") => {
                TlsProblem::Authority(own)
            }
            None => TlsProblem::OtherCertificate(reason.to_string(), own),
        },
        other => TlsProblem::OtherCertificate(other.to_string(), own),
    }
}
