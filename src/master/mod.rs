//! The master role: the public relay. It authenticates links and splices channels of clients to
//! channels of servers. It never reads their payloads.
//!
//! ```text
//!  accept ──► TLS ──► front (upgrade) ──► auth ──► serve_link ──► router (channel pairs) ──► serve_link …
//!  limits       deadlines for each         throttle    registry       channel_queue, memory, rates
//!                                          policies    policies       policies
//!  └─────────────── handshakes ──────────────────┘
//! ```
//!
//! Every connection is one task on one of the master's threads. Shutdown flows down, completion
//! flows up: [`Master::run`] returns when all tasks have ended.

mod accept;
mod account;
mod administered;
mod administrator;
mod admission;
mod attach_queue;
#[cfg(feature = "store")]
mod audit;
mod auth;
mod channel_queue;
mod connection_settings;
mod drain;
mod events;
mod front;
mod handle;
mod handshakes;
mod identity;
mod limits;
mod link_handler;
mod link_registration;
mod link_totals;
mod listen_host;
mod listeners;
mod memory;
mod metrics;
mod parameters;
mod policies;
mod rates;
mod registry;
mod router;
mod serve_link;
mod shared;
mod shares;
mod threads;
#[cfg(feature = "store")]
mod usage;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, RwLock, atomic::AtomicU64},
};

use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    administrator::Administrator,
    admission::Admission,
    auth::Authenticator,
    connection_settings::ConnectionSettings,
    handshakes::Handshakes,
    listeners::{BoundListener, Listeners},
    metrics::MasterObserver,
    router::Router,
    shared::MasterShared,
    threads::Threads,
};
use crate::{
    grace::Grace,
    metrics::ObservedRole,
    throttle::{LogLimit, LogLimits},
};

#[cfg(feature = "store")]
use self::shared::StoreRecords;
#[cfg(test)]
pub(crate) use self::{
    accept::REFUSAL_TIMEOUT,
    attach_queue::{PENDING_BYTES, PENDING_TIMEOUT, WAITING_TIMEOUT},
    handshakes::{COUNTED_TIME, HANDSHAKES_PER_THREAD},
    limits::{MAX_REFUSALS, REFUSAL_DIVISOR},
};
pub use self::{
    administered::{
        AdministeredMaster, Block, LimitsInForce, LiveLink, LiveTunnel, MasterStatus, StoreProblem,
    },
    events::{EventKind, EventPeer, MasterEvent},
    front::{Fallback, HEALTH_PATH, MIN_HEADER_BYTES, TrustedProxies},
    handle::MasterHandle,
    identity::{CredentialLookup, Identity, KnownCredential},
    limits::MasterLimits,
    listen_host::{ListenHostError, resolve_listen_host},
    parameters::{MasterError, MasterParameters, MasterTiming, MasterTlsFiles},
    policies::{Clock, MasterPolicies, QuotaState, SystemClock},
};

/// A master with bound listeners. It accepts connections in [`Master::run`].
pub struct Master {
    shared: Arc<MasterShared>,
    listeners: Vec<BoundListener>,
}

impl Master {
    /// Binds the addresses and reads the certificate. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When an address cannot be bound, the certificate is unusable, or the system refuses a
    /// thread.
    pub fn bind(parameters: MasterParameters) -> Result<Self, MasterError> {
        if parameters.listen_at.is_empty() {
            return Err(MasterError::NoAddress);
        }
        let settings = ConnectionSettings::new(&parameters)?;
        let listeners = BoundListener::bind_all(&parameters.listen_at)?;
        let MasterParameters {
            link_key,
            policies,
            limits,
            timing,
            threads,
            #[cfg(feature = "store")]
            listen_at,
            #[cfg(feature = "store")]
            retention,
            ..
        } = parameters;
        let router = Router::new(&limits, Arc::clone(&policies));
        let shared = Arc::new(MasterShared {
            settings: RwLock::new(settings),
            listeners: Listeners::default(),
            authenticator: Authenticator::new(link_key, policies, timing.authentication),
            log_limit: LogLimit::new(),
            account_log_limits: LogLimits::new(),
            admission: Admission::new(&limits, Arc::clone(&router.refusals)),
            handshakes: Handshakes::for_threads(threads),
            #[cfg(feature = "store")]
            records: StoreRecords::new(&router, &listen_at, retention),
            router,
            next_link: AtomicU64::new(1),
            threads: Threads::start(threads).map_err(MasterError::Threads)?,
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
            handshakes_over: CancellationToken::new(),
            retired: CancellationToken::new(),
            restarts: Semaphore::new(1),
            changes: Semaphore::new(1),
            admin_listener: Mutex::default(),
            aborting: CancellationToken::new(),
        });
        Ok(Master { shared, listeners })
    }

    /// Returns the bound addresses in the order of `listen_at`, with the ports that the system
    /// chose.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(BoundListener::local_addr)
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

    /// Returns what the admin address reports about the master.
    #[must_use]
    pub fn observed(&self) -> Arc<dyn ObservedRole> {
        Arc::new(MasterObserver(Arc::clone(&self.shared)))
    }

    /// Returns the master as its operator administers it.
    #[must_use]
    pub fn administered(&self) -> Arc<dyn AdministeredMaster> {
        Arc::new(Administrator(Arc::clone(&self.shared)))
    }

    /// Returns a handle that changes the master while it runs.
    #[must_use]
    pub fn handle(&self) -> MasterHandle {
        MasterHandle::new(&self.shared)
    }

    /// Relays until `cancel` is cancelled or a new process has taken over, then drains. A drain
    /// closes the listeners, sends GOAWAY to every link within half of `grace`, and waits for at most
    /// `grace`. Then it ends the remaining links with ERROR `shutdown`. Connections that are not links
    /// end at once, or if a new process has taken over, when their last request is answered or with
    /// the remaining links. The function returns when every task has ended.
    ///
    /// # Cancel safety
    /// Dropping the future aborts all links at once, without a notice.
    pub async fn run(self, cancel: CancellationToken, grace: impl Into<Grace>) {
        let grace: Grace = grace.into();
        let Master { shared, listeners } = self;
        let _abort_on_drop = shared.aborting.clone().drop_guard();
        let _drain_on_drop = shared.draining.clone().drop_guard();
        let _handshakes_on_drop = shared.handshakes_over.clone().drop_guard();
        #[cfg(feature = "store")]
        if let Some(records) = &shared.records {
            cancel
                .run_until_cancelled(records.usage.read_at_start())
                .await;
        }
        for listener in listeners {
            shared.listeners.start(&shared, listener);
        }
        let mut maintenance = JoinSet::new();
        let router = Arc::clone(&shared.router);
        maintenance.spawn(async move { router.run_maintenance().await });
        let rates = Arc::clone(&shared.router.rates);
        maintenance.spawn(async move { rates.run().await });
        let router = Arc::clone(&shared.router);
        maintenance.spawn(async move { router.run_enforcement().await });
        #[cfg(feature = "store")]
        {
            let router = Arc::clone(&shared.router);
            maintenance.spawn(async move { router.follow_store().await });
        }
        let (mut writers, ended) = (JoinSet::<()>::new(), CancellationToken::new());
        #[cfg(feature = "store")]
        if let Some(records) = &shared.records {
            let events = shared.router.policies.events.subscribe();
            records.spawn(events, &ended, &mut writers);
        }
        tokio::select! {
            () = cancel.cancelled() => shared.handshakes_over.cancel(),
            () = shared.retired.cancelled() => {}
        }
        shared.draining.cancel();
        // Close the listeners before GOAWAY: another master may bind the addresses now, and roles
        // that reconnect at once reach it.
        shared.listeners.closed().await;
        drain::drain(&shared, grace.get()).await;
        ended.cancel();
        while writers.join_next().await.is_some() {}
    }
}

impl fmt::Debug for Master {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Master")
            .field("listen_at", &self.local_addresses())
            .finish_non_exhaustive()
    }
}
