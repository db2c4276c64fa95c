//! The state of OPEN at the end that opens a stream. Retains the details of OPEN as long as it may
//! have to be sent again.

use bytes::Bytes;

/// The progress of a stream's opening, at its opener.
#[derive(Debug)]
pub(super) enum OpenState {
    /// OPEN has never been sent; it carries these details.
    Unsent(Bytes),
    /// OPEN was sent, and no frame from the peer confirms yet that it arrived.
    Sent(Bytes),
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
            OpenState::Sent(_) | OpenState::Confirmed => None,
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

    /// Records that OPEN was sent.
    pub(super) fn mark_sent(&mut self) {
        if let OpenState::Unsent(details) | OpenState::Resend(details) = self {
            *self = OpenState::Sent(std::mem::take(details));
        }
    }

    /// Records that the peer referred to the stream. An OPEN that is queued for retransmission is
    /// sent nevertheless, because the data of the stream waits for it.
    pub(super) fn confirm(&mut self) {
        if let OpenState::Sent(_) = self {
            *self = OpenState::Confirmed;
        }
    }

    /// Applies the peer's list after a resumption. `seen` tells whether the peer has received the
    /// OPEN.
    pub(super) fn resume(&mut self, seen: bool) {
        match self {
            OpenState::Sent(_) | OpenState::Resend(_) if seen => *self = OpenState::Confirmed,
            OpenState::Sent(details) => *self = OpenState::Resend(std::mem::take(details)),
            _ => {}
        }
    }
}
