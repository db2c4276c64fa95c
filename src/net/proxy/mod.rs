//! Opens tunnels through a proxy: its address, authentication and protocol. Does not know what the
//! tunnel will carry.
//!
//! | file | contents |
//! |---|---|
//! | [`address`] | the address of a proxy |
//! | [`environment`] | the proxy that the environment names |
//! | `connect` | HTTP CONNECT |
//! | [`authentication`], `tokens` | authentication schemes |
//! | `socks` | SOCKS5 |

pub mod address;
pub mod authentication;
mod connect;
pub mod environment;
mod socks;
mod tokens;

use std::io;

use http::StatusCode;

pub use self::{
    address::{ProxyAddress, ProxyAddressError, ProxyKind, ProxyUser},
    authentication::AuthenticationError,
    connect::{ProxyConnector, connect},
    socks::{ProxyTarget, through_socks},
};

use super::upgrade::{MAX_FIELDS, MAX_HEAD};

/// Why a proxy opened no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Authentication failed.
    #[error("{0}")]
    Authentication(#[from] AuthenticationError),
    /// The response has a status other than 200.
    #[error("it refused a tunnel to {target}: HTTP status {status}{}; {}", body_text(.body), remedy(*.status, .location.as_deref()))]
    Refused {
        /// The requested destination.
        target: String,
        /// The status of the response.
        status: StatusCode,
        /// The target of a redirection.
        location: Option<String>,
        /// The first line of text in the body.
        body: String,
    },
    /// The port does not speak HTTP.
    #[error("the port does not speak HTTP ({0}); check the scheme, host and port in `proxy`")]
    NotHttp(String),
    /// The head of the response exceeds the limits.
    #[error(
        "its response head is longer than {} KiB or has more than {MAX_FIELDS} fields; let the proxy send fewer, and check the host and port in `proxy`",
        MAX_HEAD / 1024
    )]
    LargeHead,
    /// The proxy closed the connection without a response: with an end of file or, if it left data
    /// unread, with a reset.
    #[error(
        "it closed the connection without an answer; check the scheme in `proxy`, and that the proxy accepts this machine"
    )]
    Closed,
    /// The SOCKS handshake failed.
    #[error("{0}")]
    Socks(String),
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(io::Error),
}

impl From<io::Error> for ProxyError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe => ProxyError::Closed,
            _ => ProxyError::Io(error),
        }
    }
}

fn body_text(body: &str) -> String {
    if body.is_empty() {
        String::new()
    } else {
        format!(", body {body:?}")
    }
}

fn remedy(status: StatusCode, location: Option<&str>) -> String {
    match (status.as_u16(), location) {
        (300..=399, Some(location)) => {
            format!("it redirects to {location:?}, probably a login page: open it in a browser")
        }
        (403, _) => "its rules do not allow that: many proxies allow only port 443".to_owned(),
        // Squid answers 500 if it cannot resolve the name.
        (500 | 502..=504, _) => {
            "it cannot reach the master: check `master`, and the rules and the resolver of the proxy".to_owned()
        }
        (400 | 404 | 405 | 501, _) => {
            "it may be a web server instead of a proxy, or a proxy without CONNECT: check `proxy`".to_owned()
        }
        (429, _) => "it limits the request rate: wait".to_owned(),
        _ => "ask its operator".to_owned(),
    }
}
