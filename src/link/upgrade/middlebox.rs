//! What answers in place of the master, told by the headers that it puts into its answers and the words of its pages.

use http::HeaderMap;

/// Headers that are shown as evidence: they name a program, or are set by one kind of proxy alone. None of them holds a secret.
const TELLING: [&str; 15] = [
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

/// Where a mark stands.
#[derive(Clone, Copy)]
enum Mark {
    /// A header that is there at all.
    Has(&'static str),
    /// Part of a header's value, in lower case.
    Says(&'static str, &'static str),
    /// Part of the beginning of the body, in lower case.
    Body(&'static str),
}

use Mark::{Body, Has, Says};

/// What each mark is left by; the first that is found counts, so that what stands in front comes first.
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
    (Says("server", "zscaler"), "Zscaler"),
    (Says("server", "bluecoat"), "Blue Coat (Symantec) ProxySG"),
    (Says("via", "bluecoat"), "Blue Coat (Symantec) ProxySG"),
    (Has("cf-ray"), "Cloudflare"),
    (Says("server", "cloudflare"), "Cloudflare"),
    (Has("x-amz-cf-id"), "Amazon CloudFront"),
    (Has("x-azure-ref"), "Azure Front Door"),
    (Has("x-akamai-request-id"), "Akamai"),
    (Says("server", "akamai"), "Akamai"),
    (Has("x-iinfo"), "Imperva"),
    (Has("x-sucuri-id"), "Sucuri"),
    (Says("x-served-by", "cache-"), "Fastly"),
    (Has("x-squid-error"), "Squid"),
    (Says("server", "squid"), "Squid"),
    (Says("via", "squid"), "Squid"),
    (Has("x-varnish"), "Varnish"),
    (Says("via", "varnish"), "Varnish"),
    (Says("server", "awselb"), "AWS Elastic Load Balancing"),
    (
        Says("server", "microsoft-azure-application-gateway"),
        "Azure Application Gateway",
    ),
    (Says("via", "1.1 google"), "Google Cloud Load Balancing"),
    (Says("server", "envoy"), "Envoy"),
    (Says("server", "istio"), "Envoy"),
    (Says("server", "openresty"), "nginx"),
    (Says("server", "tengine"), "nginx"),
    (Says("server", "nginx"), "nginx"),
    (Says("server", "caddy"), "Caddy"),
    (Says("server", "apache"), "Apache"),
    (Says("server", "microsoft"), "IIS"),
    (Says("server", "lighttpd"), "lighttpd"),
    (Says("server", "haproxy"), "HAProxy"),
    (
        Body("no server is available to handle this request"),
        "HAProxy",
    ),
    (Body("404 page not found"), "Traefik, or a program in Go"),
];

/// What answered, as far as its answer tells.
pub(super) fn middlebox(headers: &HeaderMap, body: &[u8]) -> Option<&'static str> {
    let body = String::from_utf8_lossy(body).to_lowercase();
    let says = |name: &str, part: &str| {
        let mut values = headers.get_all(name).iter();
        values.any(|value| {
            String::from_utf8_lossy(value.as_bytes())
                .to_lowercase()
                .contains(part)
        })
    };
    let is_there = |mark: &Mark| match *mark {
        Has(name) => headers.contains_key(name),
        Says(name, part) => says(name, part),
        Body(part) => body.contains(part),
    };
    MARKS
        .iter()
        .find(|(mark, _)| is_there(mark))
        .map(|(_, name)| *name)
}

/// The headers that tell who answered, each once, `shown` as text.
pub(super) fn telling(
    headers: &HeaderMap,
    shown: impl Fn(&[u8]) -> String,
) -> Vec<(&'static str, String)> {
    let values = TELLING.iter().filter_map(|&name| {
        headers
            .get(name)
            .map(|value| (name, shown(value.as_bytes())))
    });
    values.filter(|(_, value)| !value.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_answers_is_told_by_what_it_leaves() {
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
