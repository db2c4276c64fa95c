//! The admin address: metrics and health checks of a role over HTTP, and at a master with a store the
//! API, for the operator. Knows HTTP and sockets. An [`ObservedRole`] and the administration supply
//! the content.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | the metrics in the OpenMetrics text format |
//! | `/livez` | 200 while the process serves |
//! | `/readyz` | 200 while the role is ready, otherwise 503; the body names what is missing |
//! | `/v1/…` | the API (`api`) |
//!
//! | address | `/livez`, `/readyz` | `/metrics` | `/v1/…` |
//! |---|---|---|---|
//! | unix socket, mode 0600 | open | open | open, with all rights |
//! | loopback | open | open | with a token |
//! | any other, with TLS | open | with a token | with a token |
//!
//! At loopback the `Host` of a request must name this machine. Otherwise a web page could read the
//! metrics through a name that it lets resolve to 127.0.0.1 (DNS rebinding).

#[cfg(feature = "store")]
pub mod api;
mod connection;
mod parties;
mod routes;
#[cfg(test)]
mod tests;
mod write_deadline;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info};

use self::{
    connection::Origin,
    parties::Parties,
    routes::{Access, routes},
};
#[cfg(unix)]
use crate::net::unix_socket::{SocketAccess, UnixSocket};
use crate::{
    config::{AdminAddress, AdminConfig, TlsFilesConfig},
    metrics::ObservedRole,
    net::{
        file_limit::ThrottledLog,
        local_listener::listen_remedy,
        tcp::{self, is_single_connection_error},
        tls::{ReloadingCertificate, TlsError},
    },
    successor::PassedListener,
};

/// The most connections at a time. A monitoring system uses one, and an operator a few. Further ones
/// wait in the backlog of the kernel.
const MAX_CONNECTIONS: usize = 16;

/// The pause after the system refused another connection.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The admin address cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The system refuses the address.
    #[error(
        "cannot listen at `admin.listen_at` {address}: {source}{}",
        listen_remedy(source)
    )]
    Listen {
        /// The address.
        address: AdminAddress,
        /// The system error.
        source: io::Error,
    },
    /// The certificate is unusable.
    #[error("`admin.tls`: {0}")]
    Tls(#[from] TlsError),
    /// Other machines can reach the address, and no request could prove its rights.
    #[error(
        "`admin.listen_at` {0} can be reached by other machines, and the master has no `store` whose \
         tokens could protect it (add `store`, or listen at loopback or at a unix socket)"
    )]
    NoStore(AdminAddress),
    /// Other machines can reach the address, and the store has no valid token.
    #[error(
        "`admin.listen_at` {0} can be reached by other machines, and the `store` has no valid token \
         that could protect it (create one with `report token add`, or listen at loopback or at a \
         unix socket)"
    )]
    NoToken(AdminAddress),
    /// The database does not answer.
    #[cfg(feature = "store")]
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}

/// The content of an admin address.
#[derive(Clone)]
pub struct AdminService {
    role: Arc<dyn ObservedRole>,
    #[cfg(feature = "store")]
    api: Option<Arc<api::Api>>,
}

impl AdminService {
    /// Creates the metrics and health checks of a role.
    #[must_use]
    pub fn new(role: Arc<dyn ObservedRole>) -> Self {
        AdminService {
            role,
            #[cfg(feature = "store")]
            api: None,
        }
    }

    /// Adds the API of a master with a store.
    #[cfg(feature = "store")]
    #[must_use]
    pub fn with_api(self, api: api::Api) -> Self {
        AdminService {
            api: Some(Arc::new(api)),
            ..self
        }
    }
}

/// The listener of an admin address. Dropping it removes a unix socket.
pub struct AdminListener {
    address: AdminAddress,
    socket: AdminSocket,
    tls: Option<TlsAcceptor>,
}

#[derive(Debug)]
enum AdminSocket {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixSocket),
}

/// A connection to the admin address.
enum AdminStream {
    Tcp(TcpStream, SocketAddr),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
}

impl AdminListener {
    /// Listens at the address of the configuration. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the address is in use, the system refuses, or the certificate is unusable.
    pub fn bind(config: &AdminConfig) -> Result<Self, AdminError> {
        let tls = config.tls.as_ref().map(acceptor).transpose()?;
        let address = config.listen_at.clone();
        match AdminSocket::bind(&address) {
            Ok(socket) => Ok(AdminListener {
                address,
                socket,
                tls,
            }),
            Err(source) => Err(AdminError::Listen { address, source }),
        }
    }

    /// Checks that an address that other machines can reach is protected by a token.
    ///
    /// # Errors
    /// When there is no store, no valid token in it, or no answer.
    pub async fn check(&self, service: &AdminService) -> Result<(), AdminError> {
        if self.access() != Access::Public {
            return Ok(());
        }
        #[cfg(feature = "store")]
        if let Some(api) = &service.api {
            return if api.has_valid_token().await? {
                Ok(())
            } else {
                Err(AdminError::NoToken(self.address.clone()))
            };
        }
        #[cfg(not(feature = "store"))]
        let _ = service;
        Err(AdminError::NoStore(self.address.clone()))
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

    /// Duplicates the listener for a new process, or returns `None` for a unix socket: the new process
    /// replaces its file.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn passed(&self) -> io::Result<Option<PassedListener>> {
        match &self.socket {
            AdminSocket::Tcp(listener) => PassedListener::of(listener).map(Some),
            #[cfg(unix)]
            AdminSocket::Unix(_) => Ok(None),
        }
    }

    /// Serves the role. Never returns.
    ///
    /// # Cancel safety
    /// Dropping the future closes the listener and all connections.
    pub async fn serve(self, service: AdminService) {
        self.log();
        let routes = routes(service, self.access());
        let accept_log = ThrottledLog::default();
        let parties = Arc::new(Parties::default());
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                // A panic of a connection is logged where it occurs.
                Some(_) = connections.join_next() => {}
                accepted = self.socket.accept(), if connections.len() < MAX_CONNECTIONS => {
                    match accepted {
                        Ok(stream) => {
                            self.spawn(&mut connections, stream, routes.clone(), &parties);
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

    fn spawn(
        &self,
        connections: &mut JoinSet<()>,
        stream: AdminStream,
        routes: Router,
        parties: &Arc<Parties>,
    ) {
        match stream {
            AdminStream::Tcp(stream, peer) => {
                // All users of this machine share its loopback addresses.
                let is_local = peer.ip().to_canonical().is_loopback();
                let entry = (!is_local).then(|| parties.enter(peer.ip()));
                if matches!(entry, Some(None)) {
                    debug!(%peer, "admin connection refused: its address has too many");
                    return;
                }
                // A stream of events to a vanished host ends. Without these options it ends later.
                let _ = tcp::set_link_options(&stream);
                let origin = Origin::Address(peer.ip().to_canonical());
                let tls = self.tls.clone();
                connections.spawn(async move {
                    connection::serve_tcp(stream, tls, routes, origin).await;
                    drop(entry);
                });
            }
            #[cfg(unix)]
            AdminStream::Unix(stream) => {
                connections.spawn(connection::serve_unix(stream, routes));
            }
        }
    }

    fn access(&self) -> Access {
        match &self.address {
            AdminAddress::Loopback(_) => Access::Loopback,
            AdminAddress::Public(_) => Access::Public,
            AdminAddress::Unix(_) => Access::UnixSocket,
        }
    }

    fn log(&self) {
        match &self.socket {
            AdminSocket::Tcp(_) => {
                let address = self.local_addr().map(tracing::field::display);
                let tls = self.tls.is_some();
                info!(
                    address,
                    tls, "admin address: serving metrics and health checks"
                );
            }
            #[cfg(unix)]
            AdminSocket::Unix(socket) => {
                let path = socket.path().map(|path| path.display());
                info!(
                    path = path.map(tracing::field::display),
                    "admin address: serving metrics and health checks"
                );
            }
        }
    }
}

impl std::fmt::Debug for AdminListener {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("AdminListener")
            .field("address", &self.address)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

/// Reads the certificate files.
fn acceptor(files: &TlsFilesConfig) -> Result<TlsAcceptor, TlsError> {
    let certificate = ReloadingCertificate::load(&files.cert, &files.key)?;
    match &files.client_ca {
        Some(authorities) => certificate.acceptor_requiring_client_certificate(authorities),
        None => Ok(certificate.acceptor()),
    }
}

impl AdminSocket {
    fn bind(address: &AdminAddress) -> io::Result<Self> {
        match address {
            AdminAddress::Loopback(address) | AdminAddress::Public(address) => {
                tcp::listen(*address, &[]).map(AdminSocket::Tcp)
            }
            #[cfg(unix)]
            AdminAddress::Unix(path) => {
                let address = std::os::unix::net::SocketAddr::from_pathname(path)?;
                UnixSocket::bind(&address, SocketAccess::PRIVATE).map(AdminSocket::Unix)
            }
            #[cfg(not(unix))]
            AdminAddress::Unix(_) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "rePort has no unix sockets on this system",
            )),
        }
    }

    async fn accept(&self) -> io::Result<AdminStream> {
        match self {
            AdminSocket::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok(AdminStream::Tcp(stream, peer))
            }
            #[cfg(unix)]
            AdminSocket::Unix(socket) => socket.accept().await.map(AdminStream::Unix),
        }
    }
}
