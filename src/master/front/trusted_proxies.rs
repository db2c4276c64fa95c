//! Determines the visitor of a connection: its peer, or the address that trusted proxies report.
//! Knows addresses and header fields.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, header};
use ipnet::IpNet;

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// The proxies that are trusted to report visitor addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Creates the set of proxies in these networks.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        TrustedProxies(networks)
    }

    /// Whether this address is a trusted proxy.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Returns the visitor behind a request of `peer`. Reads `X-Forwarded-For` (or `Forwarded`, RFC
    /// 7239) from its end while the writer of each entry is trusted. Earlier entries may be forged.
    #[must_use]
    pub fn visitor(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let chain = if headers.contains_key(X_FORWARDED_FOR) {
            x_forwarded_for(headers)
        } else {
            forwarded(headers)
        };
        let mut visitor = peer.to_canonical();
        for element in chain.into_iter().rev() {
            if !self.trusts(visitor) {
                break;
            }
            let Some(address) = element else { break };
            visitor = address.to_canonical();
        }
        visitor
    }
}

/// Returns the addresses from the first proxy to the last, `None` for unparsable ones.
fn x_forwarded_for(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(X_FORWARDED_FOR).iter();
    lines
        .flat_map(|line| {
            line.to_str()
                .unwrap_or_default()
                .split(',')
                .map(parse_address)
        })
        .collect()
}

fn forwarded(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(header::FORWARDED).iter();
    lines
        .flat_map(|line| {
            split_unquoted(line.to_str().unwrap_or_default(), ',')
                .into_iter()
                .map(forwarded_for)
        })
        .collect()
}

/// Returns the address of `for=` in an element of `Forwarded`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let pairs = split_unquoted(element, ';');
    let mut values = pairs
        .into_iter()
        .filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = values.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    parse_address(value.trim().trim_matches('"'))
}

/// Parses an address, which some proxies write with a port or in brackets.
fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

/// Splits a text at separators outside quotes.
fn split_unquoted(text: &str, separator: char) -> Vec<&str> {
    let mut is_quoted = false;
    text.split(|character| {
        is_quoted ^= character == '"';
        character == separator && !is_quoted
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn trusting(networks: &[&str]) -> TrustedProxies {
        TrustedProxies::new(
            networks
                .iter()
                .map(|network| network.parse().expect("a network"))
                .collect(),
        )
    }

    fn visitor(
        trusted: &TrustedProxies,
        peer: &str,
        fields: &[(&'static str, &'static str)],
    ) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        trusted
            .visitor(peer.parse().expect("an address"), &headers)
            .to_string()
    }

    #[test]
    fn only_trusted_proxies_name_the_visitor() {
        let trusted = trusting(&["10.0.0.0/8", "::1/128"]);
        let fields = [("x-forwarded-for", "192.0.2.7")];
        assert_eq!(visitor(&trusted, "10.1.2.3", &fields), "192.0.2.7");
        assert_eq!(visitor(&trusted, "::ffff:10.1.2.3", &fields), "192.0.2.7");
        assert_eq!(visitor(&trusted, "::1", &fields), "192.0.2.7");
        assert_eq!(visitor(&trusted, "192.0.2.99", &fields), "192.0.2.99");
        assert_eq!(visitor(&trusting(&[]), "127.0.0.1", &fields), "127.0.0.1");
    }

    #[test]
    fn chain_is_followed_while_its_proxies_are_trusted() {
        let trusted = trusting(&["10.0.0.0/8"]);
        let chain = |line| visitor(&trusted, "10.0.0.1", &[("x-forwarded-for", line)]);
        assert_eq!(chain("203.0.113.9, 192.0.2.7"), "192.0.2.7");
        assert_eq!(chain("203.0.113.9, 192.0.2.7, 10.0.0.2"), "192.0.2.7");
        assert_eq!(chain("10.0.0.3, 10.0.0.2"), "10.0.0.3");
        assert_eq!(chain("192.0.2.7, unknown"), "10.0.0.1");
        assert_eq!(chain(""), "10.0.0.1");
        let lines = [
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-for", "192.0.2.7"),
        ];
        assert_eq!(visitor(&trusted, "10.0.0.1", &lines), "192.0.2.7");
    }

    #[test]
    fn addresses_parse_with_ports_and_brackets() {
        let trusted = trusting(&["10.0.0.0/8"]);
        let chain = |line| visitor(&trusted, "10.0.0.1", &[("x-forwarded-for", line)]);
        assert_eq!(chain("192.0.2.7:4711"), "192.0.2.7");
        assert_eq!(chain("2001:db8::1"), "2001:db8::1");
        assert_eq!(chain("[2001:db8::1]"), "2001:db8::1");
        assert_eq!(chain("[2001:db8::1]:4711"), "2001:db8::1");
    }

    #[test]
    fn forwarded_is_used_without_x_forwarded_for() {
        let trusted = trusting(&["10.0.0.0/8"]);
        let chain = |line| visitor(&trusted, "10.0.0.1", &[("forwarded", line)]);
        assert_eq!(
            chain("for=192.0.2.60;proto=http;by=203.0.113.43"),
            "192.0.2.60"
        );
        assert_eq!(
            chain("proto=https; For=\"[2001:db8:cafe::17]:4711\""),
            "2001:db8:cafe::17"
        );
        assert_eq!(
            chain("for=203.0.113.9, for=192.0.2.43;host=\"a,b;for=1.2.3.4\""),
            "192.0.2.43"
        );
        assert_eq!(chain("for=192.0.2.43, for=_hidden"), "10.0.0.1");
        assert_eq!(chain("for"), "10.0.0.1");
        let both = [
            ("forwarded", "for=203.0.113.9"),
            ("x-forwarded-for", "192.0.2.7"),
        ];
        assert_eq!(visitor(&trusted, "10.0.0.1", &both), "192.0.2.7");
    }
}
