//! A way through a proxy: which one, who asks, and what it answers. Knows connections to proxies and where they are to lead; not what they will carry.
//!
//! | file | what it owns |
//! |---|---|
//! | [`address`] | a proxy as written |
//! | [`environment`] | the one that the environment names |
//! | `connect` | HTTP CONNECT |
//! | [`authentication`], `tokens` | telling it who asks |
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
    connect::{Connects, connect},
    socks::{Target, through_socks},
};

use super::upgrade::{MAX_FIELDS, MAX_HEAD};

/// Why a proxy gives no way.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It cannot be told who asks.
    #[error("{0}")]
    Authentication(#[from] AuthenticationError),
    /// It answers with another status than 200.
    #[error("it gives no way to {target}: HTTP status {status}{}; {}", said(.body), remedy(*.status, .location.as_deref()))]
    Refused {
        /// Where the way was to lead.
        target: String,
        /// What it answers.
        status: StatusCode,
        /// Where it sends the request instead.
        location: Option<String>,
        /// The first line of text in the body.
        body: String,
    },
    /// What answered does not speak HTTP.
    #[error(
        "what listens there does not speak HTTP ({0}); check the scheme, host and port in `proxy`"
    )]
    NotHttp(String),
    /// The head of its answer is larger than what is read.
    #[error(
        "its answer's head is longer than {} KiB or has more than {MAX_FIELDS} fields; let the proxy write fewer, and check the host and port in `proxy`",
        MAX_HEAD / 1024
    )]
    LargeHead,
    /// It closed the connection without an answer, with an end of file or, where it had left something unread, a reset.
    #[error(
        "it closed the connection without an answer; does it speak another protocol, or refuse this machine?"
    )]
    Closed,
    /// SOCKS failed.
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

fn said(body: &str) -> String {
    if body.is_empty() {
        String::new()
    } else {
        format!(", it says {body:?}")
    }
}

fn remedy(status: StatusCode, location: Option<&str>) -> String {
    match (status.as_u16(), location) {
        (300..=399, Some(location)) => {
            format!("it sends to {location:?}, as a page does where one has to log in first: open it in a browser")
        }
        (403, _) => "its rules do not allow that: many allow port 443 alone".to_owned(),
        // squid answers 500 when it cannot resolve the name.
        (500 | 502..=504, _) => {
            "it cannot reach the master: check `master`, and whether its own rules or resolver stand in the way".to_owned()
        }
        (400 | 404 | 405 | 501, _) => {
            "it may be a web server and no proxy, or one that does not do CONNECT: check `proxy`".to_owned()
        }
        (429, _) => "it wants fewer requests: wait".to_owned(),
        _ => "ask whoever runs it".to_owned(),
    }
}
