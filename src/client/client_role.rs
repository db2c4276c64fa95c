//! The client's side of its links: passes each link and its events to all ports.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error, info};

use super::{
    port::{PortLink, PortSupervisor},
    port_table::PortTable,
};
use crate::{
    link::{Handler, Outbox},
    supervisor::{LinkedRole, MoveRequests, RetirementCause, RoleLink},
};
use report_proto::frame::{Code, Frame, Notice, Terms};

/// How long to wait for a server of any port at a master before the client tries the next master in
/// its list. The wait doubles each time, up to the maximum.
const SERVER_WAITS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(5)..=Duration::from_secs(60);

/// Interval between checks for an attached tunnel.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The client as its links see it.
pub(super) struct ClientRole {
    ports: PortTable,
    move_requests: MoveRequests,
    /// How long to wait for a server at the next master.
    server_wait: Arc<Mutex<Duration>>,
    /// Counts the links of the first slot that were established.
    links: Arc<AtomicU64>,
    /// The links in use: established, and neither retiring nor ended.
    in_use: Arc<LinksInUse>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl ClientRole {
    /// Creates a role without a link. Its tasks run on `tasks` and end when `stop` is cancelled.
    pub(super) fn new(
        ports: PortTable,
        move_requests: MoveRequests,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let server_wait = Arc::new(Mutex::new(*SERVER_WAITS.start()));
        ClientRole {
            ports,
            move_requests,
            server_wait,
            links: Arc::default(),
            in_use: Arc::default(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        }
    }

    /// Returns the links in use.
    pub(super) fn links_in_use(&self) -> Arc<LinksInUse> {
        Arc::clone(&self.in_use)
    }

    /// Requests another master whenever this one has had no server for a while, as long as its link
    /// is the newest of the first slot. Further links go to the same master.
    fn watch_for_server(&self, outbox: &Arc<Outbox>) {
        let link = self.links.fetch_add(1, Ordering::Relaxed) + 1;
        let (ports, move_requests, outbox) = (
            self.ports.clone(),
            self.move_requests.clone(),
            Arc::clone(outbox),
        );
        let (server_wait, links) = (Arc::clone(&self.server_wait), Arc::clone(&self.links));
        let in_use = Arc::clone(&self.in_use);
        let watching = async move {
            let mut without_server = Duration::ZERO;
            loop {
                tokio::time::sleep(CHECK_INTERVAL).await;
                // A newer link has its own watch task.
                if outbox.ended().is_some() || links.load(Ordering::Relaxed) != link {
                    return;
                }
                let mut server_wait = server_wait.lock().unwrap_or_else(PoisonError::into_inner);
                if in_use.carries_a_tunnel(&ports.all()) {
                    (without_server, *server_wait) = (Duration::ZERO, *SERVER_WAITS.start());
                    continue;
                }
                without_server += CHECK_INTERVAL;
                if without_server >= *server_wait {
                    (without_server, *server_wait) = (
                        Duration::ZERO,
                        server_wait.saturating_mul(2).min(*SERVER_WAITS.end()),
                    );
                    move_requests.request_other_master();
                }
            }
        };
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! { () = watching => {}, () = stop.cancelled() => {} }
        });
    }
}

/// The links of a client that are established, and neither retiring nor ended.
#[derive(Default)]
pub(super) struct LinksInUse {
    links: Mutex<Vec<Arc<Outbox>>>,
    /// Links that a master has accepted so far.
    established: AtomicU64,
}

impl LinksInUse {
    fn add(&self, outbox: &Arc<Outbox>) {
        self.established.fetch_add(1, Ordering::Relaxed);
        let mut links = self.lock();
        links.retain(|link| link.ended().is_none());
        links.push(Arc::clone(outbox));
    }

    fn remove(&self, outbox: &Arc<Outbox>) {
        self.lock().retain(|link| !Arc::ptr_eq(link, outbox));
    }

    /// Returns the number of links.
    pub(super) fn count(&self) -> usize {
        let links = self.lock();
        links.iter().filter(|link| link.ended().is_none()).count()
    }

    /// Returns how many links a master has accepted so far.
    pub(super) fn established(&self) -> u64 {
        self.established.load(Ordering::Relaxed)
    }

    /// Whether a tunnel of one of the ports is attached through one of these links.
    fn carries_a_tunnel(&self, ports: &[Arc<PortSupervisor>]) -> bool {
        // A copy, so that no port is locked at the same time.
        let links = self.lock().clone();
        links
            .iter()
            .filter(|link| link.ended().is_none())
            .any(|link| ports.iter().any(|port| port.is_attached_through(link)))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Outbox>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The client on one of its links.
pub(super) struct ClientSession;

impl Handler for ClientSession {
    fn on_frame(&mut self, frame: Frame) -> Result<(), Notice> {
        Err(Notice::new(
            Code::Protocol,
            format!("{} is not for a client", frame.name()),
        ))
    }
}

impl LinkedRole for ClientRole {
    type Session = ClientSession;

    fn begin(&self, link: &RoleLink) -> (Vec<Frame>, ClientSession) {
        let slot = if link.is_additional {
            usize::from(link.slot.number())
        } else {
            0
        };
        let link = PortLink::new(&link.outbox, slot, &link.move_requests);
        (self.ports.begin(&link), ClientSession)
    }

    fn joined(&self, link: &RoleLink, terms: &Terms) {
        let outbox = &link.outbox;
        let configured = self.ports.all().len();
        if configured > terms.max_channels as usize && !link.is_additional {
            error!(
                configured,
                max_channels = terms.max_channels,
                "more ports than the master accepts per link"
            );
        }
        self.in_use.add(outbox);
        self.ports.link_up(outbox);
        if !link.is_additional {
            self.watch_for_server(outbox);
        }
    }

    fn retiring(&self, link: &RoleLink, cause: RetirementCause) {
        self.in_use.remove(&link.outbox);
        self.ports.link_retiring(&link.outbox);
        // The ports have already sent ATTACH on the new link, if there is one.
        if link.is_additional || cause == RetirementCause::Surplus {
            debug!(slot = %link.slot, ?cause, "tunnels leave the link");
        } else {
            info!("tunnels move to the new link");
        }
    }
}
