//! Executes the actions of the state machine of a port. Holds what the machine knows by number or
//! id: links, tunnels and attach requests.

mod attach;
mod ends;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    sync::Arc,
    time::Instant,
};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tracing::{Span, info};

use self::attach::OpenRequest;
pub(super) use self::attach::{AttachReply, StartedRequest};
use super::{
    event::{
        AttachResult, NewTunnel, PortAction, PortEvent, RequestNumber, TunnelPhase, TunnelView,
    },
    machine::PortMachine,
    port_link::{PortLink, links_to_leave},
};
use crate::{
    link::{LinkId, Outbox},
    suspend::Moment,
    tunnel::{
        PortParameters, Tunnel, TunnelStatus,
        attach::{AttachError, AttachOutcome, ServerInfo},
    },
};
use report_proto::{
    frame::{Code, Frame, Notice},
    id::Id,
};

/// The state machine of a port and its tables.
///
/// Several tasks share it behind a mutex: a link needs the frames of its first flight at once.
/// Actions are executed under that lock, so that their effects keep their order. No action waits,
/// and none calls back into the port.
pub(super) struct PortExecutor {
    parameters: PortParameters,
    machine: PortMachine,
    links: Vec<PortLink>,
    tunnels: Vec<PortTunnel>,
    /// Attach requests without an outcome.
    requests: BTreeMap<RequestNumber, OpenRequest>,
    /// Requests that the driver does not follow yet.
    started: Vec<StartedRequest>,
    /// Collects the frames for the link that begins.
    first_flight: Option<Vec<Frame>>,
    /// Tunnels that the driver does not watch yet.
    adopted: Vec<TunnelWatch>,
    ready: watch::Sender<Option<Tunnel>>,
    refusals: watch::Sender<Option<AttachError>>,
    /// Whether the client itself ends the tunnels.
    is_ending: bool,
    /// Runs the drivers of the tunnels.
    tasks: TaskTracker,
    span: Span,
}

/// A tunnel of the port.
struct PortTunnel {
    tunnel: Tunnel,
    /// The properties of the server.
    server_info: ServerInfo,
    adopted_at: Instant,
    /// Moves to the driver when the tunnel is adopted.
    watch: Option<TunnelWatch>,
}

/// The notifications of a tunnel, for the task that waits for them.
pub(super) struct TunnelWatch {
    pub(super) tunnel: Id,
    pub(super) status: watch::Receiver<TunnelStatus>,
    pub(super) move_requests: watch::Receiver<u64>,
}

impl PortExecutor {
    /// Creates a port without a tunnel. Its tunnels may have up to `max_lanes` lanes at the server's
    /// request.
    pub(super) fn new(
        parameters: PortParameters,
        max_lanes: usize,
        tasks: &TaskTracker,
        span: Span,
        ready: watch::Sender<Option<Tunnel>>,
        refusals: watch::Sender<Option<AttachError>>,
    ) -> Self {
        PortExecutor {
            parameters,
            machine: PortMachine::with_lanes(max_lanes),
            links: Vec::new(),
            tunnels: Vec::new(),
            requests: BTreeMap::new(),
            first_flight: None,
            started: Vec::new(),
            adopted: Vec::new(),
            ready,
            refusals,
            is_ending: false,
            tasks: tasks.clone(),
            span,
        }
    }

    /// Handles a link that is being established. Returns the frames of its first flight.
    pub(super) fn begin_link(&mut self, link: &PortLink) -> Vec<Frame> {
        self.observe();
        self.links.push(link.clone());
        if link.slot != 0 {
            self.run(PortEvent::FurtherLinkBegins {
                slot: link.slot,
                link: link.id(),
            });
            return Vec::new();
        }
        self.first_flight = Some(Vec::new());
        self.run(PortEvent::LinkBegins(link.id()));
        self.first_flight.take().unwrap_or_default()
    }

    /// Handles a link that is established.
    pub(super) fn link_up(&mut self, outbox: &Arc<Outbox>) {
        let Some((slot, id)) = self.link_of(outbox).map(|link| (link.slot, link.id())) else {
            return;
        };
        self.handle(match slot {
            0 => PortEvent::LinkUp(id),
            slot => PortEvent::FurtherLinkUp { slot, link: id },
        });
        // Only now: to a machine that does not know this link yet, the older one would be without a
        // lane.
        if let Some(link) = self.link_of(outbox) {
            link.is_up = true;
        }
        self.observe();
    }

    /// Handles a link that will be closed.
    pub(super) fn link_retiring(&mut self, outbox: &Arc<Outbox>) {
        let Some(link) = self.link_of(outbox) else {
            return;
        };
        link.is_retiring = true;
        let (slot, id) = (link.slot, link.id());
        if slot == 0 {
            // The lane on the new link replaces those that it finds here. Others may have joined since.
            self.observe();
        } else {
            self.handle(PortEvent::FurtherLinkRetiring(id));
        }
    }

    fn link_of(&mut self, outbox: &Arc<Outbox>) -> Option<&mut PortLink> {
        self.links
            .iter_mut()
            .find(|link| Arc::ptr_eq(&link.outbox, outbox))
    }

    /// Handles the reply to an attach request; `None` if its channel was closed at this end.
    pub(super) fn attach_done(&mut self, request: RequestNumber, reply: Option<AttachReply>) {
        let Some(open) = self.requests.remove(&request) else {
            return;
        };
        let result = match reply {
            Some(Ok(AttachOutcome::New(tunnel, server_info))) => {
                AttachResult::New(self.add(tunnel, server_info))
            }
            Some(Ok(AttachOutcome::Resumed)) => {
                self.log_lane(&open);
                AttachResult::Resumed
            }
            Some(Err(error)) => self.attach_failed(&open, error),
            None => AttachResult::Unanswered,
        };
        self.handle(PortEvent::AttachDone {
            request,
            result,
            jitter: fastrand::f64(),
        });
    }

    /// Passes an event to the machine, which knows the present state of links and tunnels then.
    pub(super) fn handle(&mut self, event: PortEvent) {
        self.observe();
        self.is_ending |= matches!(event, PortEvent::ShuttingDown);
        self.run(event);
    }

    /// Reports the state of the links and tunnels to the machine.
    pub(super) fn observe(&mut self) {
        let ended: Vec<LinkId> = self
            .links
            .iter()
            .filter(|link| link.has_ended())
            .map(PortLink::id)
            .collect();
        for id in ended {
            self.links.retain(|link| link.id() != id);
            self.run(PortEvent::LinkEnded(id));
        }
        let tunnels: Vec<Tunnel> = self.tunnels().collect();
        for tunnel in tunnels {
            let view = self.view(&tunnel);
            let tunnel = tunnel.id();
            self.run(PortEvent::TunnelChanged { tunnel, view });
        }
    }

    /// Returns when a deadline of the machine passes.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.machine.next_deadline()
    }

    /// Returns the requests that were sent since the last call.
    pub(super) fn take_started(&mut self) -> Vec<StartedRequest> {
        mem::take(&mut self.started)
    }

    /// Returns the watches of the tunnels that were adopted since the last call.
    pub(super) fn take_adopted(&mut self) -> Vec<TunnelWatch> {
        mem::take(&mut self.adopted)
    }

    /// Changes the maximum number of lanes of a tunnel at the server's request.
    pub(super) fn set_max_lanes(&mut self, max_lanes: usize) {
        self.machine.set_max_lanes(max_lanes);
    }

    /// Whether the port takes no new streams.
    pub(super) fn is_retired(&self) -> bool {
        self.machine.is_retired()
    }

    /// Whether the port takes no new streams, and has nothing left to do.
    pub(super) fn has_retired(&self) -> bool {
        self.machine.has_retired() && self.requests.is_empty()
    }

    /// Returns the tunnels that have not ended.
    pub(super) fn tunnels(&self) -> impl Iterator<Item = Tunnel> {
        self.tunnels.iter().map(|entry| entry.tunnel.clone())
    }

    /// Returns the properties of the server of a tunnel that has not ended.
    pub(super) fn server_info(&self, tunnel: Id) -> Option<ServerInfo> {
        self.find(tunnel).map(|entry| entry.server_info)
    }

    /// Returns whether the tunnel has not ended.
    pub(super) fn has_tunnel(&self, tunnel: Id) -> bool {
        self.find(tunnel).is_some()
    }

    fn find(&self, tunnel: Id) -> Option<&PortTunnel> {
        self.tunnels
            .iter()
            .find(|entry| entry.tunnel.id() == tunnel)
    }

    /// Adds a new tunnel to the table. The machine decides about it.
    fn add(&mut self, tunnel: Tunnel, server_info: ServerInfo) -> NewTunnel {
        // Before the view, so that no later change is missed.
        let watch = TunnelWatch {
            tunnel: tunnel.id(),
            status: tunnel.status(),
            move_requests: tunnel.move_requests(),
        };
        let new = NewTunnel {
            tunnel: tunnel.id(),
            server: tunnel.instance(),
            server_age: server_info.age,
            seen: server_info.seen,
            view: self.view(&tunnel),
        };
        self.tunnels.push(PortTunnel {
            tunnel,
            server_info,
            adopted_at: Instant::now(),
            watch: Some(watch),
        });
        new
    }

    fn view(&self, tunnel: &Tunnel) -> TunnelView {
        let carries = |link: &&PortLink| tunnel.is_attached_through(link.outbox.id());
        let (first, further): (Vec<&PortLink>, Vec<&PortLink>) = self
            .links
            .iter()
            .filter(carries)
            .partition(|link| link.slot == 0);
        // The newest one counts.
        let link = first.last().map(|link| link.id());
        let is_newest = |link: &&PortLink| {
            let mut others = self.links.iter();
            link.is_usable() && !others.any(|other| other.has_replaced(link))
        };
        let further_lanes = further
            .into_iter()
            .filter(is_newest)
            .map(|link| link.slot)
            .collect();
        let phase = match &*tunnel.status().borrow() {
            TunnelStatus::Unconfirmed => TunnelPhase::Unconfirmed,
            TunnelStatus::Attached => TunnelPhase::Attached { link },
            TunnelStatus::Lost { since, why } => TunnelPhase::Lost {
                since: *since,
                code: why.code,
            },
            TunnelStatus::Ended => TunnelPhase::Ended,
        };
        TunnelView {
            phase,
            further_lanes,
            accepts_lanes: tunnel.accepts_lanes(),
            lanes: tunnel.lanes(),
            requested_lanes: tunnel.requested_lanes(),
            has_lane_to_leave: !self.links_to_leave(tunnel).is_empty(),
            is_moving: tunnel.is_moving(),
            is_ending: tunnel.notice().is_some(),
            has_streams: tunnel.streams() > 0,
        }
    }

    /// Returns the retiring links whose lanes of the tunnel can be left.
    fn links_to_leave(&self, tunnel: &Tunnel) -> Vec<LinkId> {
        if !self.links.iter().any(|link| link.is_retiring) {
            return Vec::new();
        }
        let links = self.links.iter();
        let links = links.map(|link| (link, tunnel.is_attached_through(link.id())));
        links_to_leave(&links.collect::<Vec<_>>())
    }

    /// Passes an event to the machine, and executes the actions that result.
    fn run(&mut self, event: PortEvent) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.machine.on(event, Moment::now()) {
                events.extend(self.execute(action));
            }
        }
    }

    /// Executes an action. Returns the event that follows at once, if any.
    fn execute(&mut self, action: PortAction) -> Option<PortEvent> {
        match action {
            PortAction::Attach {
                request,
                link,
                purpose,
                avoid,
            } => {
                let sent = self.attach(request, link, purpose, avoid);
                return sent.is_none().then_some(PortEvent::AttachDone {
                    request,
                    result: AttachResult::NotSent,
                    jitter: 0.0,
                });
            }
            PortAction::CancelAttach { request } => {
                if let Some(open) = self.requests.get(&request) {
                    let notice = Notice::new(Code::Cancelled, "");
                    open.link.outbox.close(open.channel, &notice);
                }
            }
            PortAction::Adopt { tunnel } => self.adopt(tunnel),
            PortAction::LeaveLink { tunnel, link } => {
                let link = self.links.iter().find(|known| known.id() == link);
                if let (Some(entry), Some(link)) = (self.find(tunnel), link) {
                    entry.tunnel.leave_link(link.outbox.id());
                }
            }
            PortAction::LeaveRetiringLinks { tunnel } => {
                if let Some(entry) = self.find(tunnel) {
                    for link in self.links_to_leave(&entry.tunnel) {
                        entry.tunnel.leave_link(link);
                    }
                }
            }
            PortAction::LeaveLanes { tunnel, keep } => {
                if let Some(entry) = self.find(tunnel) {
                    entry.tunnel.leave_surplus(keep);
                }
            }
            PortAction::EndTunnel { tunnel, reason } => self.end_tunnel(tunnel, reason),
            PortAction::Forget { tunnel } => self.forget(tunnel),
            PortAction::SetReady(tunnel) => {
                let tunnel = tunnel.and_then(|tunnel| self.find(tunnel));
                let tunnel = tunnel.map(|entry| entry.tunnel.clone());
                self.ready.send_replace(tunnel);
            }
        }
        None
    }

    fn adopt(&mut self, tunnel: Id) {
        let span = &self.span;
        let mut entries = self.tunnels.iter_mut();
        if let Some(entry) = entries.find(|entry| entry.tunnel.id() == tunnel) {
            let tells_addresses = entry.server_info.addresses;
            info!(parent: span, %tunnel, tells_addresses, "attached to a server");
            self.adopted.extend(entry.watch.take());
        }
    }
}
