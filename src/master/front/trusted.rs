//! Whom a connection is from: its peer, or whom proxies that are trusted say that they speak for. Knows addresses and header fields.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, header};
use ipnet::IpNet;

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// Proxies whose word about a visitor's address is taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Those in these networks.
    #[must_use]
    pub fn new(networks: Vec<IpNet>) -> Self {
        TrustedProxies(networks)
    }

    /// Whether this is one of them.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Who is behind a request of `peer`. `X-Forwarded-For` (or else `Forwarded`, RFC 7239) is read from its end for as long as the one who wrote it is
    /// trusted: what stands before that may be anybody's invention.
    #[must_use]
    pub fn visitor(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let chain = if headers.contains_key(X_FORWARDED_FOR) {
            x_forwarded_for(headers)
        } else {
            forwarded(headers)
        };
        let mut visitor = peer.to_canonical();
        for written in chain.into_iter().rev() {
            if !self.trusts(visitor) {
                break;
            }
            let Some(address) = written else { break };
            visitor = address.to_canonical();
        }
        visitor
    }
}

/// The addresses from the first proxy's to the last one's; nothing for what is none.
fn x_forwarded_for(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(X_FORWARDED_FOR).iter();
    lines
        .flat_map(|line| line.to_str().unwrap_or_default().split(',').map(address))
        .collect()
}

fn forwarded(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(header::FORWARDED).iter();
    lines
        .flat_map(|line| {
            unquoted(line.to_str().unwrap_or_default(), ',')
                .into_iter()
                .map(for_whom)
        })
        .collect()
}

/// The address of `for=` in an element of `Forwarded`.
fn for_whom(element: &str) -> Option<IpAddr> {
    let pairs = unquoted(element, ';');
    let mut values = pairs
        .into_iter()
        .filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = values.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    address(value.trim().trim_matches('"'))
}

/// An address, which some proxies write with a port or in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

/// The parts of a text between separators that stand in no quotes.
fn unquoted(text: &str, separator: char) -> Vec<&str> {
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
    fn only_who_is_trusted_is_believed() {
        let trusted = trusting(&["10.0.0.0/8", "::1/128"]);
        let said = [("x-forwarded-for", "192.0.2.7")];
        assert_eq!(visitor(&trusted, "10.1.2.3", &said), "192.0.2.7");
        assert_eq!(visitor(&trusted, "::ffff:10.1.2.3", &said), "192.0.2.7");
        assert_eq!(visitor(&trusted, "::1", &said), "192.0.2.7");
        assert_eq!(visitor(&trusted, "192.0.2.99", &said), "192.0.2.99");
        assert_eq!(visitor(&trusting(&[]), "127.0.0.1", &said), "127.0.0.1");
    }

    #[test]
    fn a_chain_is_followed_as_far_as_it_is_trusted() {
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
    fn addresses_are_read_with_ports_and_brackets() {
        let trusted = trusting(&["10.0.0.0/8"]);
        let chain = |line| visitor(&trusted, "10.0.0.1", &[("x-forwarded-for", line)]);
        assert_eq!(chain("192.0.2.7:4711"), "192.0.2.7");
        assert_eq!(chain("2001:db8::1"), "2001:db8::1");
        assert_eq!(chain("[2001:db8::1]"), "2001:db8::1");
        assert_eq!(chain("[2001:db8::1]:4711"), "2001:db8::1");
    }

    #[test]
    fn forwarded_is_read_where_the_older_field_is_missing() {
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
