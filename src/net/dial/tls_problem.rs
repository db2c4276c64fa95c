//! Why a TLS handshake failed: the problem, and its evidence, likely cause and remedy.

use std::{borrow::Cow, fmt, io};

use rustls::CertificateError;

use super::step::DialPeer;
use crate::{
    diagnosis::{Diagnosis, DiagnosisCode},
    net::tls::{CertificateInfo, PinMismatch, format_utc, now},
};

/// Why TLS could not be established.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.diagnosis(DialPeer::Master))]
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
    OtherCertificate(Box<CertificateError>, Option<Box<CertificateInfo>>),
    /// The certificate does not match any pin.
    Pin(PinMismatch, Option<Box<CertificateInfo>>),
    /// The peer supports only TLS 1.1 or older.
    TooOld(Box<rustls::Error>),
    /// The peer and rePort share no TLS version or cipher.
    NothingInCommon(Box<rustls::Error>),
    /// The port speaks plain HTTP. Holds the first bytes received.
    PlainHttp(String),
    /// The port does not speak TLS. Holds the first bytes received.
    NotTls(String),
    /// The connection ended right after the ClientHello, which shows the host name in the clear.
    Cut(ConnectionEnd),
    /// The peer requires a client certificate, or rejects the one presented.
    ClientCertificate(Box<rustls::Error>),
    /// The peer has no site with this name.
    NoSuchSite(Box<rustls::Error>),
    /// The handshake failed for another reason.
    Handshake(HandshakeFault),
}

/// How the peer ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// With a reset.
    Reset,
    /// With an end of file.
    Closed,
}

impl fmt::Display for ConnectionEnd {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            ConnectionEnd::Reset => "reset",
            ConnectionEnd::Closed => "closed",
        })
    }
}

/// Why a handshake failed, without a known cause.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeFault {
    /// The peer closed the connection after it had answered.
    #[error("the connection was closed in the middle")]
    ClosedMidway,
    /// The connection failed.
    #[error("{0}")]
    Io(io::Error),
    /// TLS failed.
    #[error("{0}")]
    Tls(Box<rustls::Error>),
}

impl TlsProblem {
    /// Returns the code of the problem.
    #[must_use]
    pub fn code(&self) -> DiagnosisCode {
        match self {
            TlsProblem::UnknownIssuer(_) => DiagnosisCode::TlsUntrusted,
            TlsProblem::Intercepted { .. } => DiagnosisCode::TlsIntercepted,
            TlsProblem::SelfSigned(_) => DiagnosisCode::TlsSelfSigned,
            TlsProblem::WrongName(_) => DiagnosisCode::TlsWrongName,
            TlsProblem::Expired(_) => DiagnosisCode::TlsExpired,
            TlsProblem::NotYetValid(_) => DiagnosisCode::TlsNotYetValid,
            TlsProblem::Authority(_) => DiagnosisCode::TlsAuthorityCertificate,
            TlsProblem::OtherCertificate(..) => DiagnosisCode::TlsCertificateInvalid,
            TlsProblem::Pin(..) => DiagnosisCode::TlsPinMismatch,
            TlsProblem::TooOld(_) => DiagnosisCode::TlsTooOld,
            TlsProblem::NothingInCommon(_) => DiagnosisCode::TlsNothingInCommon,
            TlsProblem::PlainHttp(_) => DiagnosisCode::TlsPlainHttp,
            TlsProblem::NotTls(_) => DiagnosisCode::TlsNotSpoken,
            TlsProblem::Cut(_) => DiagnosisCode::TlsCut,
            TlsProblem::ClientCertificate(_) => DiagnosisCode::TlsClientCertificate,
            TlsProblem::NoSuchSite(_) => DiagnosisCode::TlsNoSuchSite,
            TlsProblem::Handshake(_) => DiagnosisCode::TlsFailed,
        }
    }

    /// Returns the evidence, the likely cause and the remedy.
    pub(super) fn diagnosis(&self, peer: DialPeer) -> Diagnosis {
        Diagnosis::new(
            self.code(),
            self.evidence(),
            self.cause(),
            self.remedy(peer),
        )
    }

    fn evidence(&self) -> String {
        match self {
            TlsProblem::UnknownIssuer(certificate) => unknown_issuer(certificate.as_deref()),
            TlsProblem::Intercepted { certificate, .. } => format!(
                "the certificate is signed by an untrusted authority, \"{}\"",
                certificate.issuer
            ),
            TlsProblem::SelfSigned(certificate) => format!(
                "the certificate of \"{}\" is self-signed and not trusted",
                certificate.subject
            ),
            TlsProblem::WrongName(certificate) => wrong_name(certificate.as_deref()),
            TlsProblem::Expired(certificate) => expired(certificate.as_deref()),
            TlsProblem::NotYetValid(certificate) => not_yet_valid(certificate.as_deref()),
            TlsProblem::Authority(_) => {
                "the server presents the certificate of an authority as its own".to_owned()
            }
            TlsProblem::OtherCertificate(problem, certificate) => {
                unverified(problem, certificate.as_deref())
            }
            TlsProblem::Pin(found, _) => {
                format!("the SHA-256 of the certificate, {found}, is not in `tls.pin_sha256`")
            }
            TlsProblem::TooOld(detail) => format!(
                "there is no common TLS version ({detail}); rePort supports TLS 1.2 and 1.3"
            ),
            TlsProblem::NothingInCommon(detail) => format!(
                "there is no common TLS version or cipher ({detail}); rePort supports TLS 1.2 and 1.3"
            ),
            TlsProblem::PlainHttp(received) => {
                format!("the port does not speak TLS, it speaks plain HTTP ({received:?})")
            }
            TlsProblem::NotTls(received) => {
                format!("the port does not speak TLS (it sent {received:?})")
            }
            TlsProblem::Cut(end) => {
                format!("the connection was {end} right after the ClientHello, before any response")
            }
            TlsProblem::ClientCertificate(detail) | TlsProblem::NoSuchSite(detail) => {
                format!("the handshake failed: {detail}")
            }
            TlsProblem::Handshake(fault) => format!("the handshake failed: {fault}"),
        }
    }

    fn cause(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            TlsProblem::Intercepted { by, .. } => return intercepts(by),
            TlsProblem::Pin(_, certificate) => {
                let by = certificate.as_deref().and_then(CertificateInfo::inspector);
                return by.map_or(
                    "a device on the path intercepts TLS, or the certificate was renewed".into(),
                    intercepts,
                );
            }
            TlsProblem::UnknownIssuer(Some(_)) => {
                "the authority is private, intermediate certificates are missing from the chain, or a device on the path intercepts TLS"
            }
            TlsProblem::SelfSigned(_) => {
                "it is a test certificate, or that of a device on the path"
            }
            TlsProblem::Authority(_) => "`openssl req -x509` creates such a certificate by default",
            TlsProblem::WrongName(_) => {
                "the address belongs to another site, or the certificate is for another name"
            }
            TlsProblem::NotYetValid(_) => {
                "this machine's clock is slow, as after a power-off without a battery"
            }
            TlsProblem::TooOld(_) => {
                "the server, or a device that intercepts TLS, supports only TLS 1.1 or older"
            }
            TlsProblem::NothingInCommon(_) => "the server is old, or allows few ciphers",
            TlsProblem::Cut(_) => {
                "a firewall filters by the name in it (SNI), or the port does not speak TLS"
            }
            TlsProblem::ClientCertificate(_) => {
                "the server requires a client certificate, or rejects the one presented"
            }
            TlsProblem::NoSuchSite(_) => "the server has no site with this name",
            TlsProblem::Handshake(_) => "a device on the path breaks TLS, or the server does",
            TlsProblem::UnknownIssuer(None)
            | TlsProblem::Expired(_)
            | TlsProblem::OtherCertificate(..)
            | TlsProblem::PlainHttp(_)
            | TlsProblem::NotTls(_) => "",
        })
    }

    fn remedy(&self, peer: DialPeer) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            TlsProblem::UnknownIssuer(_) => {
                "set `tls.ca` to the authority's PEM file, or complete the server's certificate chain"
            }
            TlsProblem::Intercepted { by, .. } => {
                return format!("set `tls.ca` to its root (the file that this network gives to its machines), or exempt this host in {by}").into();
            }
            TlsProblem::SelfSigned(certificate) => {
                let pin = pin_hint(peer, Some(certificate));
                return format!("if it is the right one, set `tls.ca` to its PEM file{pin}").into();
            }
            TlsProblem::Authority(certificate) => {
                let pin = pin_hint(peer, certificate.as_deref());
                return format!("create a certificate with basicConstraints=CA:FALSE{pin}").into();
            }
            TlsProblem::NoSuchSite(_) => {
                let field = peer.field();
                return format!(
                    "check the host in `{field}`, or write the site's name in `tls.server_name`"
                )
                .into();
            }
            TlsProblem::WrongName(_) => match peer {
                DialPeer::Master => "write the certificate's name in `master` or `tls.server_name`",
                DialPeer::Proxy => "write the certificate's name in `proxy`",
            },
            TlsProblem::Expired(_) => "renew it, or correct this machine's clock",
            TlsProblem::NotYetValid(_) => "set this machine's clock",
            TlsProblem::OtherCertificate(..) => "issue a new certificate",
            TlsProblem::Pin(..) => {
                "if it was renewed, add its SHA-256 there; otherwise avoid this network"
            }
            TlsProblem::TooOld(_) => {
                "enable TLS 1.2 on the server (nginx: `ssl_protocols TLSv1.2 TLSv1.3`)"
            }
            TlsProblem::NothingInCommon(_) => {
                "enable TLS 1.2 with ECDHE and AES-GCM on the server (nginx: `ssl_protocols TLSv1.2 TLSv1.3`)"
            }
            TlsProblem::PlainHttp(_) | TlsProblem::NotTls(_) => match peer {
                DialPeer::Master => "write ws:// in `master`, or the port of the TLS endpoint",
                DialPeer::Proxy => "write http:// in `proxy`, or the port at which it speaks TLS",
            },
            TlsProblem::Cut(_) => {
                "try another name in `tls.server_name`, another port, another network or a proxy; check that the port speaks TLS"
            }
            TlsProblem::ClientCertificate(_) => "set `tls.client_cert` and `tls.client_key`",
            TlsProblem::Handshake(_) => "check the server's log, and try from another network",
        })
    }
}

fn intercepts(by: &'static str) -> Cow<'static, str> {
    format!("{by} intercepts TLS").into()
}

fn unknown_issuer(certificate: Option<&CertificateInfo>) -> String {
    match certificate {
        None => "the certificate is signed by an untrusted authority".to_owned(),
        Some(found) => format!(
            "the certificate of \"{}\" is signed by an untrusted authority, \"{}\"",
            found.subject, found.issuer
        ),
    }
}

fn unverified(problem: &CertificateError, certificate: Option<&CertificateInfo>) -> String {
    let of = certificate.map_or_else(String::new, |found| format!(" of \"{}\"", found.subject));
    format!("the certificate{of} does not verify: {problem}")
}

fn wrong_name(certificate: Option<&CertificateInfo>) -> String {
    let names =
        certificate.map_or_else(|| "other names".to_owned(), CertificateInfo::display_names);
    let issuer = certificate.map_or("an unknown issuer", |found| found.issuer.as_str());
    format!("the certificate is not for this name, it is for {names} (signed by \"{issuer}\")")
}

fn expired(certificate: Option<&CertificateInfo>) -> String {
    let until = certificate.map_or_else(String::new, |found| {
        format!(
            " (valid until {}, signed by \"{}\")",
            format_utc(found.not_after),
            found.issuer
        )
    });
    format!("the certificate has expired{until}; {}", local_time())
}

fn not_yet_valid(certificate: Option<&CertificateInfo>) -> String {
    let from = certificate.map_or_else(String::new, |found| {
        format!(" (valid from {})", format_utc(found.not_before))
    });
    format!("the certificate is not valid yet{from}; {}", local_time())
}

fn local_time() -> String {
    format!("this machine's time is {}", format_utc(now()))
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
