//! Classifies failed TLS handshakes by the error of the library and the evidence from the peer.

use std::io;

use rustls::{AlertDescription, CertificateError, PeerIncompatible, pki_types::CertificateDer};

use super::{
    first_bytes::FirstBytes,
    tls_problem::{ConnectionEnd, HandshakeFault, TlsProblem},
};
use crate::net::{
    evidence::first_line,
    tls::{CertificateInfo, PinMismatch},
};

/// Classifies a failed handshake from its error, the certificate chain and the first bytes
/// received.
pub(super) fn tls_problem(
    error: io::Error,
    presented: &[CertificateDer<'_>],
    first: Option<&FirstBytes>,
) -> TlsProblem {
    let first = first.and_then(|first| first.get());
    let received: &[u8] = first.map_or(&[][..], |first| first);
    let inner = error.get_ref();
    match inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => protocol_problem(error, presented, received),
        None => connection_problem(error, received.is_empty()),
    }
}

/// Classifies a failure of the connection below TLS.
fn connection_problem(error: io::Error, nothing_received: bool) -> TlsProblem {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe if nothing_received => {
            TlsProblem::Cut(ConnectionEnd::Reset)
        }
        io::ErrorKind::UnexpectedEof if nothing_received => TlsProblem::Cut(ConnectionEnd::Closed),
        io::ErrorKind::UnexpectedEof => TlsProblem::Handshake(HandshakeFault::ClosedMidway),
        _ => TlsProblem::Handshake(HandshakeFault::Io(error)),
    }
}

/// Classifies an error of TLS itself.
fn protocol_problem(
    error: &rustls::Error,
    presented: &[CertificateDer<'_>],
    received: &[u8],
) -> TlsProblem {
    let boxed = || Box::new(error.clone());
    match error {
        rustls::Error::InvalidCertificate(reason) => certificate_problem(reason, presented),
        rustls::Error::InvalidMessage(_) if received.starts_with(b"HTTP/") => {
            TlsProblem::PlainHttp(first_line(received))
        }
        rustls::Error::InvalidMessage(_) => TlsProblem::NotTls(first_line(received)),
        rustls::Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13)
        | rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            TlsProblem::TooOld(boxed())
        }
        rustls::Error::PeerIncompatible(_)
        | rustls::Error::AlertReceived(
            AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity,
        ) => TlsProblem::NothingInCommon(boxed()),
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::AccessDenied,
        ) => TlsProblem::ClientCertificate(boxed()),
        rustls::Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            TlsProblem::NoSuchSite(boxed())
        }
        _ => TlsProblem::Handshake(HandshakeFault::Tls(boxed())),
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
