//! The state machine of a port: decides which tunnels the port has, and on which link each of them
//! is attached.
//!
//! Pure: links and attach requests are numbers, tunnels are ids, and time and jitter are arguments.
//! The caller passes each event to [`PortMachine::on`] and executes the returned actions. It passes
//! [`PortEvent::Timeout`] when [`PortMachine::next_deadline`] has passed.
//!
//! ```text
//!  a tunnel
//!  New          newer link, MOVE request
//!  ───► attached ─────────────────────► Attach in flight ──► moving ──► attached
//!          │                              ▲                            (then the next move)
//!          │ link lost                    │ at once; after RESUME_PATIENCE if messages were invalid
//!          └───────────────► lost ────────┘
//!                             └── not attached after RESUME_PATIENCE: request a new tunnel too
//!
//!  the request for a new tunnel
//!         no tunnel, patience over, service refused
//!  (none) ─────────────────────────────────────────► in flight ──► answered: adopt its tunnel
//!    ▲                                                │     ▲
//!    │ current tunnel is attached, or link ended      ▼     │ retry_at
//!    └────────────────────────────────────────────── waiting
//! ```
//!
//! The newest tunnel of the port is the *current* one: it takes the new streams. The others keep
//! theirs and end after the last one. A port that is retired has no current tunnel.

mod lanes;
mod requested_lanes;
mod requests;
mod retirement;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    mem,
    time::{Duration, Instant},
};

use self::{
    lanes::FurtherLanes,
    requested_lanes::RequestedLanes,
    requests::{InFlight, MAX_RETRY_WAIT, PendingNew, ReattachReason},
};
use super::{
    event::{
        AttachPurpose, EndTunnelReason, NewTunnel, PortAction, PortEvent, RequestNumber,
        TunnelPhase, TunnelView,
    },
    refused_servers::RefusedServers,
};
use crate::{link::LinkId, suspend::Moment};
use report_proto::{frame::Code, id::Id};

/// After this time without an attachment the port also requests a new tunnel (PROTOCOL 12,
/// `RESUME_PATIENCE`).
const RESUME_PATIENCE: Duration = Duration::from_secs(1);

/// Interval between checks whether a tunnel that takes no new streams has any left.
const EMPTY_CHECK: Duration = Duration::from_secs(5);

/// The state machine of a port.
#[derive(Debug, Default)]
pub(super) struct PortMachine {
    /// Links of the first slot that are up or being established, the newest last.
    links: Vec<LinkEntry>,
    /// The other links, and the lanes on them.
    further: FurtherLanes,
    /// The lanes that servers ask for beyond those.
    requested: RequestedLanes,
    /// Tunnels that have not ended. The last one is current.
    tunnels: Vec<TunnelEntry>,
    /// Attach requests without an outcome.
    requests: BTreeMap<RequestNumber, InFlight>,
    last_request: RequestNumber,
    /// The request for a new tunnel. It may be waiting for its retry.
    pending_new: Option<PendingNew>,
    /// Servers that a new tunnel avoids.
    refused: RefusedServers,
    /// When to check whether the current tunnel is attached. One entry per loss and link.
    patience_checks: Vec<Instant>,
    /// The tunnel that was published as the one that takes new streams.
    ready: Option<Id>,
    /// The client is shutting down: no more attach requests.
    is_ending: bool,
    /// The port takes no new streams: no more requests for new tunnels.
    is_retired: bool,
    actions: Vec<PortAction>,
}

#[derive(Debug)]
struct LinkEntry {
    id: LinkId,
    /// Only a link that is up may carry requests after its first flight.
    is_up: bool,
}

/// A tunnel of the port.
#[derive(Debug)]
struct TunnelEntry {
    id: Id,
    /// The instance id of its server.
    server: Id,
    view: TunnelView,
    /// The server asked for a move during a pending request: attach again after it.
    reattach_due: bool,
    /// Attach again after the current move.
    after_move: Option<ReattachReason>,
    /// When to attach again after a failure.
    retry_at: Option<Instant>,
    /// When to check whether it has streams. Only set if it is not current.
    empty_check_at: Option<Instant>,
}

impl PortMachine {
    /// Creates a port whose tunnels may have up to `max_lanes` lanes at the server's request.
    pub(super) fn with_lanes(max_lanes: usize) -> Self {
        PortMachine {
            requested: RequestedLanes::new(max_lanes),
            ..PortMachine::default()
        }
    }

    /// Changes the maximum number of lanes of a tunnel at the server's request.
    pub(super) fn set_max_lanes(&mut self, max_lanes: usize) {
        self.requested.set_max(max_lanes);
    }

    /// Handles an event. Returns the actions to execute, in this order.
    pub(super) fn on(&mut self, event: PortEvent, now: Moment) -> Vec<PortAction> {
        match event {
            PortEvent::LinkBegins(link) => self.on_new_link(link, now.awake),
            PortEvent::LinkUp(link) => self.on_link_up(link, now.awake),
            PortEvent::FurtherLinkBegins { slot, link } => self.on_further_link_begins(slot, link),
            PortEvent::FurtherLinkUp { slot, link } => self.on_further_link_up(slot, link),
            PortEvent::FurtherLinkRetiring(link) => self.on_further_link_gone(link, true),
            PortEvent::LinkEnded(link) => self.on_link_ended(link, now.awake),
            PortEvent::TunnelChanged { tunnel, view } => self.on_tunnel(tunnel, view, now.awake),
            PortEvent::MoveRequested { tunnel } => {
                self.ensure_attached(tunnel, ReattachReason::NewChannel, now.awake);
            }
            PortEvent::AttachDone {
                request,
                result,
                jitter,
            } => self.on_attach_done(request, result, jitter, now),
            PortEvent::ServiceRefused { tunnel, server } => {
                self.on_refusal(tunnel, server, now.awake);
            }
            PortEvent::ShuttingDown => self.is_ending = true,
            PortEvent::Retired => self.on_retired(),
            PortEvent::Timeout => self.on_timeout(now.awake),
        }
        // These follow from the state alone, so that no event can forget them.
        self.leave_retiring_links();
        self.ensure_lanes(now.awake);
        self.ensure_requested_lanes(now.awake);
        self.cancel_unneeded_request(now.awake);
        self.schedule_empty_checks(now.awake);
        self.update_ready(now.awake);
        mem::take(&mut self.actions)
    }

    /// Returns when the caller has to pass [`PortEvent::Timeout`].
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let of_tunnels = self
            .tunnels
            .iter()
            .flat_map(|entry| [entry.retry_at, entry.empty_check_at])
            .flatten();
        let of_request = self
            .pending_new
            .iter()
            .flat_map(|pending| [pending.retry_at, self.refused.held_until()])
            .flatten();
        of_tunnels
            .chain(of_request)
            .chain(self.patience_checks.iter().copied())
            .chain(self.lane_retry_at())
            .chain(self.requested_lanes_at())
            .min()
    }

    fn on_new_link(&mut self, link: LinkId, now: Instant) {
        self.links.push(LinkEntry {
            id: link,
            is_up: false,
        });
        if self.is_ending {
            return;
        }
        if self.tunnels.is_empty() {
            if !self.is_retired {
                // A request that waits on an older link is not followed further.
                self.request_new(link, AttachPurpose::New, now);
            }
            return;
        }
        // A tunnel that is moving is attached after its move, when the link is up.
        let bound: Vec<Id> = self
            .tunnels
            .iter()
            .filter(|entry| !entry.view.is_moving && !entry.view.is_ending)
            .map(|entry| entry.id)
            .collect();
        for tunnel in bound {
            self.attach(link, AttachPurpose::Resume { tunnel }, now);
        }
        self.check_patience_after(RESUME_PATIENCE, now);
    }

    fn on_link_up(&mut self, link: LinkId, now: Instant) {
        for entry in &mut self.links {
            entry.is_up |= entry.id == link;
        }
        let all: Vec<Id> = self.tunnels.iter().map(|entry| entry.id).collect();
        for tunnel in all {
            self.ensure_attached(tunnel, ReattachReason::NewLink, now);
        }
        self.ensure_tunnel(now);
    }

    fn on_link_ended(&mut self, link: LinkId, now: Instant) {
        self.links.retain(|entry| entry.id != link);
        self.on_further_link_gone(link, false);
        self.pending_new.take_if(|pending| pending.link == link);
        // An older link may still be up, if this one did not join.
        self.ensure_tunnel(now);
    }

    fn on_tunnel(&mut self, tunnel: Id, view: TunnelView, now: Instant) {
        let Some(entry) = self.entry_mut(tunnel) else {
            return;
        };
        let before = mem::replace(&mut entry.view, view);
        // The end that this machine requested stays requested.
        entry.view.is_ending |= before.is_ending;
        match view.phase {
            TunnelPhase::Ended => return self.on_tunnel_ended(tunnel, now),
            // The lane on the first slot was lost, and others carry on.
            TunnelPhase::Attached { link: None } if before.phase != view.phase => {
                self.ensure_attached(tunnel, ReattachReason::NewLink, now);
            }
            TunnelPhase::Lost { code, .. } if before.phase != view.phase => {
                self.on_tunnel_lost(tunnel, code, now);
            }
            _ => {}
        }
        if view.is_moving {
            return;
        }
        let after_move = self
            .entry_mut(tunnel)
            .and_then(|entry| entry.after_move.take());
        if let Some(reason) = after_move {
            self.ensure_attached(tunnel, reason, now);
        }
    }

    fn on_tunnel_lost(&mut self, tunnel: Id, code: Code, now: Instant) {
        // Its lanes join again as soon as it accepts lanes.
        self.forget_lanes(tunnel);
        self.request_lanes_at_once(tunnel, now);
        // A peer or a master that sends invalid messages could do so again at once, in a loop.
        let is_violation = matches!(
            code,
            Code::Seal | Code::Protocol | Code::FlowControl | Code::Handshake
        );
        if code == Code::Denied {
            // A policy of the master's operator does not change soon.
            self.reattach_after(tunnel, MAX_RETRY_WAIT, now);
            self.check_patience_after(MAX_RETRY_WAIT + RESUME_PATIENCE, now);
        } else if is_violation {
            self.reattach_after(tunnel, RESUME_PATIENCE, now);
            self.check_patience_after(2 * RESUME_PATIENCE, now);
        } else {
            self.ensure_attached(tunnel, ReattachReason::NewLink, now);
            self.check_patience_after(RESUME_PATIENCE, now);
        }
    }

    fn on_tunnel_ended(&mut self, tunnel: Id, now: Instant) {
        self.tunnels.retain(|entry| entry.id != tunnel);
        self.forget_lanes(tunnel);
        self.forget_requested_lanes(tunnel);
        self.actions.push(PortAction::Forget { tunnel });
        self.ensure_tunnel(now);
    }

    /// Adds a new tunnel, or ends it if it is not needed.
    fn adopt(&mut self, new: NewTunnel, now: Moment) {
        let current = self.current().filter(|current| current.is_attached());
        let is_refused = current.is_some_and(|current| self.is_refused(current, now.awake));
        // Replace an attached tunnel only by one whose service has not refused a connection.
        let is_better = is_refused && !self.refused.contains(new.server, now.awake);
        let is_unwanted = self.is_ending || self.is_retired;
        let is_redundant = is_unwanted || (current.is_some() && !is_better);
        if is_redundant {
            if is_refused {
                // The new server refused too, or it is the same one.
                self.refused.set_no_alternative(now.awake);
            }
            self.actions.push(PortAction::EndTunnel {
                tunnel: new.tunnel,
                reason: EndTunnelReason::Redundant,
            });
            return;
        }
        self.actions.push(PortAction::Adopt { tunnel: new.tunnel });
        self.end_replaced(&new, now);
        self.tunnels.push(TunnelEntry {
            id: new.tunnel,
            server: new.server,
            view: TunnelView {
                phase: TunnelPhase::Unconfirmed,
                ..new.view
            },
            reattach_due: false,
            after_move: None,
            retry_at: None,
            empty_check_at: None,
        });
        // It may already be lost again.
        self.on_tunnel(new.tunnel, new.view, now.awake);
    }

    /// Ends the tunnels whose server process has been replaced: the process that answered for `new`
    /// started after they had lost their attachment. A second server with the same port key that
    /// was already running has a larger age.
    fn end_replaced(&mut self, new: &NewTunnel, now: Moment) {
        let replaced: Vec<Id> = self
            .tunnels
            .iter()
            .filter(|entry| match entry.view.phase {
                TunnelPhase::Lost { since, .. } => {
                    entry.server != new.server && now.since(since) > new.server_age
                }
                _ => false,
            })
            .map(|entry| entry.id)
            .collect();
        for tunnel in replaced {
            self.end_tunnel(tunnel, EndTunnelReason::ServerRestarted);
        }
    }

    fn end_tunnel(&mut self, tunnel: Id, reason: EndTunnelReason) {
        if let Some(entry) = self.entry_mut(tunnel) {
            entry.view.is_ending = true;
        }
        self.actions.push(PortAction::EndTunnel { tunnel, reason });
    }

    fn check_patience_after(&mut self, wait: Duration, now: Instant) {
        self.patience_checks.extend(now.checked_add(wait));
    }

    fn on_timeout(&mut self, now: Instant) {
        let due: Vec<Id> = self
            .tunnels
            .iter_mut()
            .filter_map(|entry| {
                let is_due = entry.retry_at.take_if(|at| *at <= now).is_some();
                is_due.then_some(entry.id)
            })
            .collect();
        for tunnel in due {
            self.ensure_attached(tunnel, ReattachReason::NewLink, now);
        }
        self.retry_new(now);
        self.release_lane_retries(now);
        let checks = self.patience_checks.len();
        self.patience_checks.retain(|at| *at > now);
        let is_lost = self.current().is_some_and(|current| !current.is_attached());
        if is_lost && self.patience_checks.len() < checks {
            self.request_new_on_newest_link(AttachPurpose::New, now);
        }
        self.refused.release_held(now);
        self.end_empty_tunnels(now);
    }

    /// Requests a tunnel if there is none.
    fn ensure_tunnel(&mut self, now: Instant) {
        if self.tunnels.is_empty() {
            self.request_new_on_newest_link(AttachPurpose::New, now);
        }
    }

    /// Publishes which tunnel takes new streams.
    fn update_ready(&mut self, now: Instant) {
        // While another server is being requested, new connections wait for it instead of the
        // refusing one.
        let holds = self.pending_new.is_some() && self.refused.holds_connections(now);
        let ready = self
            .current()
            .filter(|current| !holds && !self.is_retired && current.is_attached())
            .map(|current| current.id);
        if ready != self.ready {
            self.ready = ready;
            self.actions.push(PortAction::SetReady(ready));
        }
    }

    fn current(&self) -> Option<&TunnelEntry> {
        self.tunnels.last()
    }

    fn is_refused(&self, entry: &TunnelEntry, now: Instant) -> bool {
        self.refused.contains(entry.server, now)
    }

    fn entry_mut(&mut self, tunnel: Id) -> Option<&mut TunnelEntry> {
        self.tunnels.iter_mut().find(|entry| entry.id == tunnel)
    }

    /// Returns the newest link that is up.
    fn newest_link(&self) -> Option<LinkId> {
        self.links
            .iter()
            .rev()
            .find(|entry| entry.is_up)
            .map(|entry| entry.id)
    }
}

impl TunnelEntry {
    /// Returns whether an attachment carries the tunnel and its end was not requested.
    fn is_attached(&self) -> bool {
        matches!(self.view.phase, TunnelPhase::Attached { .. }) && !self.view.is_ending
    }

    /// Returns whether the tunnel is attached at both ends, so that a further attachment joins.
    fn accepts_lanes(&self) -> bool {
        self.is_attached() && self.view.accepts_lanes
    }
}
