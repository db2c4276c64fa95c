//! SOCKS5 (RFC 1928), with user and password authentication (RFC 1929) if the proxy requires it.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio_socks::{Error, tcp::Socks5Stream};

use super::{address::ProxyUser, error::ProxyError, socks_error::SocksError};
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
        Err(error) => Err(ProxyError::Socks(SocksError {
            error,
            has_user: user.is_some(),
        })),
    }
}
