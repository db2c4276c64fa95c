//! The master role: the public relay. It authenticates links, joins channels of clients to channels of servers, and looks into neither.
//!
//! ```text
//!  accept ──► TLS ──► front (upgrade) ──► auth ──► attend ──► relay (circuits) ──► attend …
//!  limits       deadlines for each         throttle    registry       queue, memory
//! ```
//!
//! Every connection is one task, on one of the master's threads. Shutdown flows down, completion flows up: [`Master::run`] returns when all of them have ended.

mod accept;
mod account;
mod admission;
mod attend;
mod auth;
mod bucket;
mod front;
mod limits;
mod log_limit;
mod memory;
mod queue;
mod registry;
mod relay;
mod shares;
mod threads;
mod throttle;
mod unanswered;

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
    admission::{Admission, Full, Permit},
    auth::Gate,
    front::Front,
    log_limit::LogLimit,
    relay::Switch,
    threads::Threads,
};
use crate::{
    crypto::LinkKey,
    frame::{Code, Frame, Notice},
    link::{
        Timing,
        authenticate::AUTHENTICATION_TIMEOUT,
        tcp,
        tls::{ReloadingCertificate, TlsError},
    },
};

#[cfg(test)]
pub(crate) use self::unanswered::{PENDING_BYTES, PENDING_TIMEOUT, WAITING_TIMEOUT};
pub use self::{
    front::{Fallback, HEALTH_PATH, MIN_HEADER_BYTES, TrustedProxies},
    limits::Limits,
    throttle::{FAILURES, REFILL},
};

/// How long links have to say goodbye once they are ended, beyond what the link layer gives itself.
const GOODBYE: Duration = Duration::from_secs(5);

/// What a master is to be.
#[derive(Debug, Clone)]
pub struct MasterParameters {
    /// Where it listens; at least one address. Port 0 lets the system choose.
    pub listen_at: Vec<SocketAddr>,
    /// The one path that upgrades to a WebSocket; begins with `/`.
    pub path: String,
    /// What a server proves (from the master key).
    pub link_key: LinkKey,
    /// TLS at the master itself.
    pub tls: Option<TlsFiles>,
    /// Whether [`HEALTH_PATH`] answers.
    pub healthz: bool,
    /// What everybody sees who is not a role.
    pub fallback: Fallback,
    /// Who is believed about a visitor's address.
    pub trusted_proxies: TrustedProxies,
    /// Whether each connection from one of them begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// What it gives away at most.
    pub limits: Limits,
    /// How long things may take.
    pub timing: MasterTiming,
    /// On how many threads links are served: the one that runs the master, and others of its own.
    pub threads: NonZeroUsize,
}

/// A certificate chain and its key, both PEM, which are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the master's own certificate first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// The authorities, PEM, one of which must have signed the certificate that every peer shows; without it nobody is asked for one.
    pub client_ca: Option<PathBuf>,
}

impl TlsFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let certificate = ReloadingCertificate::load(&self.cert, &self.key)?;
        match &self.client_ca {
            Some(authorities) => certificate.acceptor_for_clients_of(authorities),
            None => Ok(certificate.acceptor()),
        }
    }
}

/// How long things may take at a master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterTiming {
    /// Of a link that is up; the interval is also what roles are asked for, in whole seconds.
    pub heartbeat: Timing,
    /// A TLS handshake.
    pub tls: Duration,
    /// A request's head, and the pause between two requests.
    pub header: Duration,
    /// A connection before it becomes a link, whatever it asks for.
    pub connection: Duration,
    /// From the challenge to HELLO.
    pub authentication: Duration,
}

impl Default for MasterTiming {
    /// Ten seconds for each step, several round trips of a slow path, and a minute for a web browser that looks around.
    fn default() -> Self {
        MasterTiming {
            heartbeat: Timing::default(),
            tls: Duration::from_secs(10),
            header: Duration::from_secs(10),
            connection: Duration::from_secs(60),
            authentication: AUTHENTICATION_TIMEOUT,
        }
    }
}

/// Why a master cannot start.
#[derive(Debug, thiserror::Error)]
pub enum MasterError {
    /// No address to listen at.
    #[error("master: no address to listen at; set `listen_at`")]
    NoAddress,
    /// Another process listens there, or this one may not.
    #[error("master: cannot listen at {address}: {source}{}", advice(source))]
    Listen {
        /// The address of `listen_at`.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The system gives it no more threads.
    #[error("master: cannot start a thread: {0}; raise the limit of processes (ulimit -u)")]
    Threads(#[source] io::Error),
    /// The certificate cannot be used.
    #[error("master: {0}")]
    Tls(#[from] TlsError),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; is another master or web server running there? change `listen_at`"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need a privilege, choose another in `listen_at`"
        }
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address, change `listen_at`",
        _ => "",
    }
}

/// What all tasks of a master share.
struct Shared {
    front: Front,
    proxy_protocol: bool,
    tls: Option<TlsAcceptor>,
    tls_timeout: Duration,
    heartbeat: Timing,
    gate: Gate,
    limits: Limits,
    /// Lines about strangers.
    log_limit: LogLimit,
    admission: Arc<Admission>,
    switch: Arc<Switch>,
    next_link: AtomicU64,
    threads: Threads,
    tasks: TaskTracker,
    /// Nobody is let in any more, and links are asked to go.
    draining: CancellationToken,
    /// Whatever still runs is cut.
    ending: CancellationToken,
}

/// A master that listens, and accepts once it runs.
pub struct Master {
    shared: Arc<Shared>,
    listeners: Vec<TcpListener>,
}

impl Master {
    /// Takes the addresses and reads the certificate. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When an address cannot be listened at, the certificate cannot be used, or the system gives it no more threads.
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
        let tls = tls.as_ref().map(TlsFiles::acceptor).transpose()?;
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
        let shared = Shared {
            front,
            proxy_protocol,
            tls,
            tls_timeout: timing.tls,
            heartbeat: timing.heartbeat,
            gate: Gate::new(link_key, timing.authentication),
            log_limit: LogLimit::new(),
            admission: Admission::new(&limits),
            switch: Switch::new(&limits),
            limits,
            next_link: AtomicU64::new(1),
            threads: Threads::start(threads).map_err(MasterError::Threads)?,
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            ending: CancellationToken::new(),
        };
        Ok(Master {
            shared: Arc::new(shared),
            listeners,
        })
    }

    /// Where it listens, in the order of `listen_at`, with the ports that the system chose.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// The first address at which it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addresses()
            .first()
            .copied()
            .unwrap_or_else(|| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0))
    }

    /// Relays until `cancel` is cancelled. Then it drains: it closes its listeners, asks every link to go (GOAWAY), waits for them for
    /// `grace` at most, and ends those that are left with ERROR `shutdown`. It returns when every task has ended.
    ///
    /// # Cancel safety
    /// Dropping the future cuts all links at once, without a word to them.
    pub async fn run(self, cancel: CancellationToken, grace: Duration) {
        let Master { shared, listeners } = self;
        let _cut = shared.ending.clone().drop_guard();
        let _refuse = shared.draining.clone().drop_guard();
        let mut doors = JoinSet::new();
        for listener in listeners {
            if let Ok(address) = listener.local_addr() {
                info!(%address, path = shared.front.path, tls = shared.tls.is_some(), "listening");
            }
            doors.spawn(accept::accept(Arc::clone(&shared), listener));
        }
        let mut keeper = JoinSet::new();
        let switch = Arc::clone(&shared.switch);
        keeper.spawn(async move { switch.keep().await });
        cancel.cancelled().await;
        shared.draining.cancel();
        // Before anybody is asked to go: another master may take the addresses now, and who comes back at once finds that one.
        while doors.join_next().await.is_some() {}
        drain(&shared, grace).await;
    }
}

impl Shared {
    /// Counts a connection from `peer`. Who is behind a trusted proxy shows later.
    fn admit(&self, peer: IpAddr) -> Result<Permit, Full> {
        self.admission
            .admit(Some(peer).filter(|peer| !self.front.trusted.trusts(*peer)))
    }
}

async fn drain(shared: &Shared, grace: Duration) {
    shared.tasks.close();
    let links = shared.switch.registry().links();
    info!(links, grace_seconds = grace.as_secs_f32(), "draining");
    let notice = Frame::GoAway(going_down());
    shared
        .switch
        .registry()
        .handles()
        .for_each(|line| line.outbox.control(&notice));
    if tokio::time::timeout(grace, shared.tasks.wait())
        .await
        .is_ok()
    {
        return;
    }
    let left: Vec<_> = shared
        .switch
        .registry()
        .handles()
        .map(|line| Arc::clone(&line.outbox))
        .collect();
    info!(links = left.len(), "the grace period is over");
    left.iter().for_each(|outbox| outbox.end(going_down()));
    if tokio::time::timeout(GOODBYE, shared.tasks.wait())
        .await
        .is_err()
    {
        warn!(tasks = shared.tasks.len(), "cut what did not end in time");
        shared.ending.cancel();
        shared.tasks.wait().await;
    }
}

/// What links are told before and at the end.
fn going_down() -> Notice {
    Notice::new(Code::Shutdown, "the master goes down")
}

impl fmt::Debug for Master {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Master")
            .field("listen_at", &self.local_addresses())
            .finish_non_exhaustive()
    }
}
