//! Why a proxy refuses an application before it connects, and the answer.

use std::io;

use super::{
    address::AddressError,
    http_connect::{HttpRefusal, refusal_response},
    socks5::{SocksReply, encode_reply, unspecified},
};

/// Why a proxy refuses an application.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyRequestError {
    /// The connection ended or failed.
    #[error("the connection ended in the handshake: {0}")]
    Io(#[from] io::Error),
    /// The handshake took too long.
    #[error("the handshake took too long")]
    Timeout,
    /// The application speaks SOCKS4.
    #[error(
        "it speaks SOCKS4, which has no users and no IPv6 (configure SOCKS5 in the application)"
    )]
    Socks4,
    /// The application speaks another protocol.
    #[error("its first byte is {0:#04x}, which begins neither SOCKS5 nor HTTP")]
    OtherProtocol(u8),
    /// A message of SOCKS5 has another version.
    #[error("a message of SOCKS5 has the version {0}")]
    Version(u8),
    /// The application offers no method that the proxy accepts.
    #[error("{}", no_method(.needs_user))]
    NoMethod {
        /// Whether the proxy has a user.
        needs_user: bool,
    },
    /// The name or the password is wrong.
    #[error("wrong user or password")]
    WrongUser,
    /// Too many wrong passwords came from the address.
    #[error("too many wrong passwords came from its address (it may try again in a minute)")]
    Throttled,
    /// The proxy does not support the command.
    #[error(
        "it sent the SOCKS5 command {0}, and only CONNECT (1) and UDP ASSOCIATE (3) are supported"
    )]
    Command(u8),
    /// The application requests datagrams over a unix socket, so it has no address for them.
    #[error(
        "it requests UDP ASSOCIATE over a unix socket, which carries no datagrams (let the application connect to a port at \"HOST:PORT\")"
    )]
    UnixAssociate,
    /// The type of the address is unknown.
    #[error("its SOCKS5 request has an address of the type {0}")]
    AddressType(u8),
    /// The destination is invalid.
    #[error("its destination is invalid")]
    Target,
    /// The proxy refuses the HTTP request.
    #[error("HTTP: {0}")]
    Http(#[from] HttpRefusal),
}

fn no_method(needs_user: &bool) -> &'static str {
    if *needs_user {
        "it does not authenticate (configure the user of `socks_user` in the application)"
    } else {
        "it offers no SOCKS5 method without authentication"
    }
}

impl From<AddressError> for ProxyRequestError {
    fn from(error: AddressError) -> Self {
        match error {
            AddressError::Type(kind) => Self::AddressType(kind),
            AddressError::Incomplete | AddressError::NotText => Self::Target,
            AddressError::Io(error) => Self::Io(error),
        }
    }
}

impl ProxyRequestError {
    /// Returns the answer, which may be empty.
    pub(super) fn answer(&self) -> Vec<u8> {
        match self {
            Self::Io(_) | Self::Timeout | Self::OtherProtocol(_) | Self::Version(_) => Vec::new(),
            // "Request rejected or failed", in the format of SOCKS4.
            Self::Socks4 => vec![0, 0x5b, 0, 0, 0, 0, 0, 0],
            Self::NoMethod { .. } => vec![5, 0xff],
            Self::WrongUser | Self::Throttled => vec![1, 1],
            Self::Command(_) | Self::UnixAssociate => {
                encode_reply(SocksReply::CommandNotSupported, unspecified())
            }
            Self::AddressType(_) => {
                encode_reply(SocksReply::AddressTypeNotSupported, unspecified())
            }
            Self::Target => encode_reply(SocksReply::GeneralFailure, unspecified()),
            Self::Http(refusal) => refusal_response(refusal),
        }
    }

    /// Returns the reason in the metrics.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::WrongUser | Self::Http(HttpRefusal::WrongUser) => "proxy_user_refused",
            Self::Throttled | Self::Http(HttpRefusal::Throttled) => "proxy_user_throttled",
            Self::NoMethod { .. } | Self::Http(HttpRefusal::NoUser) => "proxy_user_missing",
            Self::Io(_) | Self::Timeout => "proxy_handshake_interrupted",
            _ => "proxy_request_invalid",
        }
    }
}
