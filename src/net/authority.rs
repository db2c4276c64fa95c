//! `HOST` and `HOST:PORT`, as addresses, URLs and `no_proxy` write them: splits and joins the two.
//! An IPv6 address has brackets there.

use std::borrow::Cow;

/// The parts of `HOST` or `HOST:PORT`, as written. Only the brackets and the colons were checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Authority<'a> {
    /// The host without its brackets. May be empty.
    pub(crate) host: &'a str,
    /// Whether the host has brackets, as an IPv6 address has.
    pub(crate) in_brackets: bool,
    /// The text after the host and its bracket.
    rest: &'a str,
}

impl<'a> Authority<'a> {
    /// Splits the text. Returns `None` if a closing bracket is missing, or if several colons have no
    /// brackets.
    pub(crate) fn split(text: &'a str) -> Option<Self> {
        if let Some(text) = text.strip_prefix('[') {
            let (host, rest) = text.split_once(']')?;
            return Some(Authority {
                host,
                in_brackets: true,
                rest,
            });
        }
        let (host, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
        let has_several_colons = rest.rfind(':').is_some_and(|last| last > 0);
        (!has_several_colons).then_some(Authority {
            host,
            in_brackets: false,
            rest,
        })
    }

    /// Returns the text after the colon, or `None` without a colon.
    ///
    /// # Errors
    /// Returns the text after the closing bracket if it does not begin with a colon.
    pub(crate) fn port(&self) -> Result<Option<&'a str>, &'a str> {
        match self.rest.strip_prefix(':') {
            Some(port) => Ok(Some(port)),
            None if self.rest.is_empty() => Ok(None),
            None => Err(self.rest),
        }
    }
}

/// Parses a port of decimal digits without a sign.
pub(crate) fn parse_port(text: &str) -> Option<u16> {
    let port = text.parse().ok()?;
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(port)
}

/// Returns whether the text has only characters of a host name. An IPv4 address has them too.
pub(crate) fn has_name_characters(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// Returns whether the last label of a host name is a number, decimal or hexadecimal. Resolvers read
/// such a name as an IPv4 address, even in forms such as `127.1` and `0x7f000001`.
pub(crate) fn ends_in_number(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let label = host.rsplit('.').next().unwrap_or_default();
    let hexadecimal = label.strip_prefix("0x").or(label.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// Adds brackets to an IPv6 address.
pub(crate) fn in_brackets(host: &str) -> Cow<'_, str> {
    if host.contains(':') {
        format!("[{host}]").into()
    } else {
        host.into()
    }
}

/// Joins a host, without brackets, and its port.
pub(crate) fn with_port(host: &str, port: u16) -> String {
    format!("{}:{port}", in_brackets(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_resolvers_read_as_addresses_end_in_a_number() {
        for host in [
            "127.0.0.1",
            "127.1",
            "127.1.",
            "2130706433",
            "0x7f000001",
            "0X7F.1",
            "127.0x1",
            "0x",
            "017700000001",
            "nas.1",
        ] {
            assert!(ends_in_number(host), "{host}");
        }
        for host in ["nas.lan", "1.nas", "n1", "0xg", "1a", "", "a."] {
            assert!(!ends_in_number(host), "{host}");
        }
    }
}
