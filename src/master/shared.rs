//! The state that all tasks of a master share.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, RwLock, atomic::AtomicU64},
};

#[cfg(feature = "store")]
use std::net::SocketAddr;
use tokio::sync::Semaphore;
#[cfg(feature = "store")]
use tokio::{sync::broadcast::Receiver, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    admission::{Admission, AdmissionError, ConnectionPermit},
    auth::Authenticator,
    connection_settings::ConnectionSettings,
    handshakes::Handshakes,
    listeners::Listeners,
    router::Router,
    threads::Threads,
};
#[cfg(feature = "store")]
use super::{audit::AuditWriter, events::MasterEvent, usage::Usage};
#[cfg(feature = "store")]
use crate::store::Retention;
use crate::{
    policy::AccountId,
    successor::PassedListener,
    throttle::{LogLimit, LogLimits},
};
use report_proto::frame::{Code, Notice};

/// The state that all tasks of a master share.
pub(super) struct MasterShared {
    /// The settings of the next connection.
    pub(super) settings: RwLock<Arc<ConnectionSettings>>,
    pub(super) listeners: Listeners,
    pub(super) authenticator: Authenticator,
    /// The limit of log lines about unauthenticated peers.
    pub(super) log_limit: LogLimit,
    /// The limits of log lines about the links with a credential, for each account.
    pub(super) account_log_limits: LogLimits<AccountId>,
    pub(super) admission: Arc<Admission>,
    /// The room for connections between accept and WELCOME.
    pub(super) handshakes: Handshakes,
    pub(super) router: Arc<Router>,
    /// The usage and the audit log of a master with a database.
    #[cfg(feature = "store")]
    pub(super) records: Option<StoreRecords>,
    pub(super) next_link: AtomicU64,
    pub(super) threads: Threads,
    pub(super) tasks: TaskTracker,
    /// Cancelled at the start of a drain: the master accepts no connection and sends GOAWAY.
    pub(super) draining: CancellationToken,
    /// Ends the connections that are not links. Cancelled at the start of a drain, or at its end if a
    /// new process has taken over: then no peer shall notice.
    pub(super) handshakes_over: CancellationToken,
    /// Cancelled when a new process has taken over. Starts a drain.
    pub(super) retired: CancellationToken,
    /// One permit: a master starts one new process at a time.
    pub(super) restarts: Semaphore,
    /// One permit: the configuration stays the same while a new process starts.
    pub(super) changes: Semaphore,
    /// The listener of the admin address, which a new process takes over too.
    pub(super) admin_listener: Mutex<Option<PassedListener>>,
    /// Cancelled at the end of a drain: aborts all remaining tasks.
    pub(super) aborting: CancellationToken,
}

/// The records that a master writes into its database.
#[cfg(feature = "store")]
pub(super) struct StoreRecords {
    pub(super) usage: Arc<Usage>,
    pub(super) audit: Arc<AuditWriter>,
}

#[cfg(feature = "store")]
impl StoreRecords {
    /// Creates the records of a master that starts now, if its policies follow a database. People
    /// know the master by its first address.
    pub(super) fn new(
        router: &Arc<Router>,
        listen_at: &[SocketAddr],
        retention: Retention,
    ) -> Option<Self> {
        let policies = &router.policies;
        let store = policies.store()?;
        let name = listen_at.first().map(SocketAddr::to_string);
        let name = name.unwrap_or_default();
        Some(StoreRecords {
            usage: Usage::new(Arc::clone(store), Arc::clone(router), &name, retention),
            audit: AuditWriter::new(Arc::clone(store), Arc::clone(policies.clock())),
        })
    }

    /// Starts the tasks that write until `ended` is cancelled.
    pub(super) fn spawn(
        &self,
        events: Receiver<MasterEvent>,
        ended: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) {
        let (usage, token) = (Arc::clone(&self.usage), ended.clone());
        tasks.spawn(async move { usage.run(token).await });
        let (audit, token) = (Arc::clone(&self.audit), ended.clone());
        tasks.spawn(async move { audit.run(events, token).await });
    }
}

impl MasterShared {
    /// Returns the settings of the next connection.
    pub(super) fn settings(&self) -> Arc<ConnectionSettings> {
        let settings = self.settings.read();
        Arc::clone(&settings.unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the settings of the next connections.
    pub(super) fn set_settings(&self, settings: Arc<ConnectionSettings>) {
        let mut current = self
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *current = settings;
    }

    /// Replaces the listener of the admin address.
    pub(super) fn set_admin_listener(&self, listener: Option<PassedListener>) {
        let mut current = self
            .admin_listener
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *current = listener;
    }

    /// Returns a duplicate of the listener of the admin address, if there is one.
    pub(super) fn admin_listener(&self) -> io::Result<Option<PassedListener>> {
        let current = self.admin_listener.lock();
        let current = current.unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(PassedListener::try_clone).transpose()
    }

    /// Counts a connection from `peer`. The visitor behind a trusted proxy is not known yet.
    pub(super) fn admit(
        &self,
        settings: &ConnectionSettings,
        peer: IpAddr,
    ) -> Result<ConnectionPermit, AdmissionError> {
        let trusted = &settings.front.trusted;
        self.admission
            .admit(Some(peer).filter(|peer| !trusted.trusts(*peer)))
    }
}

/// The notice that a draining master sends in GOAWAY and ERROR.
pub(super) fn shutdown_notice() -> Notice {
    Notice::new(Code::Shutdown, "the master shuts down")
}
