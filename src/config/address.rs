//! Parses and prints addresses of the form `host:port`. This module resolves no names and opens no
//! sockets.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use crate::net::authority::{Authority, has_name_characters, parse_port, with_port};

/// A host and a port, as in `127.0.0.1:3389`, `[::1]:22` or `intranet.example:80`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// An IP address or a lower-case name. IPv6 addresses have no brackets.
    pub host: String,
    /// The port. The system chooses the port of a listener at port 0.
    pub port: u16,
}

/// Why a text is not an address, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostPortError {
    /// The port is missing.
    #[error("has no port: write it as \"{0}:PORT\"")]
    NoPort(String),
    /// The host is missing.
    #[error(
        "has no host: write \"127.0.0.1:{0}\" for this machine only, or \"0.0.0.0:{0}\" to listen on all its addresses"
    )]
    NoHost(String),
    /// The port is not a number, or too large.
    #[error("has the port \"{0}\": a port is a number from 0 to 65535")]
    Port(String),
    /// The address has port 0, which cannot be dialled.
    #[error("has port 0, which cannot be dialled: write the port of the service")]
    PortZero,
    /// The host is neither an IP address nor a name.
    #[error("has the host \"{0}\": write an IP address or a name of letters, digits, '-' and '.'")]
    Host(String),
    /// The text has several colons without brackets.
    #[error("is an IPv6 address without brackets: write it as \"[ADDRESS]:PORT\"")]
    Brackets,
    /// The text contains a user, and perhaps a password.
    #[error("names a user: write only \"HOST:PORT\"")]
    User,
    /// The text is a URL instead of `host:port`.
    #[error("is a URL: write only \"HOST:PORT\"")]
    Url,
}

impl HostPort {
    /// Returns the host as an IP address, or `None` for a name.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Whether two listeners on these addresses conflict. Port 0 never conflicts.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        if self.port != other.port || self.port == 0 {
            return false;
        }
        match (self.ip(), other.ip()) {
            (Some(one), Some(two)) if one.is_ipv4() == two.is_ipv4() => {
                one == two || one.is_unspecified() || two.is_unspecified()
            }
            _ => self.host == other.host,
        }
    }

    /// Returns the address if it can be dialled.
    ///
    /// # Errors
    /// Returns [`HostPortError::PortZero`] for port 0.
    pub fn dialable(self) -> Result<Self, HostPortError> {
        if self.port == 0 {
            Err(HostPortError::PortZero)
        } else {
            Ok(self)
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&with_port(&self.host, self.port))
    }
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        if text.contains("://") || text.contains('/') {
            return Err(HostPortError::Url);
        }
        if text.contains('@') {
            return Err(HostPortError::User);
        }
        let written = Authority::split(text).ok_or(HostPortError::Brackets)?;
        let host = written.host;
        if written.in_brackets && host.parse::<Ipv6Addr>().is_err() {
            return Err(HostPortError::Host(host.to_owned()));
        }
        let port = written
            .port()
            .map_err(|rest| HostPortError::Port(rest.to_owned()))?
            .ok_or_else(|| without_port(text))?;
        if host.is_empty() {
            return Err(HostPortError::NoHost(port.to_owned()));
        }
        Ok(Self {
            host: host_of(host)?,
            port: parse_port(port).ok_or_else(|| HostPortError::Port(port.to_owned()))?,
        })
    }
}

fn without_port(text: &str) -> HostPortError {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        HostPortError::NoHost(text.to_owned())
    } else {
        HostPortError::NoPort(if text.is_empty() {
            "HOST".to_owned()
        } else {
            text.to_owned()
        })
    }
}

fn host_of(host: &str) -> Result<String, HostPortError> {
    let looks_numeric = host
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let is_name = has_name_characters(host) && !looks_numeric;
    match host.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) if is_name => Ok(host.to_ascii_lowercase()),
        Err(_) => Err(HostPortError::Host(host.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> HostPortError {
        text.parse::<HostPort>().expect_err(text)
    }

    #[test]
    fn addresses_round_trip() {
        for text in [
            "127.0.0.1:3389",
            "[::1]:22",
            "intranet.example:80",
            "0.0.0.0:0",
            "my_host:1",
        ] {
            assert_eq!(text.parse::<HostPort>().expect(text).to_string(), text);
        }
        assert_eq!(
            "Intranet:80".parse::<HostPort>().expect("a name").host,
            "intranet"
        );
    }

    #[test]
    fn incomplete_addresses_suggest_a_fix() {
        assert_eq!(
            refused("127.0.0.1"),
            HostPortError::NoPort("127.0.0.1".into())
        );
        assert_eq!(refused(""), HostPortError::NoPort("HOST".into()));
        assert_eq!(refused("[::1]"), HostPortError::NoPort("[::1]".into()));
        assert_eq!(refused("3389"), HostPortError::NoHost("3389".into()));
        assert_eq!(refused(":3389"), HostPortError::NoHost("3389".into()));
        assert_eq!(refused("::1:22"), HostPortError::Brackets);
        assert_eq!(refused("[::1:22"), HostPortError::Brackets);
        assert_eq!(refused("[host]:22"), HostPortError::Host("host".into()));
        assert_eq!(refused("host:"), HostPortError::Port(String::new()));
        assert_eq!(refused("host:65536"), HostPortError::Port("65536".into()));
        assert_eq!(refused("host:+1"), HostPortError::Port("+1".into()));
        assert_eq!(refused("[::1]x"), HostPortError::Port("x".into()));
        assert_eq!(refused("a b:1"), HostPortError::Host("a b".into()));
        assert_eq!(refused("1.2.3:1"), HostPortError::Host("1.2.3".into()));
        assert_eq!(refused("http://host:1"), HostPortError::Url);
        assert_eq!(refused("user:secret@host"), HostPortError::User);
        assert_eq!(
            "host:0".parse::<HostPort>().expect("parses").dialable(),
            Err(HostPortError::PortZero)
        );
    }

    #[test]
    fn overlaps_detects_conflicting_listeners() {
        let overlap = |one: &str, two: &str| {
            let (one, two): (HostPort, HostPort) =
                (one.parse().expect(one), two.parse().expect(two));
            assert_eq!(one.overlaps(&two), two.overlaps(&one));
            one.overlaps(&two)
        };
        assert!(overlap("127.0.0.1:80", "127.0.0.1:80"));
        assert!(overlap("0.0.0.0:80", "127.0.0.1:80"));
        assert!(overlap("[::]:80", "[::1]:80"));
        assert!(overlap("localhost:80", "LOCALHOST:80"));
        assert!(!overlap("127.0.0.1:80", "127.0.0.2:80"));
        assert!(!overlap("127.0.0.1:80", "127.0.0.1:81"));
        assert!(!overlap("127.0.0.1:0", "127.0.0.1:0"));
        assert!(!overlap("[::1]:80", "127.0.0.1:80"));
    }
}
