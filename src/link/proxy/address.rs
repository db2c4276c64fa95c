//! Where a proxy is and who asks it, as a user writes it: `http://user:password@host:port`, or with `https`, `socks5`, `socks5h`.

use std::{fmt, str::FromStr};

use percent_encoding::percent_decode_str;
use url::{Host, Url};
use zeroize::Zeroizing;

use crate::link::address::with_port;

/// What is spoken with a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyKind {
    /// HTTP CONNECT.
    Http,
    /// HTTP CONNECT inside TLS.
    Https,
    /// SOCKS5; names are resolved here.
    Socks5,
    /// SOCKS5; names are resolved at the proxy.
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
}

/// Who asks a proxy. Its `Debug` shows no password, and its memory is cleared when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUser {
    /// `user`, `DOMAIN\user` or `user@REALM`.
    pub name: String,
    password: Zeroizing<String>,
}

impl ProxyUser {
    /// The password; never to be printed.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for ProxyUser {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:…", self.name)
    }
}

/// A proxy, parsed. Prints without the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyAddress {
    /// What is spoken with it.
    pub kind: ProxyKind,
    /// A name, an IPv4 address, or an IPv6 address without its brackets.
    pub host: String,
    /// Written, or that of the scheme: 80, 443, 1080.
    pub port: u16,
    /// Who asks it, if it wants to know.
    pub user: Option<ProxyUser>,
}

/// The text is no address of a proxy. Nothing of the text is in it, for there may be a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyAddressError {
    /// There is nothing.
    #[error("is empty: write http://HOST:PORT, https://, socks5:// or socks5h://, or \"none\"")]
    Empty,
    /// It begins with something else.
    #[error(
        "begins with \"{0}://\": a proxy's scheme is http, https, socks5 (names are resolved here) or socks5h (at the proxy)"
    )]
    Scheme(String),
    /// It cannot be parsed.
    #[error(
        "is not the URL of a proxy ({0}): write http://USER:PASSWORD@HOST:PORT, with %40 for an @ in the password"
    )]
    Syntax(String),
    /// It goes on behind the port.
    #[error("has a path or a query behind the port, which a proxy has no use for: remove it")]
    Path,
    /// A part is not UTF-8 when it is decoded.
    #[error(
        "has a user or password that is not UTF-8 when its %-escapes are decoded: write % itself as %25"
    )]
    NotUtf8,
}

impl FromStr for ProxyAddress {
    type Err = ProxyAddressError;

    /// `host:port` alone is taken for `http://`, as curl does.
    fn from_str(text: &str) -> Result<Self, ProxyAddressError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(ProxyAddressError::Empty);
        }
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let kind = ProxyKind::ALL
            .into_iter()
            .find(|kind| kind.scheme().eq_ignore_ascii_case(scheme));
        let kind = kind.ok_or_else(|| {
            // Behind a colon it may be a password that was not escaped.
            let is_scheme = scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
            if is_scheme {
                ProxyAddressError::Scheme(scheme.to_owned())
            } else {
                ProxyAddressError::Syntax("its scheme is no word".to_owned())
            }
        })?;
        // Parsed as http, for which the URL standard knows what a host may be. Its default port is left out there, and another one is not.
        let with_port = |text: &str| {
            Url::parse(text).map_err(|error| ProxyAddressError::Syntax(error.to_string()))
        };
        let url = with_port(&format!("http://{rest}"))?;
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(ProxyAddressError::Path);
        }
        let host = match url.host() {
            Some(Host::Ipv6(address)) => address.to_string(),
            Some(host) => host.to_string(),
            None => return Err(ProxyAddressError::Syntax("it has no host".to_owned())),
        };
        let port = url
            .port()
            .or_else(|| written_port(rest))
            .unwrap_or_else(|| kind.default_port());
        let decoded = |text: &str| {
            percent_decode_str(text)
                .decode_utf8()
                .map(|text| text.into_owned())
        };
        let user = if url.username().is_empty() && url.password().is_none() {
            None
        } else {
            let name = decoded(url.username()).map_err(|_| ProxyAddressError::NotUtf8)?;
            let password = decoded(url.password().unwrap_or_default())
                .map_err(|_| ProxyAddressError::NotUtf8)?;
            Some(ProxyUser {
                name,
                password: Zeroizing::new(password),
            })
        };
        Ok(ProxyAddress {
            kind,
            host,
            port,
            user,
        })
    }
}

/// Port 80, which the URL standard forgets after `http`, when it was written.
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
    fn a_proxy_is_read_with_its_user_and_printed_without() {
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
    fn what_is_left_out_is_that_of_the_scheme() {
        for (text, shown) in [
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
                Ok(shown.to_owned()),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_repeating_it() {
        for (text, says) in [
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
                error.contains(says) && !error.contains("secret"),
                "{text}: {error}"
            );
        }
    }
}
