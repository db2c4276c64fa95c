//! The master role: the public relay. It authenticates links and splices channels of clients to
//! channels of servers. It never reads their payloads.
//!
//! ```text
//!  accept ──► TLS ──► front (upgrade) ──► auth ──► serve_link ──► router (channel pairs) ──► serve_link …
//!  limits       deadlines for each         throttle    registry       channel_queue, memory
//! ```
//!
//! Every connection is one task on one of the master's threads. Shutdown flows down, completion
//! flows up: [`Master::run`] returns when all tasks have ended.

mod accept;
mod account;
mod admission;
mod attach_queue;
mod auth;
mod channel_queue;
mod front;
mod limits;
mod log_limit;
mod memory;
mod registry;
mod router;
mod serve_link;
mod shares;
mod threads;
mod throttle;
mod token_bucket;

#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use self::{
    admission::{Admission, AdmissionError, ConnectionPermit},
    auth::Authenticator,
    front::Front,
    log_limit::LogLimit,
    router::Router,
    threads::Threads,
};
use crate::{
    link::{KeepAliveTiming, authenticate::AUTHENTICATION_TIMEOUT},
    net::{
        tcp,
        tls::{ReloadingCertificate, TlsError},
    },
};
use report_proto::{
    crypto::LinkKey,
    frame::{Code, Frame, Notice},
};

#[cfg(test)]
pub(crate) use self::attach_queue::{PENDING_BYTES, PENDING_TIMEOUT, WAITING_TIMEOUT};
pub use self::{
    front::{Fallback, HEALTH_PATH, MIN_HEADER_BYTES, TrustedProxies},
    limits::MasterLimits,
    throttle::{THROTTLE_BURST, THROTTLE_REFILL},
};

/// The time for the close handshakes of ended links, in addition to the link layer's own timeout.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The parameters of a master.
#[derive(Debug, Clone)]
pub struct MasterParameters {
    /// The addresses to listen at; at least one. With port 0 the system chooses the port.
    pub listen_at: Vec<SocketAddr>,
    /// The one path that upgrades to a WebSocket. Begins with `/`.
    pub path: String,
    /// The key that servers prove, derived from the master key.
    pub link_key: LinkKey,
    /// The TLS files, if the master terminates TLS.
    pub tls: Option<MasterTlsFiles>,
    /// Whether [`HEALTH_PATH`] answers.
    pub healthz: bool,
    /// The answer to requests that are not a role's upgrade.
    pub fallback: Fallback,
    /// The proxies that are trusted to report visitor addresses.
    pub trusted_proxies: TrustedProxies,
    /// Whether each connection from a trusted proxy begins with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// The resource limits.
    pub limits: MasterLimits,
    /// The timeouts.
    pub timing: MasterTiming,
    /// The number of threads that serve links, including the thread that runs the master.
    pub threads: NonZeroUsize,
}

/// A PEM certificate chain and its PEM key. The master reloads them when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterTlsFiles {
    /// The chain, the master's own certificate first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// The PEM authorities for peer certificates. With `None` the master requests no certificate.
    pub client_ca: Option<PathBuf>,
}

impl MasterTlsFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// When a file is unusable.
    pub fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let certificate = ReloadingCertificate::load(&self.cert, &self.key)?;
        match &self.client_ca {
            Some(authorities) => certificate.acceptor_requiring_client_certificate(authorities),
            None => Ok(certificate.acceptor()),
        }
    }
}

/// The timeouts of a master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterTiming {
    /// The keep-alive of an established link. The master also requests this interval from the
    /// roles, in whole seconds.
    pub keep_alive: KeepAliveTiming,
    /// The TLS handshake.
    pub tls: Duration,
    /// A request head, and the pause between two requests.
    pub header: Duration,
    /// A connection until it becomes a link, whatever it requests.
    pub connection: Duration,
    /// From the challenge to HELLO.
    pub authentication: Duration,
}

impl Default for MasterTiming {
    /// Ten seconds for each step, which is several round trips of a slow path, and a minute for a
    /// browser.
    fn default() -> Self {
        MasterTiming {
            keep_alive: KeepAliveTiming::default(),
            tls: Duration::from_secs(10),
            header: Duration::from_secs(10),
            connection: Duration::from_secs(60),
            authentication: AUTHENTICATION_TIMEOUT,
        }
    }
}

/// The reason why a master cannot start.
#[derive(Debug, thiserror::Error)]
pub enum MasterError {
    /// `listen_at` is empty.
    #[error("master: no address to listen at (set `listen_at`)")]
    NoAddress,
    /// Another process uses the address, or this process may not use it.
    #[error(
        "master: cannot listen at {address}: {source}{}",
        listen_advice(source)
    )]
    Listen {
        /// The address of `listen_at`.
        address: SocketAddr,
        /// The system error.
        source: io::Error,
    },
    /// The system refused another thread.
    #[error("master: cannot start a thread: {0} (raise the process limit, ulimit -u)")]
    Threads(#[source] io::Error),
    /// The certificate is unusable.
    #[error("master: {0}")]
    Tls(#[from] TlsError),
}

fn listen_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            " (is another master or web server running there? change `listen_at`)"
        }
        io::ErrorKind::PermissionDenied => {
            " (ports below 1024 need a privilege; choose another in `listen_at`)"
        }
        io::ErrorKind::AddrNotAvailable => {
            " (this machine has no such address; change `listen_at`)"
        }
        _ => "",
    }
}

/// The state that all tasks of a master share.
struct MasterShared {
    front: Front,
    proxy_protocol: bool,
    tls: Option<TlsAcceptor>,
    tls_timeout: Duration,
    keep_alive: KeepAliveTiming,
    authenticator: Authenticator,
    limits: MasterLimits,
    /// The limit of log lines about unauthenticated peers.
    log_limit: LogLimit,
    admission: Arc<Admission>,
    router: Arc<Router>,
    next_link: AtomicU64,
    threads: Threads,
    tasks: TaskTracker,
    /// Cancelled at the start of a drain: the master accepts no connection and sends GOAWAY.
    draining: CancellationToken,
    /// Cancelled at the end of a drain: aborts all remaining tasks.
    aborting: CancellationToken,
}

/// A master with bound listeners. It accepts connections in [`Master::run`].
pub struct Master {
    shared: Arc<MasterShared>,
    listeners: Vec<TcpListener>,
}

impl Master {
    /// Binds the addresses and reads the certificate. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When an address cannot be bound, the certificate is unusable, or the system refuses a
    /// thread.
    pub fn bind(parameters: MasterParameters) -> Result<Self, MasterError> {
        let MasterParameters {
            listen_at,
            path,
            link_key,
            tls,
            healthz,
            limits,
            timing,
            threads,
            ..
        } = parameters;
        let MasterParameters {
            fallback,
            trusted_proxies: trusted,
            proxy_protocol,
            ..
        } = parameters;
        if listen_at.is_empty() {
            return Err(MasterError::NoAddress);
        }
        let tls = tls.as_ref().map(MasterTlsFiles::acceptor).transpose()?;
        let listen = |address: &SocketAddr| {
            tcp::listen(*address, &listen_at).map_err(|source| MasterError::Listen {
                address: *address,
                source,
            })
        };
        let listeners = listen_at.iter().map(listen).collect::<Result<_, _>>()?;
        let front = Front {
            path,
            healthz,
            fallback,
            trusted,
            header_bytes: limits.header_bytes,
            header_timeout: timing.header,
            connection_timeout: timing.connection,
        };
        let shared = MasterShared {
            front,
            proxy_protocol,
            tls,
            tls_timeout: timing.tls,
            keep_alive: timing.keep_alive,
            authenticator: Authenticator::new(link_key, timing.authentication),
            log_limit: LogLimit::new(),
            admission: Admission::new(&limits),
            router: Router::new(&limits),
            limits,
            next_link: AtomicU64::new(1),
            threads: Threads::start(threads).map_err(MasterError::Threads)?,
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            aborting: CancellationToken::new(),
        };
        Ok(Master {
            shared: Arc::new(shared),
            listeners,
        })
    }

    /// Returns the bound addresses in the order of `listen_at`, with the ports that the system
    /// chose.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// Returns the first bound address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addresses()
            .first()
            .copied()
            .unwrap_or_else(|| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0))
    }

    /// Relays until `cancel` is cancelled, then drains. A drain closes the listeners, sends GOAWAY
    /// to every link, and waits for at most `grace`. Then it ends the remaining links with ERROR
    /// `shutdown`. The function returns when every task has ended.
    ///
    /// # Cancel safety
    /// Dropping the future aborts all links at once, without a notice.
    pub async fn run(self, cancel: CancellationToken, grace: Duration) {
        let Master { shared, listeners } = self;
        let _abort_on_drop = shared.aborting.clone().drop_guard();
        let _drain_on_drop = shared.draining.clone().drop_guard();
        let mut acceptors = JoinSet::new();
        for listener in listeners {
            if let Ok(address) = listener.local_addr() {
                info!(%address, path = shared.front.path, tls = shared.tls.is_some(), "listening");
            }
            acceptors.spawn(accept::accept(Arc::clone(&shared), listener));
        }
        let mut maintenance = JoinSet::new();
        let router = Arc::clone(&shared.router);
        maintenance.spawn(async move { router.run_maintenance().await });
        cancel.cancelled().await;
        shared.draining.cancel();
        // Close the listeners before GOAWAY: another master may bind the addresses now, and roles
        // that reconnect at once reach it.
        while acceptors.join_next().await.is_some() {}
        drain(&shared, grace).await;
    }
}

impl MasterShared {
    /// Counts a connection from `peer`. The visitor behind a trusted proxy is not known yet.
    fn admit(&self, peer: IpAddr) -> Result<ConnectionPermit, AdmissionError> {
        self.admission
            .admit(Some(peer).filter(|peer| !self.front.trusted.trusts(*peer)))
    }
}

async fn drain(shared: &MasterShared, grace: Duration) {
    shared.tasks.close();
    let links = shared.router.registry().links();
    info!(links, grace_seconds = grace.as_secs_f32(), "draining");
    let notice = Frame::GoAway(shutdown_notice());
    shared
        .router
        .registry()
        .handles()
        .for_each(|link| link.outbox.control(&notice));
    if tokio::time::timeout(grace, shared.tasks.wait())
        .await
        .is_ok()
    {
        return;
    }
    let left: Vec<_> = shared
        .router
        .registry()
        .handles()
        .map(|link| Arc::clone(&link.outbox))
        .collect();
    info!(links = left.len(), "grace period over");
    left.iter().for_each(|outbox| outbox.end(shutdown_notice()));
    if tokio::time::timeout(CLOSE_TIMEOUT, shared.tasks.wait())
        .await
        .is_err()
    {
        warn!(tasks = shared.tasks.len(), "remaining tasks aborted");
        shared.aborting.cancel();
        shared.tasks.wait().await;
    }
}

/// The notice that a draining master sends in GOAWAY and ERROR.
fn shutdown_notice() -> Notice {
    Notice::new(Code::Shutdown, "the master shuts down")
}

impl fmt::Debug for Master {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Master")
            .field("listen_at", &self.local_addresses())
            .finish_non_exhaustive()
    }
}
