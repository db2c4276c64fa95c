//! The life cycle of a tunnel: attachments take it over, join, are left or lost, or the time
//! without one expires.

use std::{sync::Arc, time::Duration};

use super::{
    binding::{BoundAttachment, BoundLane, LANES_MAX, LaneState, TakeoverKind},
    effects::{Channel, TunnelEvent, TunnelStatus},
    state::{Detached, FIRST_ATTEMPT, TAKEOVER_WAIT, TunnelCore},
};
use crate::{link::LinkId, suspend::Moment};
use report_proto::frame::{Code, Notice};
use report_proto::mux::{LaneId, ResetCode, TunnelSide};

/// How long it may take to leave a lane (PROTOCOL 12). A lane whose peer does not leave it in this
/// time counts as lost.
pub(crate) const MOVE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a server cannot resume a tunnel now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tunnel) enum AdmitError {
    /// A newer attempt carries the tunnel, or this attempt is a replay.
    Superseded,
    /// The tunnel has as many lanes as it may have.
    TooManyLanes,
}

impl TunnelCore {
    /// Returns the number of the client's next attempt to attach the tunnel.
    pub(in crate::tunnel) fn next_attempt(&mut self) -> u64 {
        self.attempts = self.attempts.saturating_add(1);
        self.attempts
    }

    /// Sets the number of the last attempt.
    #[cfg(test)]
    pub(in crate::tunnel) fn set_attempts(&mut self, attempts: u64) {
        self.attempts = attempts;
    }

    /// Returns whether and how the server answers this attempt to attach the tunnel.
    pub(in crate::tunnel) fn admit(
        &self,
        attempt: u64,
        joins: bool,
    ) -> Result<TakeoverKind, AdmitError> {
        // A replayed or overtaken attempt must not replace the present attachments.
        if attempt == FIRST_ATTEMPT || !self.binding.admits(attempt) {
            return Err(AdmitError::Superseded);
        }
        if joins && self.binding.lanes().len() >= LANES_MAX {
            return Err(AdmitError::TooManyLanes);
        }
        // Without a lane there is nothing to join; the answer turns the attempt into a resumption.
        Ok(TakeoverKind::of(
            joins && self.binding.active().next().is_some(),
        ))
    }

    /// Binds an attachment that has proven itself: from now on it carries the tunnel.
    ///
    /// # Errors
    /// With the notice that closes its channel instead.
    pub(in crate::tunnel) fn take_over(
        &mut self,
        now: Moment,
        attempt: u64,
        handle: Channel,
        kind: TakeoverKind,
    ) -> Result<(), Notice> {
        if self.end_notice.is_some() {
            return Err(Notice::new(Code::Cancelled, ""));
        }
        self.effects.ready.push(Arc::clone(&handle));
        let replaced = self
            .binding
            .take_over(BoundAttachment { attempt, handle }, kind)
            .ok_or_else(|| Notice::new(Code::Superseded, ""))?;
        self.close_all(replaced, Code::Superseded);
        self.await_takeover_of_peer(now, attempt, kind);
        let is_first = attempt == FIRST_ATTEMPT;
        // Data in flight on the previous lanes may be lost, so the mux retransmits what the peer
        // has not acknowledged. One that joins changes nothing of the others.
        match kind {
            TakeoverKind::Resume if is_first => {}
            TakeoverKind::Resume => self.mux.resume(now.awake, LaneId(attempt)),
            TakeoverKind::Join => self.mux.add_lane(now.awake, LaneId(attempt)),
        }
        if let Some(detached) = self.detached.take() {
            self.attached_since = now.awake;
            self.detached_for = Some(now.since(detached.since)).filter(|_| !is_first);
        }
        if kind == TakeoverKind::Join
            && let Some(waited) = self.detached_for.take()
        {
            // The other lanes were lost in the meantime, so this one resumes the tunnel.
            self.effects.events.push(TunnelEvent::Resumed {
                waited,
                streams: self.mux.streams(),
                resent_bytes: self.mux.resend_bytes(),
            });
        }
        self.effects.status = Some(TunnelStatus::Attached);
        self.answer_leaves(now);
        Ok(())
    }

    /// At a client, waits for evidence that the server has taken over too, if this lane is the only
    /// one. A client takes over first. Until the server follows, it has no lane, and a further
    /// attachment would resume the tunnel anew.
    fn await_takeover_of_peer(&mut self, now: Moment, attempt: u64, kind: TakeoverKind) {
        let continues = kind == TakeoverKind::Join && self.detached.is_none();
        if continues || self.side == TunnelSide::Server {
            return;
        }
        self.takeover_deadline = now.awake.checked_add(TAKEOVER_WAIT);
        // The first message of any other attachment is a PING already.
        let needs_ping = kind == TakeoverKind::Resume && attempt != FIRST_ATTEMPT;
        if let Some(lane) = self.binding.lane_mut(attempt) {
            lane.ping_due = needs_ping;
        }
    }

    /// Leaves the lanes that the one of `attempt` replaces: those on `links`, and those that the
    /// server asks to leave. The client does this.
    pub(in crate::tunnel) fn leave_replaced(
        &mut self,
        now: Moment,
        attempt: u64,
        links: &[LinkId],
    ) {
        let is_replaced = |lane: &&BoundLane<Channel>| {
            let is_on_link = links.contains(&lane.bound.handle.link());
            lane.bound.attempt != attempt && (is_on_link || lane.is_move_requested)
        };
        let replaced: Vec<u64> = self
            .binding
            .lanes()
            .iter()
            .filter(is_replaced)
            .map(|lane| lane.bound.attempt)
            .collect();
        for attempt in replaced {
            self.leave(now, attempt);
        }
    }

    /// Leaves the lanes on a link that will be closed, if a lane on another link remains.
    pub(in crate::tunnel) fn leave_link(&mut self, now: Moment, link: LinkId) {
        let (on_link, elsewhere): (Vec<_>, Vec<_>) = self
            .binding
            .active()
            .map(|lane| (lane.attempt, lane.handle.link()))
            .partition(|(_, lane_link)| *lane_link == link);
        if !elsewhere.is_empty() {
            for (attempt, _) in on_link {
                self.leave(now, attempt);
            }
        }
    }

    /// Sends nothing more on a lane after MOVED.
    pub(super) fn leave(&mut self, now: Moment, attempt: u64) {
        if !self.binding.leave(attempt) {
            return;
        }
        self.mux.retire_lane(now.awake, LaneId(attempt));
        let lane = self.binding.lane_mut(attempt);
        let handle = lane.map(|lane| Arc::clone(&lane.bound.handle));
        self.effects.ready.extend(handle);
        // A peer that never sends MOVED must not keep the lane indefinitely.
        let until = now.awake.checked_add(MOVE_TIMEOUT);
        self.move_deadline = self.move_deadline.or(until);
    }

    /// Handles MOVED: the peer sends nothing more on this lane. The client leaves first, so the
    /// answer of the server shows that each has received everything of the other.
    pub(super) fn on_moved(&mut self, now: Moment, attempt: u64) -> Result<(), Notice> {
        let state = self.binding.lane_mut(attempt).map(|lane| lane.state);
        match (self.side, state) {
            (TunnelSide::Server, Some(LaneState::Active)) => {
                if let Some(lane) = self.binding.lane_mut(attempt) {
                    lane.peer_has_left = true;
                }
                self.answer_leaves(now);
            }
            (TunnelSide::Client, Some(LaneState::Left)) => {
                let left = self.binding.remove(attempt);
                self.mux.remove_lane(LaneId(attempt));
                self.close_all(left.map(|lane| lane.bound), Code::Cancelled);
                self.effects.events.push(TunnelEvent::Moved);
                if !self.is_moving() {
                    self.move_deadline = None;
                }
            }
            (TunnelSide::Client, Some(_)) => {
                let text = "MOVED on a lane that the client did not leave";
                return Err(Notice::new(Code::Protocol, text));
            }
            (_, Some(LaneState::LeaveDue | LaneState::Left) | None) => {}
        }
        Ok(())
    }

    /// Leaves the lanes that the client has left, as soon as there is another one: MOVED may arrive
    /// before the first message on the lane that replaces this one.
    fn answer_leaves(&mut self, now: Moment) {
        let active = |lane: &&BoundLane<Channel>| lane.state == LaneState::Active;
        let lanes = self.binding.lanes().iter().filter(active);
        let (left, others): (Vec<_>, Vec<_>) = lanes
            .map(|lane| (lane.bound.attempt, lane.peer_has_left))
            .partition(|(_, peer_has_left)| *peer_has_left);
        if others.is_empty() {
            return;
        }
        for (attempt, _) in left {
            self.leave(now, attempt);
            self.effects.events.push(TunnelEvent::Moved);
        }
    }

    /// Handles the end of an attachment, whether it carried the tunnel or not.
    pub(in crate::tunnel) fn attachment_lost(&mut self, now: Moment, attempt: u64, why: Notice) {
        let Some(lane) = self.binding.remove(attempt) else {
            return;
        };
        let is_left = self.side == TunnelSide::Server
            && lane.state == LaneState::Left
            && why.code == Code::Cancelled;
        if is_left {
            // The client has received everything and closed the lane.
            self.mux.remove_lane(LaneId(attempt));
        } else {
            self.mux.lose_lane(now.awake, LaneId(attempt));
        }
        if !self.is_moving() {
            self.move_deadline = None;
        }
        if self.end_notice.is_some() {
            self.effects.is_finished |= self.binding.lanes().is_empty();
            return;
        }
        self.carry_on_without(now, why, is_left);
    }

    /// Closes a lane that the peer has lost.
    pub(super) fn lost_by_peer(&mut self, now: Moment, attempt: u64) {
        let lane = self.binding.remove(attempt);
        if lane.is_some() {
            self.close_all(lane.map(|lane| lane.bound), Code::PeerLost);
            let why = Notice::new(Code::PeerLost, "the other end has lost the lane");
            self.carry_on_without(now, why, false);
        }
    }

    /// Continues on the remaining lanes, or waits for the next attachment if that is not possible.
    fn carry_on_without(&mut self, now: Moment, why: Notice, is_left: bool) {
        let lanes = self.binding.active().count();
        if lanes == 0 || self.mux.is_list_lost() {
            self.lose_all(now, why);
        } else if !is_left {
            self.effects
                .events
                .push(TunnelEvent::LaneLost { lanes, why });
        }
    }

    /// Waits for the next attachment. Lanes that this end has left count as lost too.
    fn lose_all(&mut self, now: Moment, why: Notice) {
        let rest = self.binding.take_all();
        for lane in &rest {
            self.mux.lose_lane(now.awake, LaneId(lane.attempt));
        }
        self.close_all(rest, Code::PeerLost);
        self.move_deadline = None;
        if self.detached.is_some() {
            return;
        }
        self.detached = Some(Detached {
            since: now,
            timeout: self.resume_timeout,
        });
        self.effects.status = Some(TunnelStatus::Lost {
            since: now,
            why: why.clone(),
        });
        self.effects.events.push(TunnelEvent::Lost {
            carried: now.awake.saturating_duration_since(self.attached_since),
            streams: self.mux.streams(),
            why,
        });
    }

    /// Handles the deadline of the driver.
    pub(in crate::tunnel) fn handle_timeout(&mut self, now: Moment) {
        if let Err(error) = self.mux.handle_timeout(now.awake) {
            self.end_after_violation(&error);
        }
        let is_expired = self
            .detached
            .is_some_and(|detached| detached.is_expired(now));
        self.end_overdue_moves(now);
        self.takeover_deadline
            .take_if(|deadline| *deadline <= now.awake);
        if is_expired {
            self.effects.events.push(TunnelEvent::Expired);
            let waited = self.resume_timeout;
            let notice = Notice::new(
                Code::Timeout,
                format!("the tunnel had no attachment for {waited:?}"),
            );
            self.end(ResetCode::Expired, notice);
        }
    }

    /// Gives up the lanes that could not be left in time.
    fn end_overdue_moves(&mut self, now: Moment) {
        if self.move_deadline.is_none_or(|until| until > now.awake) {
            return;
        }
        self.move_deadline = None;
        let overdue = |lane: &&BoundLane<Channel>| lane.state != LaneState::Active;
        let overdue: Vec<_> = self
            .binding
            .lanes()
            .iter()
            .filter(overdue)
            .map(|lane| lane.bound.clone())
            .collect();
        for lane in overdue {
            let text = format!("the lane could not be left within {MOVE_TIMEOUT:?}");
            let why = Notice::new(Code::Timeout, text);
            self.attachment_lost(now, lane.attempt, why);
            self.close_all([lane], Code::Timeout);
        }
    }

    /// Asks the client to leave the lanes of the tunnel that use `link`.
    pub(in crate::tunnel) fn request_move(&mut self, link: LinkId) {
        if self.end_notice.is_some() {
            return;
        }
        // A tunnel that has left this link already does not have to move.
        for lane in self.binding.lanes_mut() {
            let is_on_link = lane.bound.handle.link() == link;
            lane.move_request_due |= is_on_link && lane.state == LaneState::Active;
        }
    }
}
