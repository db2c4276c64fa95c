//! Reads the fields of a certificate, for diagnostics. Verifies nothing.

use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time,
    x509::X509Name,
};

use crate::net::middlebox::inspector;

/// The maximum number of characters of a name. The creator of the certificate chooses the names.
const NAME_LENGTH: usize = 160;

/// The maximum number of alternative names in a message.
const NAMES_SHOWN: usize = 8;

/// Seconds per day.
const DAY: i64 = 86_400;

/// The fields of a certificate, without control characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// The subject's name.
    pub subject: String,
    /// The issuer's name, as the certificate states it.
    pub issuer: String,
    /// The names and addresses that the certificate is for.
    pub names: Vec<String>,
    /// The start of the validity, in seconds since 1970.
    pub not_before: i64,
    /// The end of the validity, in seconds since 1970.
    pub not_after: i64,
    /// The SHA-256 of the whole certificate, as in `tls.pin_sha256`.
    pub sha256: [u8; 32],
    /// Whether the subject equals the issuer.
    pub is_self_signed: bool,
}

impl CertificateInfo {
    /// Reads a certificate. Returns `None` if it cannot be parsed.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, der).as_ref());
        let validity = certificate.validity();
        Some(CertificateInfo {
            subject: name_of(certificate.subject()),
            issuer: name_of(certificate.issuer()),
            names: names_of(&certificate),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
            sha256,
            is_self_signed: certificate.subject().as_raw() == certificate.issuer().as_raw(),
        })
    }

    /// Returns the TLS-intercepting product that signed this certificate, if its issuer's name
    /// identifies one.
    #[must_use]
    pub fn inspector(&self) -> Option<&'static str> {
        inspector(&self.issuer)
    }

    /// Returns the SHA-256 as hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.sha256
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Returns the first alternative names, as many as fit into a line.
    #[must_use]
    pub fn display_names(&self) -> String {
        let quoted: Vec<String> = self
            .names
            .iter()
            .take(NAMES_SHOWN)
            .map(|name| format!("\"{name}\""))
            .collect();
        match (
            self.names.len(),
            self.names.len().saturating_sub(NAMES_SHOWN),
        ) {
            (0, _) => "no name at all".to_owned(),
            (_, 0) => quoted.join(", "),
            (_, more) => format!("{} and {more} more", quoted.join(", ")),
        }
    }

    /// Returns the whole days until the certificate expires; negative if it has expired.
    #[must_use]
    pub fn days_left(&self) -> i64 {
        self.not_after.saturating_sub(now()).div_euclid(DAY)
    }
}

/// Returns this machine's time, in seconds since 1970.
#[must_use]
pub fn now() -> i64 {
    ASN1Time::now().timestamp()
}

/// Formats seconds since 1970 as a date and time in UTC.
#[must_use]
pub fn format_utc(seconds: i64) -> String {
    let Ok(time) = ASN1Time::from_timestamp(seconds) else {
        return format!("{seconds} s after 1970");
    };
    let time = time.to_datetime();
    let (month, day) = (u8::from(time.month()), time.day());
    format!(
        "{:04}-{month:02}-{day:02} {:02}:{:02} UTC",
        time.year(),
        time.hour(),
        time.minute()
    )
}

fn name_of(name: &X509Name<'_>) -> String {
    let text = sanitize(&name.to_string());
    if text.is_empty() {
        "(no name)".to_owned()
    } else {
        text
    }
}

fn names_of(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(alternatives)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(sanitize(name)),
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
        _ => None,
    };
    alternatives
        .value
        .general_names
        .iter()
        .filter_map(name)
        .collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Replaces control characters and truncates to the maximum length.
fn sanitize(text: &str) -> String {
    let printable = |character: char| {
        if character.is_control() {
            ' '
        } else {
            character
        }
    };
    text.chars()
        .map(printable)
        .take(NAME_LENGTH)
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn certificate_with(change: impl FnOnce(&mut CertificateParams)) -> CertificateInfo {
        let mut params =
            CertificateParams::new(["localhost".to_owned(), "::1".to_owned()]).unwrap();
        change(&mut params);
        CertificateInfo::read(
            params
                .self_signed(&KeyPair::generate().unwrap())
                .unwrap()
                .der(),
        )
        .unwrap()
    }

    #[test]
    fn certificate_fields_are_read() {
        let certificate = certificate_with(|params| {
            params
                .distinguished_name
                .push(DnType::CommonName, "a \u{1b}[31mmaster");
            params.not_before = rcgen::date_time_ymd(2001, 2, 3);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        });
        assert!(
            certificate.subject.contains("CN=a  [31mmaster"),
            "{certificate:?}"
        );
        assert_eq!(certificate.names, ["localhost", "::1"]);
        assert!(certificate.is_self_signed && certificate.days_left() < 0);
        assert_eq!(format_utc(certificate.not_before), "2001-02-03 00:00 UTC");
        assert_eq!(certificate.fingerprint().len(), 64);
    }

    #[test]
    fn invalid_certificates_are_rejected_and_extreme_dates_are_formatted() {
        for bytes in [
            &b""[..],
            b"\x30",
            b"-----BEGIN CERTIFICATE-----",
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(CertificateInfo::read(bytes), None);
        }
        assert!(format_utc(i64::MAX).contains("1970") && format_utc(i64::MIN).contains("1970"));
        assert_eq!(format_utc(0), "1970-01-01 00:00 UTC");
    }

    #[test]
    fn surplus_names_are_counted() {
        let names: Vec<String> = (0..10)
            .map(|number| format!("{number}.example.com"))
            .collect();
        let certificate = CertificateInfo {
            names,
            ..certificate_with(|_| ())
        };
        assert!(
            certificate
                .display_names()
                .ends_with("\"7.example.com\" and 2 more"),
            "{}",
            certificate.display_names()
        );
        assert_eq!(
            CertificateInfo {
                names: Vec::new(),
                ..certificate
            }
            .display_names(),
            "no name at all"
        );
    }
}
