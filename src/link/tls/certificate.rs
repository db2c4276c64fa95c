//! What a certificate says of itself, for whoever has to judge why it does not verify. Verifies nothing.

use std::net::IpAddr;

use aws_lc_rs::digest::{SHA256, digest};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time,
    x509::X509Name,
};

use super::inspection::inspector;

/// Characters of a name that are shown: whoever made the certificate chose them.
const NAME_LENGTH: usize = 160;

/// Names of a certificate that are shown.
const NAMES_SHOWN: usize = 8;

/// Seconds of a day.
const DAY: i64 = 86_400;

/// A certificate's own words, made fit for a line of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Whose it is.
    pub subject: String,
    /// Who signed it, by its own account.
    pub issuer: String,
    /// The names and addresses that it is for.
    pub names: Vec<String>,
    /// From when it is valid, in seconds since 1970.
    pub not_before: i64,
    /// Until when.
    pub not_after: i64,
    /// Of the whole certificate, as `tls.pin_sha256` takes it.
    pub sha256: [u8; 32],
    /// Whether its subject is its issuer.
    pub is_self_signed: bool,
}

impl Certificate {
    /// Reads a certificate; `None` when that cannot be done.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, der).as_ref());
        let validity = certificate.validity();
        Some(Certificate {
            subject: name_of(certificate.subject()),
            issuer: name_of(certificate.issuer()),
            names: names_of(&certificate),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
            sha256,
            is_self_signed: certificate.subject().as_raw() == certificate.issuer().as_raw(),
        })
    }

    /// What opens TLS on the way and signed this, as far as its issuer's name tells.
    #[must_use]
    pub fn inspector(&self) -> Option<&'static str> {
        inspector(&self.issuer)
    }

    /// The digits of its SHA-256.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.sha256
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// The names that it is for, as many as fit into a line.
    #[must_use]
    pub fn names_shown(&self) -> String {
        let shown: Vec<String> = self
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
            (_, 0) => shown.join(", "),
            (_, more) => format!("{} and {more} more", shown.join(", ")),
        }
    }

    /// Whole days from now until it expires; negative when it has.
    #[must_use]
    pub fn days_left(&self) -> i64 {
        self.not_after.saturating_sub(now()).div_euclid(DAY)
    }
}

/// This machine's time, in seconds since 1970.
#[must_use]
pub fn now() -> i64 {
    ASN1Time::now().timestamp()
}

/// Seconds since 1970 as a date and a time of day, in UTC.
#[must_use]
pub fn moment(seconds: i64) -> String {
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
    let text = clean(&name.to_string());
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
        GeneralName::DNSName(name) => Some(clean(name)),
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

/// Without control characters, and not longer than is read.
fn clean(text: &str) -> String {
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

    fn made(change: impl FnOnce(&mut CertificateParams)) -> Certificate {
        let mut params =
            CertificateParams::new(["localhost".to_owned(), "::1".to_owned()]).unwrap();
        change(&mut params);
        Certificate::read(
            params
                .self_signed(&KeyPair::generate().unwrap())
                .unwrap()
                .der(),
        )
        .unwrap()
    }

    #[test]
    fn a_certificate_says_whose_it_is_and_what_for() {
        let certificate = made(|params| {
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
        assert_eq!(moment(certificate.not_before), "2001-02-03 00:00 UTC");
        assert_eq!(certificate.fingerprint().len(), 64);
    }

    #[test]
    fn what_is_no_certificate_is_not_read_and_no_date_is_too_far() {
        for bytes in [
            &b""[..],
            b"\x30",
            b"-----BEGIN CERTIFICATE-----",
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(Certificate::read(bytes), None);
        }
        assert!(moment(i64::MAX).contains("1970") && moment(i64::MIN).contains("1970"));
        assert_eq!(moment(0), "1970-01-01 00:00 UTC");
    }

    #[test]
    fn many_names_are_counted() {
        let names: Vec<String> = (0..10)
            .map(|number| format!("{number}.example.com"))
            .collect();
        let certificate = Certificate {
            names,
            ..made(|_| ())
        };
        assert!(
            certificate
                .names_shown()
                .ends_with("\"7.example.com\" and 2 more"),
            "{}",
            certificate.names_shown()
        );
        assert_eq!(
            Certificate {
                names: Vec::new(),
                ..certificate
            }
            .names_shown(),
            "no name at all"
        );
    }
}
