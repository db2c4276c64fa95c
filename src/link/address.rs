//! Where a master is, as a user writes it: `host:port`, `ws://host/path` or `wss://host/path`.

use std::{borrow::Cow, fmt, net::Ipv6Addr, str::FromStr};

use crate::text::without_password;

/// A master's address, parsed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MasterAddress {
    secure: bool,
    /// A name, an IPv4 address, or an IPv6 address without its brackets.
    host: String,
    port: u16,
    /// Begins with a slash; with the query.
    path: String,
}

/// The text is no address of a master. Holds no password that was written into it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not the address of a master: {problem}")]
pub struct AddressError {
    value: String,
    problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Problem {
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
    #[error("an IPv6 address stands in brackets, as in [::1]:51324")]
    Brackets,
    #[error("the scheme is ws:// or wss:// instead of {0}://")]
    Scheme(String),
    #[error("it has a path; write ws://{0} or wss://{0}")]
    PathWithoutScheme(String),
    #[error("it names a user; rePort has none, the master key stands in `master_key`")]
    User,
    #[error("{0:?} cannot be in it")]
    Character(char),
}

impl MasterAddress {
    /// Whether the WebSocket runs over TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// The host's name or IP address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, written or implied by the scheme.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path and query of the request.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The same place at another path, which begins with a slash.
    pub(super) fn at(&self, path: &str) -> Self {
        MasterAddress {
            path: path.to_owned(),
            ..self.clone()
        }
    }

    /// What the request says in its `Host`: the port is left out where the scheme implies it.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.port == default_port(self.secure) {
            in_brackets(&self.host).into_owned()
        } else {
            with_port(&self.host, self.port)
        }
    }

    fn parse(text: &str) -> Result<Self, Problem> {
        let (secure, rest) = match text.split_once("://") {
            _ if text.is_empty() => return Err(Problem::Empty),
            None => (None, text),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("ws") => (Some(false), rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("wss") => (Some(true), rest),
            Some((scheme, _)) => return Err(Problem::Scheme(scheme.to_owned())),
        };
        if let Some(character) = rest
            .chars()
            .find(|&character| !character.is_ascii_graphic() || character == '#')
        {
            return Err(Problem::Character(character));
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if secure.is_none() && !matches!(path, "" | "/") {
            return Err(Problem::PathWithoutScheme(rest.to_owned()));
        }
        if authority.contains('@') {
            return Err(Problem::User);
        }
        let (host, port) = split_authority(authority)?;
        let port = match (port, secure) {
            (Some(port), _) => parse_port(port)?,
            (None, Some(secure)) => default_port(secure),
            (None, None) => return Err(Problem::NoPort(authority.to_owned())),
        };
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        Ok(MasterAddress {
            secure: secure.unwrap_or(false),
            host: parse_host(host)?,
            port,
            path,
        })
    }
}

impl FromStr for MasterAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        MasterAddress::parse(text.trim()).map_err(|problem| match without_password(text) {
            // Another problem may quote a part of the password.
            Cow::Owned(value) => AddressError {
                value,
                problem: Problem::User,
            },
            Cow::Borrowed(value) => AddressError {
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

/// A host as it stands before a port: an IPv6 address in brackets.
fn in_brackets(host: &str) -> Cow<'_, str> {
    if host.contains(':') {
        format!("[{host}]").into()
    } else {
        host.into()
    }
}

/// A host, without brackets, and its port as one text.
pub(super) fn with_port(host: &str, port: u16) -> String {
    format!("{}:{port}", in_brackets(host))
}

fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

/// The host, with its brackets, and the port, if there is one.
fn split_authority(authority: &str) -> Result<(&str, Option<&str>), Problem> {
    if authority.starts_with('[') {
        let end = authority.find(']').ok_or(Problem::Brackets)?;
        let (host, rest) = authority.split_at(end + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(Problem::Host(authority.to_owned())),
        };
    }
    match authority.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(Problem::Brackets),
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((authority, None)),
    }
}

fn parse_port(text: &str) -> Result<u16, Problem> {
    match text.parse() {
        Ok(port) if port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        _ => Err(Problem::Port(text.to_owned())),
    }
}

fn parse_host(host: &str) -> Result<String, Problem> {
    if let Some(inner) = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        return match inner.parse::<Ipv6Addr>() {
            Ok(address) => Ok(address.to_string()),
            Err(_) => Err(Problem::Host(host.to_owned())),
        };
    }
    if host.is_empty() {
        return Err(Problem::NoHost);
    }
    let possible =
        |character: char| character.is_ascii_alphanumeric() || matches!(character, '.' | '-' | '_');
    if host.chars().all(possible) {
        Ok(host.to_owned())
    } else {
        Err(Problem::Host(host.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        text.parse::<MasterAddress>()
            .map_or_else(|error| error.to_string(), |address| address.to_string())
    }

    #[test]
    fn host_and_port_mean_a_plain_websocket_at_the_root() {
        assert_eq!(
            written("rePort.myserver.com:51324"),
            "ws://rePort.myserver.com:51324/"
        );
        assert_eq!(written("127.0.0.1:80"), "ws://127.0.0.1/");
        assert_eq!(written("[::1]:51324"), "ws://[::1]:51324/");
        assert_eq!(written("host:51324/"), "ws://host:51324/");
    }

    #[test]
    fn a_url_has_the_port_of_its_scheme_unless_it_says_another() {
        let address: MasterAddress = "wss://example.com/report?x=1".parse().unwrap();
        assert!(address.is_secure());
        assert_eq!(
            (address.host(), address.port(), address.path()),
            ("example.com", 443, "/report?x=1")
        );
        assert_eq!(address.authority(), "example.com");
        assert_eq!(written("ws://example.com"), "ws://example.com/");
        assert_eq!(
            written("WSS://[2001:DB8::1]:8443"),
            "wss://[2001:db8::1]:8443/"
        );
        assert_eq!(
            written("ws://example.com?token=1"),
            "ws://example.com/?token=1"
        );
    }

    #[test]
    fn what_is_no_address_is_named_with_its_remedy() {
        for (text, says) in [
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
            let message = written(text);
            assert!(message.contains(says), "{text:?}: {message}");
            assert!(
                message.contains(&format!("`{text}`")),
                "the value is named: {message}"
            );
        }
    }

    #[test]
    fn a_password_is_not_repeated() {
        for (text, shown) in [
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
            let message = written(text);
            assert!(
                message.contains(shown) && message.contains("names a user"),
                "{message}"
            );
            assert!(!message.contains("sec"), "{message}");
        }
    }
}
