//! The client's side of its links: every port gets to know each of them, and is given what the master says.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info};

use super::port::{Port, PortLink};
use crate::{
    frame::{Code, Frame, Notice, Terms},
    link::{
        Handler, Outbox,
        uplink::{LinkedRole, Mover},
    },
};

/// When no server of any port has been met at a master for this long, the next master of the list is asked. Longer each time, up to the last.
const MEETING_WAITS: std::ops::RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(60);

/// The client as its links see it.
pub struct Visitor {
    ports: Vec<Arc<Port>>,
    mover: Mover,
    /// How long a server is waited for at the next master.
    patience: Arc<Mutex<Duration>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Visitor {
    /// A visitor without a link. Its tasks run on `tasks` and end when `stop` is cancelled.
    pub fn new(ports: Vec<Arc<Port>>, mover: Mover, tasks: &TaskTracker, stop: &CancellationToken) -> Self {
        let patience = Arc::new(Mutex::new(*MEETING_WAITS.start()));
        Visitor { ports, mover, patience, tasks: tasks.clone(), stop: stop.clone() }
    }

    /// Asks for another master when nobody is met at this one.
    fn meet_or_move_on(&self, outbox: &Arc<Outbox>) {
        let (ports, mover, outbox, patience) =
            (self.ports.clone(), self.mover.clone(), Arc::clone(outbox), Arc::clone(&self.patience));
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let wait = *patience.lock().unwrap_or_else(PoisonError::into_inner);
            tokio::select! { () = tokio::time::sleep(wait) => {}, () = stop.cancelled() => return }
            let met = ports.iter().any(|port| port.is_attached_through(&outbox));
            let next = if met { *MEETING_WAITS.start() } else { wait.saturating_mul(2).min(*MEETING_WAITS.end()) };
            *patience.lock().unwrap_or_else(PoisonError::into_inner) = next;
            if !met && outbox.ended().is_none() {
                mover.move_on();
            }
        });
    }
}

/// The visitor on one of its links.
pub struct Session;

impl Handler for Session {
    fn frame(&mut self, frame: Frame) -> Result<(), Notice> {
        Err(Notice::new(Code::Protocol, format!("{} is not for a client", frame.name())))
    }
}

impl LinkedRole for Visitor {
    type Session = Session;

    fn begin(&self, outbox: &Arc<Outbox>) -> (Vec<Frame>, Session) {
        let link = PortLink::new(outbox);
        (self.ports.iter().flat_map(|port| port.link_begins(&link)).collect(), Session)
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
