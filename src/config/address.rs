//! Parses and prints addresses of the form `host:port`. This module resolves no names and opens no
//! sockets.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use super::error::write_remedy;
use crate::net::authority::{Authority, has_name_characters, parse_port, with_port};

/// A host and a port, as in `127.0.0.1:3389`, `[::1]:22` or `intranet.example:80`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// An IP address or a lower-case name. IPv6 addresses have no brackets.
    pub host: String,
    /// The port. The system chooses the port of a listener at port 0.
    pub port: u16,
}

/// Why a text is not an address, and what to write instead. `{:#}` omits the latter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPortError {
    /// The port is missing.
    NoPort(String),
    /// The host is missing.
    NoHost(String),
    /// The port is not a number, or too large.
    Port(String),
    /// The address has port 0, which cannot be dialled.
    PortZero,
    /// The host is neither an IP address nor a name.
    Host(String),
    /// The text has several colons without brackets.
    Brackets,
    /// The text contains a user, and perhaps a password.
    User,
    /// The text is a URL instead of `host:port`.
    Url,
}

impl HostPortError {
    /// Returns what to write instead.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            HostPortError::NoPort(host) => format!("write it as \"{host}:PORT\""),
            HostPortError::NoHost(port) => format!(
                "write \"127.0.0.1:{port}\" for this machine only, or \"0.0.0.0:{port}\" to listen on all its addresses"
            ),
            HostPortError::Port(_) => "a port is a number from 0 to 65535".to_owned(),
            HostPortError::PortZero => "write the port of the service".to_owned(),
            HostPortError::Host(_) => {
                "write an IP address or a name of letters, digits, '-' and '.'".to_owned()
            }
            HostPortError::Brackets => "write it as \"[ADDRESS]:PORT\"".to_owned(),
            HostPortError::User | HostPortError::Url => "write only \"HOST:PORT\"".to_owned(),
        }
    }
}

impl std::error::Error for HostPortError {}

impl fmt::Display for HostPortError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPortError::NoPort(_) => formatter.write_str("has no port")?,
            HostPortError::NoHost(_) => formatter.write_str("has no host")?,
            HostPortError::Port(port) => write!(formatter, "has the port \"{port}\"")?,
            HostPortError::PortZero => {
                formatter.write_str("has port 0, which cannot be dialled")?;
            }
            HostPortError::Host(host) => write!(formatter, "has the host \"{host}\"")?,
            HostPortError::Brackets => {
                formatter.write_str("is an IPv6 address without brackets")?;
            }
            HostPortError::User => formatter.write_str("names a user")?,
            HostPortError::Url => formatter.write_str("is a URL")?,
        }
        write_remedy(formatter, Some(self.remedy().as_str()))
    }
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
