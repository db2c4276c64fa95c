//! Recognises the product that answers in place of a master, and the product that intercepts TLS.
//! The marks are data: `known_middleboxes.json` lists them with their sources.

use std::sync::LazyLock;

use http::HeaderMap;
use serde::Deserialize;

use super::evidence::first_line;

/// The marks of all known products.
static KNOWN: LazyLock<KnownMiddleboxes<'static>> = LazyLock::new(|| {
    // A test parses the file, so an error cannot occur here. Without marks no product is recognised.
    serde_json::from_str(include_str!("known_middleboxes.json")).unwrap_or_default()
});

/// The contents of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct KnownMiddleboxes<'f> {
    /// For the readers of the file.
    #[serde(rename = "about", borrow)]
    _about: Vec<&'f str>,
    /// Headers to report as evidence: they name a program, or only one kind of proxy sets them. None
    /// holds a secret.
    #[serde(borrow)]
    identifying_headers: Vec<&'f str>,
    #[serde(borrow)]
    responses: Vec<ResponseMark<'f>>,
    #[serde(borrow)]
    inspectors: Vec<IssuerMark<'f>>,
}

/// A trait of a response that identifies a product: a header that is present, a header that contains
/// a text, or a text in the beginning of the body.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResponseMark<'f> {
    product: &'f str,
    header: Option<&'f str>,
    contains: Option<&'f str>,
    body: Option<&'f str>,
    #[serde(rename = "source")]
    _source: &'f str,
    #[serde(rename = "checked")]
    _checked: Option<&'f str>,
}

/// A part of an issuer's name, in lower case, that identifies a product which intercepts TLS. These
/// are default names; an operator can choose another one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IssuerMark<'f> {
    product: &'f str,
    issuer: &'f str,
    #[serde(rename = "source")]
    _source: &'f str,
    #[serde(rename = "checked")]
    _checked: Option<&'f str>,
}

impl ResponseMark<'_> {
    /// Returns whether a response has this mark. `body` is in lower case.
    fn matches(&self, headers: &HeaderMap, body: &str) -> bool {
        match (self.header, self.contains, self.body) {
            (_, _, Some(part)) => body.contains(part),
            (Some(name), Some(part), None) => {
                let mut values = headers.get_all(name).iter();
                values.any(|value| {
                    String::from_utf8_lossy(value.as_bytes())
                        .to_lowercase()
                        .contains(part)
                })
            }
            (Some(name), None, None) => headers.contains_key(name),
            (None, _, None) => false,
        }
    }
}

/// Returns the product that sent a response, if a mark identifies it.
#[must_use]
pub fn middlebox(headers: &HeaderMap, body: &[u8]) -> Option<&'static str> {
    let body = String::from_utf8_lossy(body).to_lowercase();
    let mark = KNOWN
        .responses
        .iter()
        .find(|mark| mark.matches(headers, &body))?;
    Some(mark.product)
}

/// Returns the headers that identify the sender, once each, as one line of text.
#[must_use]
pub fn identifying_headers(headers: &HeaderMap) -> Vec<(&'static str, String)> {
    let values = KNOWN.identifying_headers.iter().filter_map(|&name| {
        headers
            .get(name)
            .map(|value| (name, first_line(value.as_bytes())))
    });
    values.filter(|(_, value)| !value.is_empty()).collect()
}

/// Returns the product that intercepts TLS with this issuer's name.
#[must_use]
pub fn inspector(issuer: &str) -> Option<&'static str> {
    let issuer = issuer.to_lowercase();
    let mark = KNOWN
        .inspectors
        .iter()
        .find(|mark| has_word_prefix(&issuer, mark.issuer))?;
    Some(mark.product)
}

/// Returns whether `part` begins at a word boundary in `text`. "eset" does not match in "reset";
/// "do_not_trust_fiddlerroot" is Fiddler's own spelling.
fn has_word_prefix(text: &str, part: &str) -> bool {
    text.match_indices(part).any(|(at, _)| {
        let before = text.get(..at).and_then(|before| before.chars().next_back());
        !before.is_some_and(char::is_alphanumeric)
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn file_is_valid_and_every_mark_has_a_source() {
        let known: KnownMiddleboxes<'_> =
            serde_json::from_str(include_str!("known_middleboxes.json")).unwrap();
        assert!(known.responses.len() >= 41 && known.inspectors.len() >= 45);
        assert!(!known.identifying_headers.is_empty() && !known._about.is_empty());
        let is_date = |date: &str| {
            let parts: Vec<&str> = date.split('-').collect();
            parts.iter().map(|part| part.len()).eq([4, 2, 2])
                && date
                    .bytes()
                    .all(|byte| byte == b'-' || byte.is_ascii_digit())
        };
        let is_lower = |text: &str| !text.is_empty() && text.to_lowercase() == text;
        for mark in &known.responses {
            assert!(
                mark.header.is_some() != mark.body.is_some(),
                "a header or the body: {mark:?}"
            );
            assert!(mark.contains.is_none() || mark.header.is_some(), "{mark:?}");
            let texts = [mark.header, mark.contains, mark.body];
            assert!(texts.into_iter().flatten().all(is_lower), "{mark:?}");
            assert!(
                !mark.product.is_empty() && !mark._source.is_empty(),
                "{mark:?}"
            );
            assert!(mark._checked.is_none_or(is_date), "{mark:?}");
        }
        for mark in &known.inspectors {
            assert!(is_lower(mark.issuer), "{mark:?}");
            assert!(
                !mark.product.is_empty() && !mark._source.is_empty(),
                "{mark:?}"
            );
            assert!(mark._checked.is_none_or(is_date), "{mark:?}");
        }
        let headers = known.responses.iter().filter_map(|mark| mark.header);
        for header in headers.chain(known.identifying_headers.iter().copied()) {
            assert!(
                HeaderName::from_bytes(header.as_bytes()).is_ok(),
                "{header}"
            );
        }
    }

    #[test]
    fn middlebox_is_recognised_by_its_marks() {
        for (name, value, body, found) in [
            ("server", "nginx/1.24.0", "", Some("nginx")),
            ("cf-ray", "8a1-FRA", "", Some("Cloudflare")),
            ("x-amz-cf-id", "abc", "", Some("Amazon CloudFront")),
            ("via", "1.1 proxy.corp (squid/5.7)", "", Some("Squid")),
            (
                "server",
                "awselb/2.0",
                "",
                Some("AWS Elastic Load Balancing"),
            ),
            (
                "server",
                "Apache",
                "<title>FortiGuard Intrusion Prevention - Access Blocked</title>",
                Some("Fortinet FortiGate"),
            ),
            (
                "x-nothing",
                "1",
                "<h1>503 Service Unavailable</h1>\nNo server is available to handle this request.",
                Some("HAProxy"),
            ),
            ("x-nothing", "1", "hello", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            assert_eq!(
                middlebox(&headers, body.as_bytes()),
                found,
                "{name}: {value} {body}"
            );
        }
    }

    #[test]
    fn interception_products_are_recognised_by_issuer() {
        for (issuer, name) in [
            (
                "C=US, ST=California, O=Zscaler Inc., CN=Zscaler Intermediate Root CA (zscaler.net)",
                "Zscaler",
            ),
            (
                "C=US, O=Fortinet, OU=Certificate Authority, CN=FGVM00TM20000000",
                "Fortinet FortiGate",
            ),
            ("CN=DO_NOT_TRUST_FiddlerRoot, O=DO_NOT_TRUST", "Fiddler"),
            ("CN=mitmproxy, O=mitmproxy", "mitmproxy"),
            (
                "C=PortSwigger, O=PortSwigger, CN=PortSwigger CA",
                "Burp Suite",
            ),
            (
                "CN=Charles Proxy CA (1 Jan 2026, host), OU=https://charlesproxy.com/ssl",
                "Charles",
            ),
            (
                "CN=Kaspersky Anti-Virus Personal Root Certificate, O=AO Kaspersky Lab",
                "Kaspersky",
            ),
            ("CN=ESET SSL Filter CA, O=ESET, spol. s r. o.", "ESET"),
            ("O=Cisco, CN=Cisco Umbrella Root CA", "Cisco Umbrella"),
        ] {
            assert_eq!(inspector(issuer), Some(name), "{issuer}");
        }
    }

    #[test]
    fn public_authorities_are_not_recognised_as_interception() {
        for issuer in [
            "C=US, O=Let's Encrypt, CN=R11",
            "C=US, O=DigiCert Inc, CN=DigiCert TLS RSA SHA256 2020 CA1",
            "C=US, O=Google Trust Services, CN=WE1",
            "C=GB, O=Sectigo Limited, CN=Sectigo Public Server Authentication CA DV R36",
            "C=US, O=Cloudflare, Inc., CN=Cloudflare Inc ECC CA-3",
            "CN=Reset CA",
        ] {
            assert_eq!(inspector(issuer), None, "{issuer}");
        }
    }
}
