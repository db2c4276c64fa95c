//! SOCKS5 (RFC 1928), with user and password authentication (RFC 1929) if the proxy requires it.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio_socks::{Error, tcp::Socks5Stream};

use super::{ProxyError, address::ProxyUser};
use crate::net::websocket::ByteStream;

/// The destination of a tunnel.
#[derive(Debug, Clone, Copy)]
pub enum ProxyTarget<'a> {
    /// A name that the proxy resolves.
    Name(&'a str, u16),
    /// An address that this machine resolved.
    Address(SocketAddr),
}

/// Requests a tunnel from a SOCKS5 proxy over an open connection.
///
/// # Errors
/// Why the proxy opens no tunnel.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn through_socks(
    stream: TcpStream,
    user: Option<&ProxyUser>,
    target: ProxyTarget<'_>,
) -> Result<Box<dyn ByteStream>, ProxyError> {
    let connected = match (target, user) {
        (ProxyTarget::Name(name, port), None) => {
            Socks5Stream::connect_with_socket(stream, (name, port)).await
        }
        (ProxyTarget::Address(address), None) => {
            Socks5Stream::connect_with_socket(stream, address).await
        }
        (ProxyTarget::Name(name, port), Some(user)) => {
            Socks5Stream::connect_with_password_and_socket(
                stream,
                (name, port),
                &user.name,
                user.password(),
            )
            .await
        }
        (ProxyTarget::Address(address), Some(user)) => {
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
            "it requires authentication: write socks5://USER:PASSWORD@… in `proxy`"
        }
        (Error::PasswordAuthFailure(_), _) => "check the user and the password in `proxy`",
        (Error::NoAcceptableAuthMethods | Error::UnknownAuthMethod, Some(_)) => {
            "it offers no supported authentication method"
        }
        (Error::ConnectionNotAllowedByRuleset, _) => {
            "its rules do not allow that: some proxies allow only port 443"
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
            "the port does not speak SOCKS5: check the scheme, host and port in `proxy`"
        }
        _ => "ask its operator",
    }
}
