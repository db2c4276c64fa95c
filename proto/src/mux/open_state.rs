//! The state of OPEN at the end that opens a stream. Retains the details of OPEN as long as it may
//! have to be sent again.

use bytes::Bytes;

use super::LaneId;

/// The progress of a stream's opening, at its opener.
#[derive(Debug)]
pub(super) enum OpenState {
    /// OPEN has never been sent; it carries these details.
    Unsent(Bytes),
    /// OPEN was sent on this lane, and no frame from the peer confirms yet that it arrived.
    Sent(Bytes, LaneId),
    /// OPEN was sent, was lost with its attachment, and must be sent again.
    Resend(Bytes),
    /// The peer knows the stream.
    Confirmed,
}

impl OpenState {
    /// Returns the details of OPEN if it must be sent.
    pub(super) fn due(&self) -> Option<&Bytes> {
        match self {
            OpenState::Unsent(details) | OpenState::Resend(details) => Some(details),
            OpenState::Sent(..) | OpenState::Confirmed => None,
        }
    }

    /// Returns whether OPEN has ever been sent, so that the peer may refer to the stream.
    pub(super) fn is_announced(&self) -> bool {
        !matches!(self, OpenState::Unsent(_))
    }

    /// Returns whether both ends know the stream.
    pub(super) fn is_confirmed(&self) -> bool {
        matches!(self, OpenState::Confirmed)
    }

    /// Returns whether OPEN left on `lane`, and no frame from the peer confirms yet that it arrived.
    pub(super) fn is_sent_on(&self, lane: LaneId) -> bool {
        matches!(self, OpenState::Sent(_, open_lane) if *open_lane == lane)
    }

    /// Returns whether frames of the stream may leave on `lane`. On another lane than that of OPEN
    /// they could overtake it.
    pub(super) fn may_send_on(&self, lane: LaneId) -> bool {
        match self {
            OpenState::Unsent(_) | OpenState::Resend(_) => false,
            OpenState::Sent(_, open_lane) => *open_lane == lane,
            OpenState::Confirmed => true,
        }
    }

    /// Records that OPEN was sent on `lane`.
    pub(super) fn mark_sent(&mut self, lane: LaneId) {
        if let OpenState::Unsent(details) | OpenState::Resend(details) = self {
            *self = OpenState::Sent(std::mem::take(details), lane);
        }
    }

    /// Queues an OPEN that was sent on `lane` for retransmission. Returns whether there was one.
    pub(super) fn lose(&mut self, lane: LaneId) -> bool {
        match self {
            OpenState::Sent(details, open_lane) if *open_lane == lane => {
                *self = OpenState::Resend(std::mem::take(details));
                true
            }
            _ => false,
        }
    }

    /// Records that the peer referred to the stream. An OPEN that is queued for retransmission is
    /// sent nevertheless, because the data of the stream waits for it.
    pub(super) fn confirm(&mut self) {
        if let OpenState::Sent(..) = self {
            *self = OpenState::Confirmed;
        }
    }

    /// Records that everything that was sent on `lane` has arrived, OPEN included.
    pub(super) fn confirm_on(&mut self, lane: LaneId) {
        if self.is_sent_on(lane) {
            *self = OpenState::Confirmed;
        }
    }

    /// Applies the peer's list after a resumption. `seen` tells whether the peer has received the
    /// OPEN.
    pub(super) fn resume(&mut self, seen: bool) {
        match self {
            OpenState::Sent(..) | OpenState::Resend(_) if seen => *self = OpenState::Confirmed,
            OpenState::Sent(details, _) => *self = OpenState::Resend(std::mem::take(details)),
            _ => {}
        }
    }
}
