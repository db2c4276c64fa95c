//! The words for TLS handshake failures: evidence, likely cause and remedy.

use super::{DialPeer, tls_problem::TlsProblem};
use crate::{
    diagnosis::Diagnosis,
    net::tls::{CertificateInfo, format_utc, now},
};

impl TlsProblem {
    /// Returns the evidence, the likely cause and the remedy.
    pub(super) fn diagnosis(&self, peer: DialPeer) -> Diagnosis {
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
    fn describe_untrusted(&self, peer: DialPeer) -> Diagnosis {
        let remedy =
            "set `tls.ca` to the authority's PEM file, or complete the server's certificate chain";
        match self {
            TlsProblem::Intercepted { by, certificate } => Diagnosis::new(
                self.code(),
                format!(
                    "the certificate is signed by an untrusted authority, \"{}\"",
                    certificate.issuer
                ),
                format!("{by} intercepts TLS"),
                format!(
                    "set `tls.ca` to its root (the file that this network gives to its machines), or exempt this host in {by}"
                ),
            ),
            TlsProblem::SelfSigned(certificate) => Diagnosis::new(
                self.code(),
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
            TlsProblem::Authority(certificate) => Diagnosis::new(
                self.code(),
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
                Diagnosis::new(
                    self.code(),
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
                Diagnosis::new(
                    self.code(),
                    evidence,
                    cause,
                    "if it was renewed, add its SHA-256 there; otherwise avoid this network",
                )
            }
            TlsProblem::UnknownIssuer(Some(certificate)) => Diagnosis::new(
                self.code(),
                format!(
                    "the certificate of \"{}\" is signed by an untrusted authority, \"{}\"",
                    certificate.subject, certificate.issuer
                ),
                "the authority is private, intermediate certificates are missing from the chain, or a device on the path intercepts TLS",
                remedy,
            ),
            _ => Diagnosis::new(
                self.code(),
                "the certificate is signed by an untrusted authority",
                "",
                remedy,
            ),
        }
    }

    /// Describes a certificate that does not match the name or the current time.
    fn describe_mismatch(&self, peer: DialPeer) -> Diagnosis {
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
                Diagnosis::new(
                    self.code(),
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
                Diagnosis::new(
                    self.code(),
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
                Diagnosis::new(
                    self.code(),
                    format!("the certificate is not valid yet{from}; {clock}"),
                    "this machine's clock is slow, as after a power-off without a battery",
                    "set this machine's clock",
                )
            }
        }
    }

    /// Describes a handshake that failed without a certificate to verify.
    fn describe_handshake_failure(&self, peer: DialPeer) -> Diagnosis {
        let plain = match peer {
            DialPeer::Master => "write ws:// in `master`, or the port of the TLS endpoint",
            DialPeer::Proxy => "write http:// in `proxy`, or the port at which it speaks TLS",
        };
        match self {
            TlsProblem::TooOld(detail) => Diagnosis::new(
                self.code(),
                format!(
                    "there is no common TLS version ({detail}); rePort supports TLS 1.2 and 1.3"
                ),
                "the server, or a device that intercepts TLS, supports only TLS 1.1 or older",
                "enable TLS 1.2 on the server (nginx: `ssl_protocols TLSv1.2 TLSv1.3`)",
            ),
            TlsProblem::NothingInCommon(detail) => Diagnosis::new(
                self.code(),
                format!(
                    "there is no common TLS version or cipher ({detail}); rePort supports TLS 1.2 and 1.3"
                ),
                "the server is old, or allows few ciphers",
                "enable TLS 1.2 with ECDHE and AES-GCM on the server (nginx: `ssl_protocols TLSv1.2 TLSv1.3`)",
            ),
            TlsProblem::PlainHttp(detail) => Diagnosis::new(
                self.code(),
                format!("the port does not speak TLS, it speaks plain HTTP ({detail:?})"),
                "",
                plain,
            ),
            TlsProblem::NotTls(detail) => Diagnosis::new(
                self.code(),
                format!("the port does not speak TLS (it sent {detail:?})"),
                "",
                plain,
            ),
            TlsProblem::Cut(how) => Diagnosis::new(
                self.code(),
                format!(
                    "the connection was {how} right after the ClientHello, before any response"
                ),
                "a firewall filters by the name in it (SNI), or the port does not speak TLS",
                "try another name in `tls.server_name`, another port, another network or a proxy; check that the port speaks TLS",
            ),
            TlsProblem::ClientCertificate(detail) => Diagnosis::new(
                self.code(),
                format!("the handshake failed: {detail}"),
                "the server requires a client certificate, or rejects the one presented",
                "set `tls.client_cert` and `tls.client_key`",
            ),
            TlsProblem::NoSuchSite(detail) => Diagnosis::new(
                self.code(),
                format!("the handshake failed: {detail}"),
                "the server has no site with this name",
                format!(
                    "check the host in `{}`, or write the site's name in `tls.server_name`",
                    peer.field()
                ),
            ),
            TlsProblem::Handshake(detail) => Diagnosis::new(
                self.code(),
                format!("the handshake failed: {detail}"),
                "a device on the path breaks TLS, or the server does",
                "check the server's log, and try from another network",
            ),
            _ => Diagnosis::new(self.code(), "TLS failed", "", plain),
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
