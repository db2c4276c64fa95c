//! A client without listeners: provides the tunnel of one port to a caller in this process. Links,
//! attach requests and retries work as in a client that listens.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    client_role::{ClientRole, ClientSession},
    port::PortSupervisor,
    port_table::PortTable,
};
use crate::{
    grace::Grace,
    supervisor::{
        Connector, LinkEvent, LinkPool, LinkSet, LinkedRole, RetirementCause, RoleLink, Uplink,
        drain::Drain,
    },
    tunnel::{
        PortParameters, Tunnel,
        attach::{AttachError, ServerInfo},
    },
};
use report_proto::frame::{Frame, Terms};

/// A tunnel, and the times to establish it.
#[derive(Clone)]
pub struct DirectTunnel {
    /// The tunnel, attached.
    pub tunnel: Tunnel,
    /// The master's address, as configured.
    pub master: String,
    /// Time from the start until the link was established.
    pub link_time: Duration,
    /// Time from then until the tunnel was attached.
    pub attach_time: Duration,
    /// The properties of the server.
    pub server_info: ServerInfo,
}

/// Why no tunnel was established.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectError {
    /// No master in the list accepted the client.
    #[error("no link to a master; {}", .0.iter().map(|(master, why)| format!("{master}: {why}")).collect::<Vec<_>>().join("; "))]
    NoMaster(BTreeMap<String, String>),
    /// A link is up, but no server answers for the port key.
    #[error(
        "no tunnel: no server for the port key of \"{mark}\" is linked to {master} (waited {} s); check that the server is running \
         and that the port key is the same at both ends, to the letter",
        .waited.as_secs_f32()
    )]
    NoServer {
        /// The name of the port.
        mark: String,
        /// The master that was asked.
        master: String,
        /// How long the client waited.
        waited: Duration,
    },
    /// A server answered, but refused the tunnel.
    #[error("no tunnel: {0}")]
    Refused(AttachError),
    /// The caller cancelled the attempt.
    #[error("cancelled")]
    Cancelled,
}

/// Establishes a tunnel of `port` and passes it to `work`. Ends the tunnel and the link when `work`
/// is done.
///
/// Waits for a server for up to `server_timeout` after a link is up. Cancelling `cancel` stops the
/// attempt; once `work` runs, `work` itself has to react to it.
///
/// # Errors
/// When no tunnel was established.
///
/// # Cancel safety
/// Dropping the future cuts the link. Tasks that were spawned end soon after.
pub async fn with_tunnel<T, F>(
    uplink: Uplink,
    port: PortParameters,
    server_timeout: Duration,
    cancel: CancellationToken,
    work: impl FnOnce(DirectTunnel) -> F + Send + 'static,
) -> Result<T, DirectError>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let link_set = LinkSet::new(uplink, 1);
    with_tunnel_over(link_set, port, server_timeout, cancel, work).await
}

/// Does the same as [`with_tunnel`] over several links, if the traffic needs them.
///
/// # Errors
/// When no tunnel was established.
///
/// # Cancel safety
/// Dropping the future cuts the links. Tasks that were spawned end soon after.
pub async fn with_tunnel_over<T, F>(
    link_set: LinkSet,
    port: PortParameters,
    server_timeout: Duration,
    cancel: CancellationToken,
    work: impl FnOnce(DirectTunnel) -> F + Send + 'static,
) -> Result<T, DirectError>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let drain = Drain::default();
    let max_lanes = link_set.count().max();
    let port = PortSupervisor::new(port, max_lanes, &drain.tasks, &drain.stop);
    let table = PortTable::default();
    table.add(&port);
    let role = ClientRole::new(
        table,
        link_set.uplink().move_requests.clone(),
        &drain.tasks,
        &drain.stop,
    );
    let observed = ObservedClient {
        role,
        links: watch::Sender::default(),
    };
    let waiter = TunnelWaiter {
        port: Arc::clone(&port),
        links: observed.links.subscribe(),
        masters: count_masters(link_set.uplink()),
        server_timeout,
    };
    let done = CancellationToken::new();
    let done_guard = done.clone().drop_guard();
    // A separate task: the caller may poll this future on the main thread, which each wake-up would
    // have to wake.
    let working = drain.tasks.spawn(async move {
        let _done_guard = done_guard;
        waiter.run(work, cancel).await
    });
    let links = LinkPool::new(Arc::new(observed), &drain);
    links.start(vec![link_set]);
    let end_tunnel = async move { port.end().await };
    let grace = Grace::from(Duration::ZERO);
    drain.run(&links, &done, &grace, || {}, end_tunnel).await;
    outcome_of(working).await
}

/// Returns the number of different master addresses.
fn count_masters(uplink: &Uplink) -> usize {
    let names = uplink.dialers.iter().map(Connector::name);
    names.collect::<BTreeSet<_>>().len()
}

/// Waits for the outcome of the task that uses the tunnel. A panic of the task continues here.
async fn outcome_of<T>(working: JoinHandle<Result<T, DirectError>>) -> Result<T, DirectError> {
    match working.await {
        Ok(outcome) => outcome,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(DirectError::Cancelled),
        },
    }
}

/// The link events so far.
#[derive(Debug, Clone, Default)]
struct Links {
    /// The master of the newest link, and when it was established.
    joined: Option<(String, Instant)>,
    /// Why the links to the other masters failed, by address.
    failed: BTreeMap<String, String>,
}

/// A client role that publishes the events of its links.
struct ObservedClient {
    role: ClientRole,
    links: watch::Sender<Links>,
}

impl LinkedRole for ObservedClient {
    type Session = ClientSession;

    fn begin(&self, link: &RoleLink) -> (Vec<Frame>, ClientSession) {
        self.role.begin(link)
    }

    fn joined(&self, link: &RoleLink, terms: &Terms) {
        self.role.joined(link, terms);
    }

    fn retiring(&self, link: &RoleLink, cause: RetirementCause) {
        self.role.retiring(link, cause);
    }

    fn on_link_event(&self, event: LinkEvent<'_>) {
        let now = Instant::now();
        self.links.send_modify(|links| match event {
            LinkEvent::Joined { master } => links.joined = Some((master.to_owned(), now)),
            LinkEvent::Failed { master, error } => {
                drop(links.failed.insert(master.to_owned(), error))
            }
        });
    }
}

/// Waits for a tunnel.
struct TunnelWaiter {
    port: Arc<PortSupervisor>,
    links: watch::Receiver<Links>,
    /// Number of master addresses.
    masters: usize,
    server_timeout: Duration,
}

impl TunnelWaiter {
    /// Waits for a tunnel and passes it to `work`. Cancelling `cancel` stops the wait, and not
    /// `work`.
    async fn run<T, F>(
        self,
        work: impl FnOnce(DirectTunnel) -> F,
        cancel: CancellationToken,
    ) -> Result<T, DirectError>
    where
        F: Future<Output = T>,
    {
        let reached = tokio::select! {
            reached = self.wait_for_tunnel() => reached?,
            () = cancel.cancelled() => return Err(DirectError::Cancelled),
        };
        Ok(work(reached).await)
    }

    async fn wait_for_tunnel(mut self) -> Result<DirectTunnel, DirectError> {
        let started = Instant::now();
        let (master, linked) = self.linked().await?;
        let (tunnel, server_info) =
            match tokio::time::timeout(self.server_timeout, self.attached()).await {
                Ok(attached) => attached.map_err(DirectError::Refused)?,
                Err(_) => return Err(self.timeout_error(master)),
            };
        let link_time = linked.saturating_duration_since(started);
        Ok(DirectTunnel {
            tunnel,
            master,
            link_time,
            attach_time: linked.elapsed(),
            server_info,
        })
    }

    /// Waits until a link is up, or every master has failed once. Each attempt has its own
    /// deadline.
    async fn linked(&mut self) -> Result<(String, Instant), DirectError> {
        loop {
            let links = self.links.borrow_and_update().clone();
            if let Some(joined) = links.joined {
                return Ok(joined);
            }
            if links.failed.len() >= self.masters {
                return Err(DirectError::NoMaster(links.failed));
            }
            if self.links.changed().await.is_err() {
                return Err(DirectError::Cancelled);
            }
        }
    }

    /// Waits for a tunnel, or for a refusal that a retry would not change.
    async fn attached(&self) -> Result<(Tunnel, ServerInfo), AttachError> {
        let mut refusals = self.port.refusals();
        loop {
            if let Some(refusal) = refusals
                .borrow_and_update()
                .clone()
                .filter(|refusal| !refusal.is_retryable())
            {
                return Err(refusal);
            }
            let tunnel = tokio::select! {
                tunnel = self.port.tunnel() => tunnel,
                _ = refusals.changed() => continue,
            };
            if let Some(server_info) = self.port.server_info(&tunnel) {
                return Ok((tunnel, server_info));
            }
            // The tunnel ended between the two calls: ask for the next one.
            tokio::task::yield_now().await;
        }
    }

    /// Returns why no tunnel was established in time: the last refusal, if there was one.
    fn timeout_error(&self, master: String) -> DirectError {
        match self.port.refusals().borrow().clone() {
            Some(refusal) => DirectError::Refused(refusal),
            None => DirectError::NoServer {
                mark: self.port.parameters.mark.to_string(),
                master,
                waited: self.server_timeout,
            },
        }
    }
}
