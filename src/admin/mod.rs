//! The admin address: metrics and health checks of a role over HTTP, for the operator of the machine.
//! Knows HTTP and sockets. An [`ObservedRole`] supplies the content.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | the metrics in the OpenMetrics text format |
//! | `/livez` | 200 while the process serves |
//! | `/readyz` | 200 while the role is ready, otherwise 503; the body names what is missing |
//!
//! It listens at loopback or at a unix socket, so it needs no authentication: the socket
//! has mode 0600, and at loopback the `Host` of a request must name this machine. Otherwise a web
//! page could read the answers through a name that it lets resolve to 127.0.0.1 (DNS rebinding).

mod routes;
#[cfg(test)]
mod tests;
#[cfg(unix)]
mod unix_socket;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tracing::{debug, info};

use self::routes::{HostCheck, routes};
use crate::{
    config::{AdminAddress, AdminConfig},
    metrics::ObservedRole,
    net::{
        file_limit::ThrottledLog,
        tcp::{self, is_single_connection_error},
        websocket::ByteStream,
    },
};

/// The most connections at a time. A monitoring system uses one, and an operator a few. Further ones
/// wait in the backlog of the kernel.
const MAX_CONNECTIONS: usize = 16;

/// The timeout for the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The lifetime of a connection, which carries one request.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);

/// The longest head of a request, in bytes: the minimum of hyper's buffer.
const HEADER_BYTES: usize = 8 * 1024;

/// The pause after the system refused another connection.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The admin address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen at `admin.listen_at` {address}: {source}{}",
    advice(source)
)]
pub struct AdminError {
    address: AdminAddress,
    source: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse | io::ErrorKind::AlreadyExists => {
            " (choose another address or stop the program that uses it)"
        }
        io::ErrorKind::NotFound => {
            " (create the folder of the socket; systemd does with `RuntimeDirectory`)"
        }
        io::ErrorKind::PermissionDenied => {
            " (the process must be able to write the folder of the socket; ports below 1024 need a privilege)"
        }
        _ => "",
    }
}

/// The listener of an admin address. Dropping it removes a unix socket.
#[derive(Debug)]
pub struct AdminListener {
    socket: AdminSocket,
}

#[derive(Debug)]
enum AdminSocket {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(unix_socket::UnixSocket),
}

/// A connection to the admin address.
enum AdminStream {
    Tcp(tokio::net::TcpStream),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
}

impl AdminListener {
    /// Listens at the address of the configuration. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the address is in use, or the system refuses.
    pub fn bind(config: &AdminConfig) -> Result<Self, AdminError> {
        let address = config.listen_at.clone();
        match AdminSocket::bind(&address) {
            Ok(socket) => Ok(AdminListener { socket }),
            Err(source) => Err(AdminError { address, source }),
        }
    }

    /// Returns the address with the port that the system chose, or `None` for a unix socket.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            AdminSocket::Tcp(listener) => listener.local_addr().ok(),
            #[cfg(unix)]
            AdminSocket::Unix(_) => None,
        }
    }

    /// Serves the role. Never returns.
    ///
    /// # Cancel safety
    /// Dropping the future closes the listener and all connections.
    pub async fn serve(self, role: Arc<dyn ObservedRole>) {
        self.log();
        let routes = routes(role, self.socket.host_check());
        let accept_log = ThrottledLog::default();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                // A panic of a connection is logged where it occurs.
                Some(_) = connections.join_next() => {}
                accepted = self.socket.accept(), if connections.len() < MAX_CONNECTIONS => {
                    match accepted {
                        Ok(AdminStream::Tcp(stream)) => {
                            connections.spawn(serve_connection(stream, routes.clone()));
                        }
                        #[cfg(unix)]
                        Ok(AdminStream::Unix(stream)) => {
                            connections.spawn(serve_connection(stream, routes.clone()));
                        }
                        Err(error) if is_single_connection_error(&error) => {
                            debug!(%error, "admin connection not accepted");
                        }
                        Err(error) => {
                            accept_log.log_accept_error(&error);
                            tokio::time::sleep(ACCEPT_BACKOFF).await;
                        }
                    }
                }
            }
        }
    }

    fn log(&self) {
        match &self.socket {
            AdminSocket::Tcp(_) => {
                let address = self.local_addr().map(tracing::field::display);
                info!(address, "admin address: serving metrics and health checks");
            }
            #[cfg(unix)]
            AdminSocket::Unix(socket) => {
                let path = socket.path().display();
                info!(%path, "admin address: serving metrics and health checks");
            }
        }
    }
}

impl AdminSocket {
    fn bind(address: &AdminAddress) -> io::Result<Self> {
        match address {
            AdminAddress::Loopback(address) => tcp::listen(*address, &[]).map(AdminSocket::Tcp),
            #[cfg(unix)]
            AdminAddress::Unix(path) => unix_socket::UnixSocket::bind(path).map(AdminSocket::Unix),
            #[cfg(not(unix))]
            AdminAddress::Unix(_) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "rePort has no unix sockets on this system",
            )),
        }
    }

    fn host_check(&self) -> HostCheck {
        match self {
            AdminSocket::Tcp(_) => HostCheck::Loopback,
            #[cfg(unix)]
            AdminSocket::Unix(_) => HostCheck::Nothing,
        }
    }

    async fn accept(&self) -> io::Result<AdminStream> {
        match self {
            AdminSocket::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(AdminStream::Tcp(stream))
            }
            #[cfg(unix)]
            AdminSocket::Unix(socket) => socket.accept().await.map(AdminStream::Unix),
        }
    }
}

/// Serves one request.
async fn serve_connection(stream: impl ByteStream, routes: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    // Errors concern this peer only: it left, or sent no valid request in time.
    if let Ok(Err(error)) = timeout(CONNECTION_TIMEOUT, connection).await {
        debug!(%error, "admin connection failed");
    }
}
