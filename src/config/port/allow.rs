//! The destinations that a server allows to applications of a SOCKS5 port. The server compares a
//! destination with them.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

use super::super::{error::InvalidValue, values::text_value};
use crate::{
    net::authority::{ends_in_number, has_name_characters, in_brackets, parse_port},
    text::without_password,
};

/// The longest name of the DNS, without a final dot.
const NAME_MAX: usize = 253;

/// The syntax of a rule.
const FORMS: &str = "write \"HOST:PORTS\", as \"10.0.0.0/8:22\", \"[2001:db8::/32]:443\", \"*.lan:80-90\" or \"nas.lan:*\"";

/// Allowed hosts with their allowed ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowRule {
    /// The hosts.
    pub host: AllowedHost,
    /// The ports of each of them.
    pub ports: AllowedPorts,
}

/// The hosts of an [`AllowRule`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedHost {
    /// All names and addresses: `*`.
    Any,
    /// The addresses of a network, whose host bits are 0, or one address.
    Network(IpNet),
    /// A lower-case name without a final dot.
    Name(String),
    /// The names below this one, which is lower-case: `*.lan` without `*.`.
    Below(String),
}

/// The ports of an [`AllowRule`], from `first` to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowedPorts {
    /// The first port, at least 1.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl AllowedPorts {
    /// All ports: `*`.
    pub const ALL: Self = Self {
        first: 1,
        last: u16::MAX,
    };

    /// Returns whether the port is one of them.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::ALL);
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (parse_port(first)?, parse_port(last)?);
        (1..=last).contains(&first).then_some(Self { first, last })
    }
}

impl AllowedHost {
    /// Parses a host without brackets.
    ///
    /// # Errors
    /// Returns the problem.
    fn parse(host: &str) -> Result<Self, &'static str> {
        if host == "*" {
            return Ok(Self::Any);
        }
        if let Some(name) = host.strip_prefix("*.") {
            return parse_name(name).map(Self::Below);
        }
        if host.contains('/') {
            let network: IpNet = host.parse().map_err(|_| "which has an invalid network")?;
            return Ok(Self::Network(network.trunc()));
        }
        match host.parse::<IpAddr>() {
            Ok(address) => Ok(Self::Network(address.into())),
            Err(_) => parse_name(host).map(Self::Name),
        }
    }
}

/// Returns a name of the DNS in lower case and without a final dot.
fn parse_name(name: &str) -> Result<String, &'static str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        return Err("which has no host");
    }
    if !has_name_characters(name) || name.split('.').any(str::is_empty) || name.len() > NAME_MAX {
        return Err("which has an invalid host");
    }
    // The system's resolver would read "127.1" and "0x7f.1" as addresses.
    if ends_in_number(name) {
        return Err("whose host is a number, but no IP address");
    }
    Ok(name.to_ascii_lowercase())
}

/// Splits a rule into its host without brackets and its ports.
fn split(text: &str) -> Result<(&str, &str), &'static str> {
    let (host, ports) = text.rsplit_once(':').ok_or("which has no ports")?;
    if let Some(host) = host.strip_prefix('[') {
        let host = host.strip_suffix(']').ok_or("which has no \"]\"")?;
        return if host.contains(':') {
            Ok((host, ports))
        } else {
            Err("which has brackets, but no IPv6 address")
        };
    }
    if host.contains(':') {
        return Err("which has an IPv6 address without brackets");
    }
    Ok((host, ports))
}

impl AllowRule {
    /// Parses a rule.
    ///
    /// # Errors
    /// Returns the problem.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (host, ports) = split(text)?;
        let host = AllowedHost::parse(host)?;
        let ports = AllowedPorts::parse(ports).ok_or("which has invalid ports")?;
        Ok(Self { host, ports })
    }
}

impl FromStr for AllowRule {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        Self::parse(text).map_err(|problem| {
            let shown = without_password(text);
            InvalidValue::new(format!("is \"{}\", {problem}", shown.escape_debug()), FORMS)
        })
    }
}

impl fmt::Display for AllowRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.host, self.ports)
    }
}

impl fmt::Display for AllowedHost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => formatter.write_str("*"),
            Self::Network(network) if network.prefix_len() == network.max_prefix_len() => {
                formatter.write_str(&in_brackets(&network.addr().to_string()))
            }
            Self::Network(network) => formatter.write_str(&in_brackets(&network.to_string())),
            Self::Name(name) => formatter.write_str(name),
            Self::Below(name) => write!(formatter, "*.{name}"),
        }
    }
}

impl fmt::Display for AllowedPorts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ALL => formatter.write_str("*"),
            Self { first, last } if first == last => write!(formatter, "{first}"),
            Self { first, last } => write!(formatter, "{first}-{last}"),
        }
    }
}

text_value!(AllowRule, "destinations", AllowRule::from_str);

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> AllowRule {
        text.parse().expect(text)
    }

    #[test]
    fn rules_round_trip() {
        for text in [
            "10.0.0.0/8:22",
            "192.0.2.1:80",
            "0.0.0.0/0:*",
            "[2001:db8::/32]:443",
            "[::1]:22-25",
            "*.lan:443",
            "nas.lan:*",
            "*:53",
            "*:*",
        ] {
            assert_eq!(rule(text).to_string(), text);
        }
    }

    #[test]
    fn rules_are_canonical() {
        for (written, canonical) in [
            ("10.1.2.3/8:22", "10.0.0.0/8:22"),
            ("192.0.2.1/32:22", "192.0.2.1:22"),
            ("NAS.Lan.:1-65535", "nas.lan:*"),
            ("*.LAN:7-7", "*.lan:7"),
            ("[2001:DB8:0::1]:1", "[2001:db8::1]:1"),
        ] {
            assert_eq!(rule(written), rule(canonical), "{written}");
            assert_eq!(rule(written).to_string(), canonical);
        }
    }

    #[test]
    fn invalid_rules_name_their_problem() {
        for (text, problem) in [
            ("", "no ports"),
            ("nas.lan", "no ports"),
            (":22", "no host"),
            ("*.:22", "no host"),
            ("nas.lan:", "invalid ports"),
            ("nas.lan:0", "invalid ports"),
            ("nas.lan:65536", "invalid ports"),
            ("nas.lan:25-22", "invalid ports"),
            ("nas.lan:22-", "invalid ports"),
            ("nas.lan:+22", "invalid ports"),
            ("10.0.0.0/33:22", "invalid network"),
            ("lan/8:22", "invalid network"),
            ("2001:db8::1:22", "without brackets"),
            ("[2001:db8::1:22", "no \"]\""),
            ("[10.0.0.1]:22", "no IPv6 address"),
            ("[2001:db8::x]:22", "invalid host"),
            ("nas..lan:22", "invalid host"),
            ("n*s.lan:22", "invalid host"),
            ("a b:22", "invalid host"),
            ("b\u{fc}ro.lan:22", "invalid host"),
            ("127.1:22", "is a number"),
            ("2130706433:22", "is a number"),
            ("0x7f000001:22", "is a number"),
            ("300.1.1.1:22", "is a number"),
        ] {
            let error = text.parse::<AllowRule>().expect_err(text).to_string();
            assert!(
                error.contains(problem) && error.contains("\"10.0.0.0/8:22\""),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn ports_contain_both_ends() {
        let ports = rule("*:22-25").ports;
        let contained: Vec<u16> = (20..=27).filter(|port| ports.contains(*port)).collect();
        assert_eq!(contained, [22, 23, 24, 25]);
        assert!(!rule("*:*").ports.contains(0));
    }
}
