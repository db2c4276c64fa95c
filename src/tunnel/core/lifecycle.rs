//! The life cycle of a tunnel: an attachment takes it over, is lost or moves, or the time without
//! one expires.

use std::time::Duration;

use super::{
    binding::{BoundAttachment, Closed, TakeOverError, TakeoverKind},
    effects::{Channel, TunnelEvent, TunnelStatus},
    state::{Detached, FIRST_ATTEMPT, TunnelCore, handle_of},
};
use crate::{link::LinkId, suspend::Moment};
use report_proto::frame::{Code, Notice};
use report_proto::mux::{ResetCode, TunnelSide};

/// How long a move may take (PROTOCOL 12). Messages on the new attachment are held until the peer
/// has left the old one.
pub(crate) const MOVE_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a server cannot resume a tunnel now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tunnel) enum AdmitError {
    /// A newer attempt carries the tunnel, or this attempt is a replay.
    Superseded,
    /// Another move is in progress.
    Moving,
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

    /// Returns whether and how the server answers this attempt to resume the tunnel.
    pub(in crate::tunnel) fn admit(
        &self,
        attempt: u64,
        moves: bool,
    ) -> Result<TakeoverKind, AdmitError> {
        // A replayed or overtaken attempt must not replace the current attachment.
        if attempt == FIRST_ATTEMPT || !self.binding.admits(attempt) {
            return Err(AdmitError::Superseded);
        }
        // Only one move at a time: both ends hold one old attachment at most.
        if moves && self.is_moving() {
            return Err(AdmitError::Moving);
        }
        // Without a current attachment there is nothing to move from; the answer turns the move
        // into a resumption.
        Ok(TakeoverKind::of(moves && self.binding.current().is_some()))
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
        let replaced = self
            .binding
            .take_over(BoundAttachment { attempt, handle }, kind)
            .map_err(|error| match error {
                TakeOverError::Superseded => Notice::new(Code::Superseded, ""),
                TakeOverError::NothingToMoveFrom => Notice::new(Code::PeerLost, ""),
            })?;
        let is_first = attempt == FIRST_ATTEMPT;
        // Data in flight on the previous attachment may be lost, so the mux retransmits what the
        // peer has not acknowledged. After a move nothing is lost.
        if kind == TakeoverKind::Resume && !is_first {
            self.mux.resume(now.awake);
        }
        self.close_all(replaced, Code::Superseded);
        // MOVED goes out on the old attachment: the peer then knows that nothing follows there.
        self.effects.ready_old = handle_of(self.binding.moving_from());
        self.effects.ready = handle_of(self.binding.current());
        self.transmit_requested = true;
        self.attached_since = now.awake;
        // A peer that never sends MOVED must not make this end hold messages indefinitely.
        self.move_deadline = match kind {
            TakeoverKind::Move => now.awake.checked_add(MOVE_TIMEOUT),
            TakeoverKind::Resume => None,
        };
        if let Some(detached) = self.detached.take().filter(|_| !is_first) {
            self.detached_for = Some(now.since(detached.since));
        }
        self.effects.status = Some(TunnelStatus::Attached);
        Ok(())
    }

    /// Releases the old attachment of a move after MOVED was sent and received on it. The client
    /// closes its channel.
    pub(super) fn take_finished_move(&mut self) {
        let Some(left) = self.binding.take_finished_move() else {
            return;
        };
        self.effects.events.push(TunnelEvent::Moved);
        self.move_deadline = None;
        if self.side == TunnelSide::Client {
            self.close_all([left], Code::Cancelled);
        }
    }

    /// Handles the end of an attachment, whether it carried the tunnel or not.
    pub(in crate::tunnel) fn attachment_lost(&mut self, now: Moment, attempt: u64, why: Notice) {
        let Closed::Lost(other) = self.binding.closed(attempt) else {
            return;
        };
        self.close_all(other, Code::PeerLost);
        self.transmit_requested = false;
        self.move_deadline = None;
        if self.end_notice.is_some() {
            self.effects.is_finished = true;
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
        self.mux.handle_timeout(now.awake);
        let is_expired = self
            .detached
            .is_some_and(|detached| detached.is_expired(now));
        self.end_overdue_move(now);
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

    /// Gives up a move that takes too long. Neither attachment carries the tunnel after that.
    fn end_overdue_move(&mut self, now: Moment) {
        let old = self
            .move_deadline
            .filter(|until| *until <= now.awake)
            .and_then(|_| self.binding.moving_from().cloned());
        if let Some(old) = old {
            let why = Notice::new(
                Code::Timeout,
                format!("the move took longer than {MOVE_TIMEOUT:?}"),
            );
            self.attachment_lost(now, old.attempt, why);
            self.close_all([old], Code::Timeout);
        }
    }

    /// Asks the client to reattach the tunnel, if it is attached through `link`.
    pub(in crate::tunnel) fn request_move(&mut self, link: LinkId) {
        // A tunnel that has left this link already does not have to move.
        self.move_request_due |= self.is_attached_through(link) && self.end_notice.is_none();
    }
}
