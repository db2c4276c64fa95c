//! Addresses as text, `host:port`. Owns their syntax; resolves nothing and opens nothing.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

/// A host and a port, as in `127.0.0.1:3389`, `[::1]:22` or `intranet.example:80`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// An address, or a name in lower case; IPv6 without its brackets.
    pub host: String,
    /// The port; 0, where it is listened at, lets the system choose.
    pub port: u16,
}

/// Why a text is no address, with what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is nothing behind the host.
    #[error("has no port: write it as \"{0}:PORT\"")]
    NoPort(String),
    /// There is nothing before the port.
    #[error(
        "has no host: write \"127.0.0.1:{0}\" for this machine alone, or \"0.0.0.0:{0}\" to listen on all its addresses"
    )]
    NoHost(String),
    /// The port is no number, or too large.
    #[error("has the port \"{0}\": a port is a number from 0 to 65535")]
    Port(String),
    /// Port 0 cannot be dialled.
    #[error("has the port 0, which nobody can be reached at: write the service's port")]
    PortZero,
    /// The host is neither an address nor a name.
    #[error("has the host \"{0}\": write an IP address or a name of letters, digits, '-' and '.'")]
    Host(String),
    /// Several colons without brackets.
    #[error("is an IPv6 address without brackets: write it as \"[ADDRESS]:PORT\"")]
    Brackets,
    /// A user, and perhaps a password, before the host.
    #[error("names a user: write only \"HOST:PORT\"")]
    User,
    /// A URL where `host:port` belongs.
    #[error("is a URL: write only \"HOST:PORT\"")]
    Url,
}

impl HostPort {
    /// The host as an IP address, unless it is a name.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Whether two listeners on these addresses would be in each other's way. Port 0 never is.
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

    /// The same address, if it can be dialled.
    ///
    /// # Errors
    /// [`AddressError::PortZero`].
    pub fn to_dial(self) -> Result<Self, AddressError> {
        if self.port == 0 {
            Err(AddressError::PortZero)
        } else {
            Ok(self)
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.contains("://") || text.contains('/') {
            return Err(AddressError::Url);
        }
        if text.contains('@') {
            return Err(AddressError::User);
        }
        let (host, port) = split(text)?;
        let port = port.ok_or_else(|| without_port(text))?;
        Ok(Self {
            host: host_of(host)?,
            port: port_of(port)?,
        })
    }
}

/// The host (IPv6 without brackets) and the text behind its colon.
fn split(text: &str) -> Result<(&str, Option<&str>), AddressError> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or(AddressError::Brackets)?;
        if host.parse::<Ipv6Addr>().is_err() {
            return Err(AddressError::Host(host.to_owned()));
        }
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(AddressError::Port(rest.to_owned())),
        };
    }
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(AddressError::Brackets),
        Some(("", port)) => Err(AddressError::NoHost(port.to_owned())),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((text, None)),
    }
}

fn without_port(text: &str) -> AddressError {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        AddressError::NoHost(text.to_owned())
    } else {
        AddressError::NoPort(if text.is_empty() {
            "HOST".to_owned()
        } else {
            text.to_owned()
        })
    }
}

fn host_of(host: &str) -> Result<String, AddressError> {
    let plausible = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let looks_numeric = host
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let is_name = !host.is_empty() && host.bytes().all(plausible) && !looks_numeric;
    match host.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) if is_name => Ok(host.to_ascii_lowercase()),
        Err(_) => Err(AddressError::Host(host.to_owned())),
    }
}

fn port_of(port: &str) -> Result<u16, AddressError> {
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if digits {
        port.parse()
            .map_err(|_| AddressError::Port(port.to_owned()))
    } else {
        Err(AddressError::Port(port.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> AddressError {
        text.parse::<HostPort>().expect_err(text)
    }

    #[test]
    fn addresses_print_as_they_were_written() {
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
    fn an_address_without_its_parts_says_what_to_write() {
        assert_eq!(
            refused("127.0.0.1"),
            AddressError::NoPort("127.0.0.1".into())
        );
        assert_eq!(refused(""), AddressError::NoPort("HOST".into()));
        assert_eq!(refused("[::1]"), AddressError::NoPort("[::1]".into()));
        assert_eq!(refused("3389"), AddressError::NoHost("3389".into()));
        assert_eq!(refused(":3389"), AddressError::NoHost("3389".into()));
        assert_eq!(refused("::1:22"), AddressError::Brackets);
        assert_eq!(refused("[::1:22"), AddressError::Brackets);
        assert_eq!(refused("[host]:22"), AddressError::Host("host".into()));
        assert_eq!(refused("host:"), AddressError::Port(String::new()));
        assert_eq!(refused("host:65536"), AddressError::Port("65536".into()));
        assert_eq!(refused("host:+1"), AddressError::Port("+1".into()));
        assert_eq!(refused("[::1]x"), AddressError::Port("x".into()));
        assert_eq!(refused("a b:1"), AddressError::Host("a b".into()));
        assert_eq!(refused("1.2.3:1"), AddressError::Host("1.2.3".into()));
        assert_eq!(refused("http://host:1"), AddressError::Url);
        assert_eq!(refused("user:secret@host"), AddressError::User);
        assert_eq!(
            "host:0".parse::<HostPort>().expect("parses").to_dial(),
            Err(AddressError::PortZero)
        );
    }

    #[test]
    fn listeners_overlap_when_one_would_take_the_others_port() {
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
