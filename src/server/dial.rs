//! Connects to one address of a service: over TCP, or at a unix socket.

use std::time::Duration;

use crate::{
    config::{Target, UnixAddress},
    net::{
        connect::{ConnectError, connect},
        local_stream::LocalStream,
    },
};

/// Connects to `target` within `limit`. Resolves its name anew.
///
/// # Errors
/// If there is no connection; the error names each address that was tried.
///
/// # Cancel safety
/// Dropping the future closes the connections made so far.
pub async fn connect_target(target: &Target, limit: Duration) -> Result<LocalStream, ConnectError> {
    match target {
        Target::Tcp(address) => {
            let connected = connect(&address.host, address.port, limit).await;
            connected.map(LocalStream::Tcp)
        }
        Target::Unix(address) => connect_socket(address, limit).await,
    }
}

#[cfg(unix)]
async fn connect_socket(
    address: &UnixAddress,
    limit: Duration,
) -> Result<LocalStream, ConnectError> {
    match address.to_socket_addr() {
        Ok(socket) => crate::net::unix_connect::connect_unix(&socket, limit).await,
        Err(error) => Err(ConnectError::Socket {
            socket: address.to_string(),
            fault: error.into(),
        }),
    }
}

/// Fails: the configuration refuses such an address on this system.
#[cfg(not(unix))]
async fn connect_socket(address: &UnixAddress, _: Duration) -> Result<LocalStream, ConnectError> {
    Err(ConnectError::Socket {
        socket: address.to_string(),
        fault: std::io::Error::from(std::io::ErrorKind::Unsupported).into(),
    })
}
