//! The state of one stream: its two directions, each with a separate end. It knows offsets and
//! pieces. The mux decides what to acknowledge to the peer, and when.
//!
//! ```text
//!   at its sender:    open ──finish──► FIN queued ───sent──► waiting ──acknowledged──► done
//!                       └───reset────► RESET queued ─sent──► waiting ──acknowledged──► done
//!   at its receiver:  open ──FIN or RESET received──► ended ──acknowledgement sent──► done
//! ```
//! The stream is removed when both directions are done and the application has released it.

use super::{
    error::ResetCode, open_state::OpenState, receive_half::ReceiveHalf, send_half::SendHalf,
    window::WindowSize,
};

/// The way in which a direction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamEnd {
    /// A graceful end after the last byte.
    Fin,
    /// An abrupt end with a reason.
    Reset(ResetCode),
}

/// Whether an acknowledgement to the peer is pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AckState {
    /// There is nothing to acknowledge.
    None,
    /// An acknowledgement is due when its deadline passes.
    Delayed,
    /// An acknowledgement is due with the next message.
    Due,
}

/// The state of one stream.
#[derive(Debug)]
pub(super) struct StreamState {
    pub send: SendHalf,
    pub receive: ReceiveHalf,
    /// Whether an acknowledgement to the peer is pending.
    pub ack_state: AckState,
    /// The progress of the stream's opening.
    pub open_state: OpenState,
    /// The number of the peer's last list (PROTOCOL 10.4) that named the stream.
    pub listed_in: u64,
    /// Whether the application has released the stream.
    pub released: bool,
    /// Whether the application waits for data to read.
    pub wants_read: bool,
    /// Whether the application waits for room to write.
    pub wants_write: bool,
}

impl StreamState {
    /// Creates a stream whose sender may initially send `send_limit` bytes.
    pub(super) fn new(window: WindowSize, send_limit: u64, open_state: OpenState) -> Self {
        StreamState {
            send: SendHalf::new(send_limit),
            receive: ReceiveHalf::new(window),
            ack_state: AckState::None,
            open_state,
            listed_in: 0,
            released: false,
            wants_read: false,
            wants_write: false,
        }
    }

    /// Returns the reason of a reset. The peer's reason precedes the local one, which may only
    /// answer it.
    pub(super) fn reset_code(&self) -> Option<ResetCode> {
        [self.receive.end(), self.send.end()]
            .into_iter()
            .flatten()
            .find_map(|end| match end {
                StreamEnd::Reset(code) => Some(code),
                StreamEnd::Fin => None,
            })
    }

    /// Returns whether the stream can be removed: both ends are acknowledged and the application
    /// has released it.
    pub(super) fn is_complete(&self) -> bool {
        self.released
            && self.send.is_end_acknowledged()
            && self.receive.end().is_some()
            && self.ack_state == AckState::None
    }
}
