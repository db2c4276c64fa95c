//! The address of a master, as written by a user: `host:port`, `ws://host/path` or
//! `wss://host/path`.
//!
//! The crate `url` does not parse it, because that normalizes: it converts the host to lower case,
//! resolves dots in the path and adds escapes. The request to the master has the host and the path
//! as the user wrote them. `url` also accepts what is an error here, such as port 0 or a missing
//! port after a colon.

use std::{borrow::Cow, fmt, net::Ipv6Addr, str::FromStr};

use super::authority::{Authority, has_name_characters, in_brackets, parse_port, with_port};
use crate::text::without_password;

/// The parsed address of a master.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MasterAddress {
    secure: bool,
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    host: String,
    port: u16,
    /// The path and the query. Begins with a slash.
    path: String,
}

/// Why a text is not the address of a master. Masks a password in the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not the address of a master: {problem}")]
pub struct MasterAddressError {
    value: String,
    problem: MasterAddressProblem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum MasterAddressProblem {
    #[error("it is empty; write host:port, ws://host/path or wss://host/path")]
    Empty,
    #[error("it has no port; write {0}:PORT, or ws://{0}/ for port 80, or wss://{0}/ for port 443")]
    NoPort(String),
    #[error("`{0}` is not a port; a port is a number from 1 to 65535")]
    Port(String),
    #[error("it has no host before the port")]
    NoHost,
    #[error("`{0}` is not a host name or an IP address")]
    Host(String),
    #[error("an IPv6 address needs brackets, as in [::1]:51324")]
    Brackets,
    #[error("the scheme must be ws:// or wss:// instead of {0}://")]
    Scheme(String),
    #[error("it has a path; write ws://{0} or wss://{0}")]
    PathWithoutScheme(String),
    #[error("it names a user; rePort has none, write the master key in `master_key`")]
    User,
    #[error("it must not contain {0:?}")]
    Character(char),
}

impl MasterAddress {
    /// Returns whether the WebSocket runs over TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Returns the host's name or IP address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port, written or implied by the scheme.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the path and the query of the request.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Returns the same address with another path, which begins with a slash.
    pub(super) fn at(&self, path: &str) -> Self {
        MasterAddress {
            path: path.to_owned(),
            ..self.clone()
        }
    }

    /// Returns the value of the `Host` header. It omits the port that the scheme implies.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.port == default_port(self.secure) {
            in_brackets(&self.host).into_owned()
        } else {
            with_port(&self.host, self.port)
        }
    }

    fn parse(text: &str) -> Result<Self, MasterAddressProblem> {
        let (secure, rest) = match text.split_once("://") {
            _ if text.is_empty() => return Err(MasterAddressProblem::Empty),
            None => (None, text),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("ws") => (Some(false), rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("wss") => (Some(true), rest),
            Some((scheme, _)) => return Err(MasterAddressProblem::Scheme(scheme.to_owned())),
        };
        if let Some(character) = rest
            .chars()
            .find(|&character| !character.is_ascii_graphic() || character == '#')
        {
            return Err(MasterAddressProblem::Character(character));
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if secure.is_none() && !matches!(path, "" | "/") {
            return Err(MasterAddressProblem::PathWithoutScheme(rest.to_owned()));
        }
        if authority.contains('@') {
            return Err(MasterAddressProblem::User);
        }
        let written = Authority::split(authority).ok_or(MasterAddressProblem::Brackets)?;
        let port = written
            .port()
            .map_err(|_| MasterAddressProblem::Host(authority.to_owned()))?;
        let port = match (port, secure) {
            (Some(port), _) => dialable_port(port)?,
            (None, Some(secure)) => default_port(secure),
            (None, None) => return Err(MasterAddressProblem::NoPort(authority.to_owned())),
        };
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        Ok(MasterAddress {
            secure: secure.unwrap_or(false),
            host: parse_host(&written)?,
            port,
            path,
        })
    }
}

impl FromStr for MasterAddress {
    type Err = MasterAddressError;

    fn from_str(text: &str) -> Result<Self, MasterAddressError> {
        MasterAddress::parse(text.trim()).map_err(|problem| match without_password(text) {
            // Another problem could quote part of the password.
            Cow::Owned(value) => MasterAddressError {
                value,
                problem: MasterAddressProblem::User,
            },
            Cow::Borrowed(value) => MasterAddressError {
                value: value.to_owned(),
                problem,
            },
        })
    }
}

impl fmt::Display for MasterAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "wss" } else { "ws" };
        write!(formatter, "{scheme}://{}{}", self.authority(), self.path)
    }
}

fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

fn dialable_port(text: &str) -> Result<u16, MasterAddressProblem> {
    parse_port(text)
        .filter(|port| *port > 0)
        .ok_or_else(|| MasterAddressProblem::Port(text.to_owned()))
}

fn parse_host(written: &Authority<'_>) -> Result<String, MasterAddressProblem> {
    let host = written.host;
    if written.in_brackets {
        return match host.parse::<Ipv6Addr>() {
            Ok(address) => Ok(address.to_string()),
            Err(_) => Err(MasterAddressProblem::Host(format!("[{host}]"))),
        };
    }
    if host.is_empty() {
        return Err(MasterAddressProblem::NoHost);
    }
    if has_name_characters(host) {
        Ok(host.to_owned())
    } else {
        Err(MasterAddressProblem::Host(host.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalized(text: &str) -> String {
        text.parse::<MasterAddress>()
            .map_or_else(|error| error.to_string(), |address| address.to_string())
    }

    #[test]
    fn host_and_port_imply_ws_at_the_root() {
        assert_eq!(
            normalized("rePort.myserver.com:51324"),
            "ws://rePort.myserver.com:51324/"
        );
        assert_eq!(normalized("127.0.0.1:80"), "ws://127.0.0.1/");
        assert_eq!(normalized("[::1]:51324"), "ws://[::1]:51324/");
        assert_eq!(normalized("host:51324/"), "ws://host:51324/");
    }

    #[test]
    fn url_port_defaults_to_the_scheme() {
        let address: MasterAddress = "wss://example.com/report?x=1".parse().unwrap();
        assert!(address.is_secure());
        assert_eq!(
            (address.host(), address.port(), address.path()),
            ("example.com", 443, "/report?x=1")
        );
        assert_eq!(address.authority(), "example.com");
        assert_eq!(normalized("ws://example.com"), "ws://example.com/");
        assert_eq!(
            normalized("WSS://[2001:DB8::1]:8443"),
            "wss://[2001:db8::1]:8443/"
        );
        assert_eq!(
            normalized("ws://example.com?token=1"),
            "ws://example.com/?token=1"
        );
    }

    #[test]
    fn invalid_address_is_reported_with_a_remedy() {
        for (text, expected) in [
            ("", "empty"),
            ("example.com", "write example.com:PORT"),
            ("example.com:", "not a port"),
            ("example.com:0", "not a port"),
            ("example.com:65536", "not a port"),
            ("example.com:+80", "not a port"),
            (":51324", "no host"),
            ("::1:51324", "brackets"),
            ("[::1", "brackets"),
            ("[::1]x:1", "not a host name"),
            ("[example.com]:1", "not a host name"),
            (
                "https://example.com/",
                "ws:// or wss:// instead of https://",
            ),
            ("example.com:1/report", "write ws://example.com:1/report"),
            ("ws://user@example.com/", "master_key"),
            ("ws://exa mple.com/", "' '"),
            ("ws://example.com/#x", "'#'"),
            ("ws://ex!ample.com/", "not a host name"),
        ] {
            let message = normalized(text);
            assert!(message.contains(expected), "{text:?}: {message}");
            assert!(
                message.contains(&format!("`{text}`")),
                "the value is named: {message}"
            );
        }
    }

    #[test]
    fn password_is_masked() {
        for (text, masked) in [
            (
                "ws://user:secret@example.com/",
                "`ws://user:***@example.com/`",
            ),
            (
                "https://user:secret@example.com/",
                "`https://user:***@example.com/`",
            ),
            (
                "user:secret@example.com:1/path",
                "`user:***@example.com:1/path`",
            ),
            (
                "wss://user:sec/ret@example.com",
                "`wss://user:***@example.com`",
            ),
        ] {
            let message = normalized(text);
            assert!(
                message.contains(masked) && message.contains("names a user"),
                "{message}"
            );
            assert!(!message.contains("sec"), "{message}");
        }
    }
}
