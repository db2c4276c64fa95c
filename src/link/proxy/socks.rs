//! SOCKS5 (RFC 1928), with a user and a password (RFC 1929) where it wants them.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio_socks::{Error, tcp::Socks5Stream};

use super::{ProxyError, address::ProxyUser};
use crate::link::websocket::ByteStream;

/// Where the way is to lead.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// To be resolved at the proxy.
    Name(&'a str, u16),
    /// Resolved here.
    Address(SocketAddr),
}

/// Asks a SOCKS5 proxy, over a connection to it, for a way.
///
/// # Errors
/// Why it gives none.
///
/// # Cancel safety
/// Dropping the future drops the connection.
pub async fn through_socks(
    stream: TcpStream,
    user: Option<&ProxyUser>,
    target: Target<'_>,
) -> Result<Box<dyn ByteStream>, ProxyError> {
    let connected = match (target, user) {
        (Target::Name(name, port), None) => {
            Socks5Stream::connect_with_socket(stream, (name, port)).await
        }
        (Target::Address(address), None) => {
            Socks5Stream::connect_with_socket(stream, address).await
        }
        (Target::Name(name, port), Some(user)) => {
            Socks5Stream::connect_with_password_and_socket(
                stream,
                (name, port),
                &user.name,
                user.password(),
            )
            .await
        }
        (Target::Address(address), Some(user)) => {
            Socks5Stream::connect_with_password_and_socket(
                stream,
                address,
                &user.name,
                user.password(),
            )
            .await
        }
    };
    match connected {
        Ok(stream) => Ok(Box::new(stream.into_inner())),
        Err(Error::Io(error)) => Err(error.into()),
        Err(error) => Err(ProxyError::Socks(format!(
            "{}; {}",
            lower(&error.to_string()),
            remedy(&error, user)
        ))),
    }
}

fn lower(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(characters).collect()
    })
}

fn remedy(error: &Error, user: Option<&ProxyUser>) -> &'static str {
    match (error, user) {
        (Error::NoAcceptableAuthMethods | Error::UnknownAuthMethod, None) => {
            "it wants to know who asks: write socks5://USER:PASSWORD@… in `proxy`"
        }
        (Error::PasswordAuthFailure(_), _) => "check the user and the password in `proxy`",
        (Error::NoAcceptableAuthMethods | Error::UnknownAuthMethod, Some(_)) => {
            "it takes neither no user nor a password"
        }
        (Error::ConnectionNotAllowedByRuleset, _) => {
            "its rules do not allow that: some allow port 443 alone"
        }
        (
            Error::HostUnreachable
            | Error::NetworkUnreachable
            | Error::ConnectionRefused
            | Error::TtlExpired,
            _,
        ) => {
            "it cannot reach the master: check `master`; with socks5:// the name is resolved here, with socks5h:// at the proxy"
        }
        (Error::InvalidResponseVersion, _) => {
            "what listens there does not speak SOCKS5: check the scheme, host and port in `proxy`"
        }
        _ => "ask whoever runs it",
    }
}
