//! The attach requests of a port: for a new tunnel, or to resume one.

use std::time::{Duration, Instant};

use super::{PortMachine, RESUME_PATIENCE};
use crate::{
    client::port::event::{
        AttachPurpose, AttachResult, EndTunnelReason, PortAction, RequestNumber, TunnelPhase,
    },
    link::LinkId,
    supervisor::backoff::RetryBackoff,
    suspend::Moment,
};
use report_proto::id::Id;

/// First wait before a failed request is retried. Usually the server is away, and the retry waits
/// at the master until it is back.
pub(super) const MIN_RETRY_WAIT: Duration = Duration::from_millis(50);

/// Longest wait before a retry.
pub(super) const MAX_RETRY_WAIT: Duration = Duration::from_secs(15);

/// An attach request without an outcome.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) link: LinkId,
    pub(super) purpose: AttachPurpose,
}

/// The request for a new tunnel.
#[derive(Debug)]
pub(super) struct PendingNew {
    /// The last request that was sent.
    pub(super) request: RequestNumber,
    pub(super) link: LinkId,
    backoff: RetryBackoff,
    /// When to send the next one. Set while none is in flight.
    pub(super) retry_at: Option<Instant>,
}

/// Why a tunnel is attached again. The later variant includes the earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ReattachReason {
    /// The newest link does not carry it.
    NewLink,
    /// The server's link closes soon: the tunnel needs a new channel on the newest link.
    NewChannel,
}

impl PendingNew {
    /// Returns how long to wait after this outcome.
    fn retry_wait(&mut self, result: &AttachResult, jitter: f64) -> Duration {
        match result {
            // No server in time. Ask again at once: the request only expired at the master
            // (`WAITING_TIMEOUT`).
            AttachResult::Expired => {
                self.backoff.reset();
                MIN_RETRY_WAIT.mul_f64(jitter)
            }
            AttachResult::Denied
            | AttachResult::Failed {
                is_retryable: false,
            } => MAX_RETRY_WAIT,
            _ => self.backoff.next_wait_with(jitter),
        }
    }
}

impl PortMachine {
    /// Returns the links with an attach request for this tunnel.
    pub(super) fn links_attaching(&self, tunnel: Id) -> impl Iterator<Item = LinkId> {
        let purpose = AttachPurpose::Resume { tunnel };
        self.requests
            .values()
            .filter(move |request| request.purpose == purpose)
            .map(|request| request.link)
    }

    /// Sends an attach request.
    pub(super) fn attach(
        &mut self,
        link: LinkId,
        purpose: AttachPurpose,
        now: Instant,
    ) -> RequestNumber {
        self.last_request = self.last_request.saturating_add(1);
        let request = self.last_request;
        let avoid = match purpose {
            AttachPurpose::Resume { .. }
            | AttachPurpose::Lane { .. }
            | AttachPurpose::RequestedLane { .. } => Vec::new(),
            AttachPurpose::New | AttachPurpose::Alternative { .. } => {
                self.refused.at(now).collect()
            }
        };
        self.requests.insert(request, InFlight { link, purpose });
        self.actions.push(PortAction::Attach {
            request,
            link,
            purpose,
            avoid,
        });
        request
    }

    /// Requests a new tunnel.
    pub(super) fn request_new(&mut self, link: LinkId, purpose: AttachPurpose, now: Instant) {
        let request = self.attach(link, purpose, now);
        self.pending_new = Some(PendingNew {
            request,
            link,
            backoff: RetryBackoff::new(MIN_RETRY_WAIT, MAX_RETRY_WAIT),
            retry_at: None,
        });
    }

    /// Requests a new tunnel on the newest link, unless a request is pending. Returns whether it
    /// did.
    pub(super) fn request_new_on_newest_link(
        &mut self,
        purpose: AttachPurpose,
        now: Instant,
    ) -> bool {
        let is_unwanted = self.is_ending || self.is_retired;
        let is_possible = self.pending_new.is_none() && !is_unwanted;
        let link = self.newest_link().filter(|_| is_possible);
        if let Some(link) = link {
            self.request_new(link, purpose, now);
        }
        link.is_some()
    }

    /// Requests a tunnel to another server, because the service behind the server of this tunnel
    /// refused a connection.
    pub(super) fn on_refusal(&mut self, tunnel: Id, server: Id, now: Instant) {
        let is_due = self.refused.record(server, now);
        let is_current = self.current().is_some_and(|current| current.id == tunnel);
        let alternative = AttachPurpose::Alternative { refused: server };
        if is_due && is_current && self.request_new_on_newest_link(alternative, now) {
            self.refused.hold_connections(now);
        }
    }

    /// Handles the outcome of an attach request.
    pub(super) fn on_attach_done(
        &mut self,
        request: RequestNumber,
        result: AttachResult,
        jitter: f64,
        now: Moment,
    ) {
        let Some(InFlight { link, purpose }) = self.requests.remove(&request) else {
            return;
        };
        match purpose {
            AttachPurpose::New | AttachPurpose::Alternative { .. } => {
                self.on_new_done(request, result, jitter, now);
            }
            AttachPurpose::Resume { tunnel } => {
                self.on_resume_done(tunnel, link, result, jitter, now);
            }
            AttachPurpose::Lane { tunnel } => {
                self.on_lane_done(tunnel, link, &result, now.awake);
            }
            AttachPurpose::RequestedLane { .. } => self.on_requested_lane_done(&result),
        }
    }

    fn on_new_done(
        &mut self,
        request: RequestNumber,
        result: AttachResult,
        jitter: f64,
        now: Moment,
    ) {
        let pending = self
            .pending_new
            .take_if(|pending| pending.request == request);
        if let AttachResult::New(new) = result {
            return self.adopt(new, now);
        }
        // The request may have been cancelled or replaced. If the link could not carry it, the next
        // link starts again.
        let was_sent = !matches!(result, AttachResult::NotSent);
        if let Some(mut pending) = pending.filter(|_| was_sent) {
            let wait = pending.retry_wait(&result, jitter);
            pending.retry_at = now.awake.checked_add(wait);
            self.pending_new = Some(pending);
        }
    }

    /// Sends the request for a new tunnel again when its wait is over.
    pub(super) fn retry_new(&mut self, now: Instant) {
        let is_due = |pending: &mut PendingNew| pending.retry_at.is_some_and(|at| at <= now);
        let Some(pending) = self.pending_new.take_if(is_due) else {
            return;
        };
        if self.is_ending {
            return;
        }
        let request = self.attach(pending.link, AttachPurpose::New, now);
        self.pending_new = Some(PendingNew {
            request,
            retry_at: None,
            ..pending
        });
    }

    /// Cancels the request for a new tunnel if the current one is attached.
    pub(super) fn cancel_unneeded_request(&mut self, now: Instant) {
        // A tunnel whose service refused a connection is still to be replaced.
        let is_enough = self
            .current()
            .is_some_and(|current| current.is_attached() && !self.is_refused(current, now));
        let Some(pending) = self.pending_new.take_if(|_| is_enough) else {
            return;
        };
        if self.requests.contains_key(&pending.request) {
            self.actions.push(PortAction::CancelAttach {
                request: pending.request,
            });
        }
    }

    /// Attaches the tunnel again unless the newest link carries it or a request is pending.
    pub(super) fn ensure_attached(&mut self, tunnel: Id, reason: ReattachReason, now: Instant) {
        let Some(link) = self.newest_link().filter(|_| !self.is_ending) else {
            return;
        };
        let is_attaching = self.links_attaching(tunnel).any(|pending| match reason {
            ReattachReason::NewLink => pending == link,
            // The pending request may reach the server's new link or its old one, so wait for the
            // outcome.
            ReattachReason::NewChannel => true,
        });
        let Some(entry) = self.entry_mut(tunnel).filter(|entry| !entry.view.is_ending) else {
            return;
        };
        if is_attaching {
            entry.reattach_due |= reason == ReattachReason::NewChannel;
            return;
        }
        // A new channel is needed even on the same link; a new link is not needed twice.
        let carried = TunnelPhase::Attached { link: Some(link) };
        if reason == ReattachReason::NewLink && entry.view.phase == carried {
            return;
        }
        if entry.view.is_moving {
            // Two moves at a time would cause a pause.
            entry.after_move = entry.after_move.max(Some(reason));
            return;
        }
        self.attach(link, AttachPurpose::Resume { tunnel }, now);
    }

    /// Schedules another attempt to attach the tunnel.
    pub(super) fn reattach_after(&mut self, tunnel: Id, wait: Duration, now: Instant) {
        let at = now.checked_add(wait);
        if let Some(entry) = self.entry_mut(tunnel) {
            // An earlier attempt makes a later one superfluous, unless it fails and is scheduled
            // again.
            entry.retry_at = entry.retry_at.into_iter().chain(at).min();
        }
    }

    fn on_resume_done(
        &mut self,
        tunnel: Id,
        link: LinkId,
        result: AttachResult,
        jitter: f64,
        now: Moment,
    ) {
        let entry = self.entry_mut(tunnel);
        let server = entry.as_ref().map(|entry| entry.server);
        // The server may have asked for a move while this request was pending.
        let reattach_due = entry.is_some_and(|entry| std::mem::take(&mut entry.reattach_due));
        match result {
            AttachResult::Resumed if reattach_due => {
                self.ensure_attached(tunnel, ReattachReason::NewChannel, now.awake);
            }
            AttachResult::Resumed => {}
            AttachResult::New(new) if server == Some(new.server) => {
                self.end_tunnel(tunnel, EndTunnelReason::UnknownAtServer { seen: new.seen });
                self.adopt(new, now);
            }
            AttachResult::New(new) => {
                // Another process answered. That it does not know the tunnel says nothing about the
                // server that holds it.
                self.adopt(new, now);
                self.reattach_after(tunnel, RESUME_PATIENCE, now.awake);
            }
            // The link cannot carry it, and the next link attaches all tunnels.
            AttachResult::NotSent => {}
            AttachResult::Denied => self.retry_resume(tunnel, link, MAX_RETRY_WAIT, now.awake),
            AttachResult::Expired | AttachResult::Failed { .. } | AttachResult::Unanswered => {
                let wait = MIN_RETRY_WAIT.mul_f64(jitter);
                self.retry_resume(tunnel, link, wait, now.awake);
            }
        }
    }

    /// Schedules another attempt after one that failed on this link. The next link attaches all
    /// tunnels, so it only retries while this one exists.
    fn retry_resume(&mut self, tunnel: Id, link: LinkId, wait: Duration, now: Instant) {
        if self.links.iter().any(|entry| entry.id == link) {
            self.reattach_after(tunnel, wait, now);
        }
    }
}
