//! TLS handshake failures: classifies the error of the library and the evidence from the peer.

use std::{fmt, io};

use rustls::{AlertDescription, CertificateError, PeerIncompatible, pki_types::CertificateDer};

use super::{DialPeer, first_bytes::FirstBytes};
use crate::{
    diagnosis::DiagnosisCode,
    net::{
        evidence::first_line,
        tls::{CertificateInfo, PinMismatch},
    },
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
}

/// Classifies a failed handshake from its error, the certificate chain and the first bytes
/// received.
pub(super) fn tls_problem(
    error: io::Error,
    presented: &[CertificateDer<'_>],
    first: Option<&FirstBytes>,
) -> TlsProblem {
    let first = first.and_then(|first| first.get());
    let inner = error.get_ref();
    let Some(rustls) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        let nothing_received = first.is_none_or(|first| first.is_empty());
        return match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe if nothing_received => {
                TlsProblem::Cut(ConnectionEnd::Reset)
            }
            io::ErrorKind::UnexpectedEof if nothing_received => {
                TlsProblem::Cut(ConnectionEnd::Closed)
            }
            io::ErrorKind::UnexpectedEof => TlsProblem::Handshake(HandshakeFault::ClosedMidway),
            _ => TlsProblem::Handshake(HandshakeFault::Io(error)),
        };
    };
    let received = || first_line(first.map_or(&[][..], |first| first));
    match rustls {
        rustls::Error::InvalidCertificate(reason) => certificate_problem(reason, presented),
        rustls::Error::InvalidMessage(_)
            if first.is_some_and(|first| first.starts_with(b"HTTP/")) =>
        {
            TlsProblem::PlainHttp(received())
        }
        rustls::Error::InvalidMessage(_) => TlsProblem::NotTls(received()),
        rustls::Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13)
        | rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            TlsProblem::TooOld(Box::new(rustls.clone()))
        }
        rustls::Error::PeerIncompatible(_)
        | rustls::Error::AlertReceived(
            AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity,
        ) => TlsProblem::NothingInCommon(Box::new(rustls.clone())),
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::AccessDenied,
        ) => TlsProblem::ClientCertificate(Box::new(rustls.clone())),
        rustls::Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            TlsProblem::NoSuchSite(Box::new(rustls.clone()))
        }
        other => TlsProblem::Handshake(HandshakeFault::Tls(Box::new(other.clone()))),
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
        CertificateError::Other(other) => {
            if let Some(mismatch) = other.0.downcast_ref::<PinMismatch>() {
                return TlsProblem::Pin(*mismatch, own);
            }
            match other.0.downcast_ref::<webpki::Error>() {
                Some(webpki::Error::CaUsedAsEndEntity) => TlsProblem::Authority(own),
                _ => TlsProblem::OtherCertificate(Box::new(reason.clone()), own),
            }
        }
        other => TlsProblem::OtherCertificate(Box::new(other.clone()), own),
    }
}
