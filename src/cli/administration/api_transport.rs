//! The connection to an admin address: a unix socket, or TCP with or without TLS.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{anyhow, bail};
use tokio::net::TcpStream;

use super::api_tls::{ApiTls, TlsArguments};
use crate::{
    config::{AdminAddress, AdminConfig},
    net::websocket::ByteStream,
};

/// Where a master serves its API, and how to connect to it.
#[derive(Debug)]
pub(super) struct ApiTransport {
    address: AdminAddress,
    tls: Option<ApiTls>,
}

/// The reason why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// No process listens at the address.
    #[error("no process listens there: {0}")]
    Absent(io::Error),
    /// The system refuses the connection.
    #[error("{0}{remedy}", remedy = advice(.0))]
    Refused(io::Error),
    /// The TLS handshake failed.
    #[error("the TLS handshake failed: {0}")]
    Tls(String),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            " (run the command as the user of the master, or as root)"
        }
        _ => "",
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => OpenError::Absent(error),
            _ => OpenError::Refused(error),
        }
    }
}

impl ApiTransport {
    /// Prepares connections to an admin address.
    ///
    /// # Errors
    /// If the options of TLS cannot be used, or the address does not use TLS and has some.
    pub(super) fn new(config: &AdminConfig, options: &TlsArguments) -> anyhow::Result<Self> {
        let address = config.listen_at.clone();
        let tls = match (&config.tls, tcp_address(&address)) {
            (Some(files), Some(address)) => Some(ApiTls::new(files, address, options)?),
            _ => match options.first_given() {
                Some(option) => bail!("{option} has no effect without `admin.tls` (omit it)"),
                None => None,
            },
        };
        Ok(ApiTransport { address, tls })
    }

    /// Returns the admin address.
    pub(super) fn address(&self) -> &AdminAddress {
        &self.address
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// If no process listens, the system refuses, or the certificate is not trusted.
    pub(super) async fn open(&self) -> Result<Box<dyn ByteStream>, OpenError> {
        let Some(address) = tcp_address(&self.address) else {
            return self.open_unix().await;
        };
        let stream = TcpStream::connect(address).await?;
        match &self.tls {
            Some(tls) => {
                let stream = tls.connect(stream).await.map_err(OpenError::Tls)?;
                Ok(Box::new(stream))
            }
            None => Ok(Box::new(stream)),
        }
    }

    /// Returns the error of a request, in the words of TLS if the address has rejected the certificate
    /// of this command.
    pub(super) fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let tls = self.tls.as_ref();
        let rejection = tls.and_then(|tls| tls.rejection_in(&*error));
        rejection.map_or(error, |rejection| anyhow!(rejection))
    }

    async fn open_unix(&self) -> Result<Box<dyn ByteStream>, OpenError> {
        #[cfg(unix)]
        if let AdminAddress::Unix(path) = &self.address {
            return Ok(Box::new(tokio::net::UnixStream::connect(path).await?));
        }
        Err(io::Error::from(io::ErrorKind::Unsupported).into())
    }
}

/// Returns the TCP address to connect to. A listener at all addresses is also at loopback.
fn tcp_address(address: &AdminAddress) -> Option<SocketAddr> {
    let (AdminAddress::Loopback(address) | AdminAddress::Public(address)) = address else {
        return None;
    };
    let mut address = *address;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_at_all_addresses_is_at_loopback() {
        for (listen_at, expected) in [
            ("0.0.0.0:9300", "127.0.0.1:9300"),
            ("[::]:9300", "[::1]:9300"),
            ("192.0.2.7:9300", "192.0.2.7:9300"),
        ] {
            let address = AdminAddress::Public(listen_at.parse().unwrap());
            assert_eq!(tcp_address(&address), Some(expected.parse().unwrap()));
        }
        assert_eq!(
            tcp_address(&AdminAddress::Unix("/run/admin.sock".into())),
            None
        );
    }
}
