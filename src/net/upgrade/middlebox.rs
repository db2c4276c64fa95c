//! Recognises the product that answers instead of the master, by the headers and the pages that it
//! sends.

use http::HeaderMap;

use super::evidence;

/// Headers to report as evidence: they name a program, or only one kind of proxy sets them. None holds
/// a secret.
const IDENTIFYING_HEADERS: [&str; 15] = [
    "server",
    "via",
    "cf-ray",
    "cf-mitigated",
    "x-cache",
    "x-amz-cf-id",
    "x-azure-ref",
    "x-served-by",
    "x-varnish",
    "x-squid-error",
    "x-akamai-request-id",
    "x-iinfo",
    "x-sucuri-id",
    "www-authenticate",
    "proxy-authenticate",
];

/// A trait of a response that identifies a product.
#[derive(Clone, Copy)]
enum Mark {
    /// The header is present.
    Present(&'static str),
    /// The header's value contains this text, in lower case.
    Contains(&'static str, &'static str),
    /// The beginning of the body contains this text, in lower case.
    Body(&'static str),
}

use Mark::{Body, Contains, Present};

/// The product that each mark identifies. The first match wins, so products that sit in front of
/// others come first.
const MARKS: [(Mark, &str); 41] = [
    (Body("zscaler"), "Zscaler"),
    (Body("fortiguard"), "Fortinet FortiGate"),
    (Body("fortinet"), "Fortinet FortiGate"),
    (Body("palo alto networks"), "Palo Alto Networks"),
    (Body("netskope"), "Netskope"),
    (Body("cisco umbrella"), "Cisco Umbrella"),
    (Body("sophos"), "Sophos"),
    (Body("sonicwall"), "SonicWall"),
    (
        Body("mcafee web gateway"),
        "McAfee (Trellix, Skyhigh) Web Gateway",
    ),
    (Contains("server", "zscaler"), "Zscaler"),
    (
        Contains("server", "bluecoat"),
        "Blue Coat (Symantec) ProxySG",
    ),
    (Contains("via", "bluecoat"), "Blue Coat (Symantec) ProxySG"),
    (Present("cf-ray"), "Cloudflare"),
    (Contains("server", "cloudflare"), "Cloudflare"),
    (Present("x-amz-cf-id"), "Amazon CloudFront"),
    (Present("x-azure-ref"), "Azure Front Door"),
    (Present("x-akamai-request-id"), "Akamai"),
    (Contains("server", "akamai"), "Akamai"),
    (Present("x-iinfo"), "Imperva"),
    (Present("x-sucuri-id"), "Sucuri"),
    (Contains("x-served-by", "cache-"), "Fastly"),
    (Present("x-squid-error"), "Squid"),
    (Contains("server", "squid"), "Squid"),
    (Contains("via", "squid"), "Squid"),
    (Present("x-varnish"), "Varnish"),
    (Contains("via", "varnish"), "Varnish"),
    (Contains("server", "awselb"), "AWS Elastic Load Balancing"),
    (
        Contains("server", "microsoft-azure-application-gateway"),
        "Azure Application Gateway",
    ),
    (Contains("via", "1.1 google"), "Google Cloud Load Balancing"),
    (Contains("server", "envoy"), "Envoy"),
    (Contains("server", "istio"), "Envoy"),
    (Contains("server", "openresty"), "nginx"),
    (Contains("server", "tengine"), "nginx"),
    (Contains("server", "nginx"), "nginx"),
    (Contains("server", "caddy"), "Caddy"),
    (Contains("server", "apache"), "Apache"),
    (Contains("server", "microsoft"), "IIS"),
    (Contains("server", "lighttpd"), "lighttpd"),
    (Contains("server", "haproxy"), "HAProxy"),
    (
        Body("no server is available to handle this request"),
        "HAProxy",
    ),
    (Body("404 page not found"), "Traefik, or a program in Go"),
];

/// Returns the product that sent a response, if a mark identifies it.
#[must_use]
pub fn middlebox(headers: &HeaderMap, body: &[u8]) -> Option<&'static str> {
    let body = String::from_utf8_lossy(body).to_lowercase();
    let contains = |name: &str, part: &str| {
        let mut values = headers.get_all(name).iter();
        values.any(|value| {
            String::from_utf8_lossy(value.as_bytes())
                .to_lowercase()
                .contains(part)
        })
    };
    let matches_mark = |mark: &Mark| match *mark {
        Present(name) => headers.contains_key(name),
        Contains(name, part) => contains(name, part),
        Body(part) => body.contains(part),
    };
    MARKS
        .iter()
        .find(|(mark, _)| matches_mark(mark))
        .map(|(_, name)| *name)
}

/// Returns the headers that identify the sender, once each.
#[must_use]
pub fn identifying_headers(headers: &HeaderMap) -> Vec<(&'static str, String)> {
    let values = IDENTIFYING_HEADERS.iter().filter_map(|&name| {
        headers
            .get(name)
            .map(|value| (name, evidence(value.as_bytes())))
    });
    values.filter(|(_, value)| !value.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

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
}
