//! The address and the user of a proxy, as written by a user: `http://user:password@host:port`, or
//! with `https`, `socks5` or `socks5h`.

use std::{fmt, str::FromStr};

use percent_encoding::percent_decode_str;
use url::{Host, Url};
use zeroize::Zeroizing;

use crate::{net::authority::with_port, text::has_scheme_characters};

/// The protocol of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyKind {
    /// HTTP CONNECT.
    Http,
    /// HTTP CONNECT inside TLS.
    Https,
    /// SOCKS5; this machine resolves names.
    Socks5,
    /// SOCKS5; the proxy resolves names.
    Socks5h,
}

impl ProxyKind {
    const ALL: [ProxyKind; 4] = [
        ProxyKind::Http,
        ProxyKind::Https,
        ProxyKind::Socks5,
        ProxyKind::Socks5h,
    ];

    fn scheme(self) -> &'static str {
        match self {
            ProxyKind::Http => "http",
            ProxyKind::Https => "https",
            ProxyKind::Socks5 => "socks5",
            ProxyKind::Socks5h => "socks5h",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            ProxyKind::Http => 80,
            ProxyKind::Https => 443,
            ProxyKind::Socks5 | ProxyKind::Socks5h => 1080,
        }
    }

    fn from_scheme(scheme: &str) -> Result<Self, ProxyAddressError> {
        let kind = ProxyKind::ALL
            .into_iter()
            .find(|kind| kind.scheme().eq_ignore_ascii_case(scheme));
        kind.ok_or_else(|| {
            if has_scheme_characters(scheme) {
                ProxyAddressError::Scheme(scheme.to_owned())
            } else {
                ProxyAddressError::Syntax("its scheme is invalid".to_owned())
            }
        })
    }
}

/// The credentials for a proxy. `Debug` omits the password, and dropping the value clears its
/// memory.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUser {
    /// `user`, `DOMAIN\user` or `user@REALM`.
    pub name: String,
    password: Zeroizing<String>,
}

impl ProxyUser {
    /// Returns the password. Never print it.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Decodes the user and the password of a URL. Returns `None` if it has neither.
    fn from_url(url: &Url) -> Result<Option<Self>, ProxyAddressError> {
        if url.username().is_empty() && url.password().is_none() {
            return Ok(None);
        }
        let decoded = |text: &str| {
            percent_decode_str(text)
                .decode_utf8()
                .map(|text| text.into_owned())
                .map_err(|_| ProxyAddressError::NotUtf8)
        };
        Ok(Some(ProxyUser {
            name: decoded(url.username())?,
            password: Zeroizing::new(decoded(url.password().unwrap_or_default())?),
        }))
    }
}

impl fmt::Debug for ProxyUser {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:…", self.name)
    }
}

/// The parsed address of a proxy. Prints without the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyAddress {
    /// The protocol of the proxy.
    pub kind: ProxyKind,
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The port, or the default of the scheme: 80, 443 or 1080.
    pub port: u16,
    /// The credentials, if the proxy requires authentication.
    pub user: Option<ProxyUser>,
}

/// Why a text is not the address of a proxy. Repeats only the scheme, because the text may contain
/// a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyAddressError {
    /// The text is empty.
    #[error("is empty: write http://HOST:PORT, https://, socks5:// or socks5h://, or \"none\"")]
    Empty,
    /// The scheme is unknown.
    #[error(
        "begins with \"{0}://\": a proxy's scheme is http, https, socks5 (names are resolved here) or socks5h (at the proxy)"
    )]
    Scheme(String),
    /// The text cannot be parsed.
    #[error(
        "is not the URL of a proxy ({0}): write http://USER:PASSWORD@HOST:PORT, with %40 for an @ in the password"
    )]
    Syntax(String),
    /// Something follows the port.
    #[error("has a path or a query after the port: remove it")]
    Path,
    /// The user or the password is not UTF-8 after decoding.
    #[error(
        "has a user or password that is not UTF-8 when its %-escapes are decoded: write % itself as %25"
    )]
    NotUtf8,
}

impl FromStr for ProxyAddress {
    type Err = ProxyAddressError;

    /// Takes `host:port` without a scheme as `http://`, like curl.
    fn from_str(text: &str) -> Result<Self, ProxyAddressError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(ProxyAddressError::Empty);
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let kind = ProxyKind::from_scheme(scheme)?;
        let url = parse_url(rest)?;
        let host = match url.host() {
            Some(Host::Ipv6(address)) => address.to_string(),
            Some(host) => host.to_string(),
            None => return Err(ProxyAddressError::Syntax("it has no host".to_owned())),
        };
        let port = url
            .port()
            .or_else(|| written_port(rest))
            .unwrap_or_else(|| kind.default_port());
        Ok(ProxyAddress {
            kind,
            host,
            port,
            user: ProxyUser::from_url(&url)?,
        })
    }
}

/// Parses the text after `://` as a URL without a path.
fn parse_url(rest: &str) -> Result<Url, ProxyAddressError> {
    // Parse as http, for which the URL standard defines the host's syntax. The parser then omits
    // port 80, but keeps every other port.
    let url = Url::parse(&format!("http://{rest}"))
        .map_err(|error| ProxyAddressError::Syntax(error.to_string()))?;
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err(ProxyAddressError::Path);
    }
    Ok(url)
}

/// Returns port 80 if it was written: the URL standard drops it after `http`.
fn written_port(rest: &str) -> Option<u16> {
    rest.trim_end_matches('/')
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok())
}

impl fmt::Display for ProxyAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}://{}",
            self.kind.scheme(),
            with_port(&self.host, self.port)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_is_parsed_with_user_and_printed_without() {
        let proxy: ProxyAddress = "http://CORP%5Cann:p%40ss%3Aword@proxy.corp.example:3128/"
            .parse()
            .unwrap();
        let user = proxy.user.clone().unwrap();
        assert_eq!(
            (user.name.as_str(), user.password()),
            ("CORP\\ann", "p@ss:word")
        );
        assert_eq!(proxy.to_string(), "http://proxy.corp.example:3128");
        assert!(!format!("{proxy:?}").contains("p@ss"), "{proxy:?}");
    }

    #[test]
    fn missing_parts_default_to_the_scheme() {
        for (text, printed) in [
            ("proxy:3128", "http://proxy:3128"),
            ("proxy", "http://proxy:80"),
            ("HTTP://proxy:80", "http://proxy:80"),
            ("https://proxy", "https://proxy:443"),
            ("https://proxy:80", "https://proxy:80"),
            ("socks5://10.0.0.1", "socks5://10.0.0.1:1080"),
            (
                "socks5h://[2001:db8::1]:9050",
                "socks5h://[2001:db8::1]:9050",
            ),
            ("socks5h://[::1]", "socks5h://[::1]:1080"),
        ] {
            assert_eq!(
                text.parse::<ProxyAddress>().map(|proxy| proxy.to_string()),
                Ok(printed.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn invalid_proxy_is_rejected_without_repeating_the_password() {
        for (text, expected) in [
            (" ", "empty"),
            ("ftp://secret@proxy", "begins with \"ftp://\""),
            ("user:secret://proxy", "not the URL"),
            ("http://user:secret@", "not the URL"),
            ("http://user:secret@proxy:99999", "not the URL"),
            ("http://user:secret@proxy/path", "path"),
            ("http://user:%ffsecret@proxy", "not UTF-8"),
        ] {
            let error = text.parse::<ProxyAddress>().unwrap_err().to_string();
            assert!(
                error.contains(expected) && !error.contains("secret"),
                "{text}: {error}"
            );
        }
    }
}
