//! The protocol that an application speaks with the proxy, and its answers.

use super::{
    failure::ConnectFailure,
    http_connect::{ESTABLISHED, failure_response},
    socks5::{SocksReply, encode_reply, unspecified},
};

/// The protocol between an application and the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProxyDialect {
    Socks5,
    Http,
}

impl ProxyDialect {
    /// Returns the answer to a request whose connection is up.
    pub(super) fn success(self) -> Vec<u8> {
        match self {
            ProxyDialect::Socks5 => encode_reply(SocksReply::Succeeded, unspecified()),
            ProxyDialect::Http => ESTABLISHED.to_vec(),
        }
    }

    /// Returns the answer to a request without a connection.
    pub(super) fn failure(self, failure: ConnectFailure) -> Vec<u8> {
        match self {
            ProxyDialect::Socks5 => encode_reply(failure.reply(), unspecified()),
            ProxyDialect::Http => failure_response(failure),
        }
    }
}
