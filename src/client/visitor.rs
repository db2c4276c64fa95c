//! The client's side of its links: every port gets to know each of them, and is given what the master says.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info};

use super::{port::Port, wish::PortLink};
use crate::{
    frame::{Code, Frame, Notice, Terms},
    link::{
        Handler, Outbox,
        uplink::{LinkedRole, Mover},
    },
};

/// When no server of any port has been met at a master for this long, the next master of the list is asked. Longer each time, up to the last.
const MEETING_WAITS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(5)..=Duration::from_secs(60);

/// How often it is looked whether one is met.
const LOOK: Duration = Duration::from_secs(1);

/// The client as its links see it.
pub struct Visitor {
    ports: Vec<Arc<Port>>,
    mover: Mover,
    /// How long a server is waited for at the next master.
    patience: Arc<Mutex<Duration>>,
    /// Counts the links that stood.
    links: Arc<AtomicU64>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Visitor {
    /// A visitor without a link. Its tasks run on `tasks` and end when `stop` is cancelled.
    pub fn new(
        ports: Vec<Arc<Port>>,
        mover: Mover,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let patience = Arc::new(Mutex::new(*MEETING_WAITS.start()));
        Visitor {
            ports,
            mover,
            patience,
            links: Arc::default(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        }
    }

    /// Asks for another master whenever nobody is met at this one for a while, as long as its link is the newest.
    fn meet_or_move_on(&self, outbox: &Arc<Outbox>) {
        let link = self.links.fetch_add(1, Ordering::Relaxed) + 1;
        let (ports, mover, outbox) = (self.ports.clone(), self.mover.clone(), Arc::clone(outbox));
        let (patience, links) = (Arc::clone(&self.patience), Arc::clone(&self.links));
        let watched = async move {
            let mut alone = Duration::ZERO;
            loop {
                tokio::time::sleep(LOOK).await;
                if outbox.ended().is_some() || links.load(Ordering::Relaxed) != link {
                    return;
                }
                let mut patience = patience.lock().unwrap_or_else(PoisonError::into_inner);
                if ports.iter().any(|port| port.is_attached_through(&outbox)) {
                    (alone, *patience) = (Duration::ZERO, *MEETING_WAITS.start());
                    continue;
                }
                alone += LOOK;
                if alone >= *patience {
                    (alone, *patience) = (
                        Duration::ZERO,
                        patience.saturating_mul(2).min(*MEETING_WAITS.end()),
                    );
                    mover.move_on();
                }
            }
        };
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! { () = watched => {}, () = stop.cancelled() => {} }
        });
    }
}

/// The visitor on one of its links.
pub struct Session;

impl Handler for Session {
    fn frame(&mut self, frame: Frame) -> Result<(), Notice> {
        Err(Notice::new(
            Code::Protocol,
            format!("{} is not for a client", frame.name()),
        ))
    }
}

impl LinkedRole for Visitor {
    type Session = Session;

    fn begin(&self, outbox: &Arc<Outbox>) -> (Vec<Frame>, Session) {
        let link = PortLink::new(outbox, &self.mover);
        (
            self.ports
                .iter()
                .flat_map(|port| port.link_begins(&link))
                .collect(),
            Session,
        )
    }

    fn joined(&self, outbox: &Arc<Outbox>, terms: &Terms) {
        if self.ports.len() > terms.max_channels as usize {
            error!(
                configured = self.ports.len(),
                max_channels = terms.max_channels,
                "more ports than the master takes on a link"
            );
        }
        self.ports.iter().for_each(|port| port.link_stands(outbox));
        self.meet_or_move_on(outbox);
    }

    fn retiring(&self, _outbox: &Arc<Outbox>) {
        // The ports have wished for their tunnels on the new link already.
        info!("moving to the new link");
    }
}
