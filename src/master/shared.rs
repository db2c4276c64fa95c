//! The state that all tasks of a master share.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

#[cfg(feature = "store")]
use std::net::SocketAddr;
use tokio::sync::Semaphore;
#[cfg(feature = "store")]
use tokio::{sync::broadcast::Receiver, task::JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    admission::{Admission, AdmissionError, ConnectionPermit},
    auth::Authenticator,
    front::Front,
    handshakes::Handshakes,
    limits::MasterLimits,
    router::Router,
    threads::Threads,
};
#[cfg(feature = "store")]
use super::{audit::AuditWriter, events::MasterEvent, usage::Usage};
#[cfg(feature = "store")]
use crate::store::Retention;
use crate::{
    link::KeepAliveTiming,
    net::congestion_control::LinkCongestionControl,
    policy::AccountId,
    throttle::{LogLimit, LogLimits},
};
use report_proto::frame::{Code, Notice};

/// The state that all tasks of a master share.
pub(super) struct MasterShared {
    pub(super) front: Front,
    pub(super) proxy_protocol: bool,
    pub(super) congestion_control: LinkCongestionControl,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) tls_timeout: Duration,
    pub(super) keep_alive: KeepAliveTiming,
    pub(super) authenticator: Authenticator,
    pub(super) limits: MasterLimits,
    /// The limit of log lines about unauthenticated peers.
    pub(super) log_limit: LogLimit,
    /// The limits of log lines about the links with a credential, for each account.
    pub(super) account_log_limits: LogLimits<AccountId>,
    pub(super) admission: Arc<Admission>,
    /// The room for connections between accept and WELCOME.
    pub(super) handshakes: Handshakes,
    /// The room for connections that get an answer although there is no place for them.
    pub(super) refusals: Arc<Semaphore>,
    pub(super) router: Arc<Router>,
    /// The usage and the audit log of a master with a database.
    #[cfg(feature = "store")]
    pub(super) records: Option<StoreRecords>,
    pub(super) next_link: AtomicU64,
    pub(super) threads: Threads,
    pub(super) tasks: TaskTracker,
    /// Cancelled at the start of a drain: the master accepts no connection and sends GOAWAY.
    pub(super) draining: CancellationToken,
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
    /// Counts a connection from `peer`. The visitor behind a trusted proxy is not known yet.
    pub(super) fn admit(&self, peer: IpAddr) -> Result<ConnectionPermit, AdmissionError> {
        self.admission
            .admit(Some(peer).filter(|peer| !self.front.trusted.trusts(*peer)))
    }
}

/// The notice that a draining master sends in GOAWAY and ERROR.
pub(super) fn shutdown_notice() -> Notice {
    Notice::new(Code::Shutdown, "the master shuts down")
}
