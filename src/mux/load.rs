//! What all streams together have written and still hold, and how much more each of them may write. Owns the sums; the streams own their own
//! numbers, and each change of one of them is counted through [`Load::track`].

use super::stream::{SendHalf, Stream};

/// What an application writes at once at most, in bytes: it fills a message of 64 KiB, but for what small frames may need beside it. With more, a rest
/// would be left each time that takes a message of its own.
pub const PIECE_MAX: usize = 63 * 1024;

/// What a stream may have written and not sent, in bytes: two messages, so that the link never waits for the application while a
/// short queue keeps what is sent next undecided.
pub const STREAM_UNSENT_MAX: u64 = 2 * PIECE_MAX as u64;

/// The same for the tunnel. Beyond it a stream may write only when it has nothing unsent, and only [`STREAM_RESERVE`].
pub const TUNNEL_UNSENT_MAX: u64 = 2 * 1024 * 1024;

/// What every stream may have unsent in any case, in bytes: a keystroke never waits for the memory of a bulk copy.
pub const STREAM_RESERVE: u64 = 16 * 1024;

/// Room under this many bytes is not offered: it would make small messages when the credit is nearly used up (the silly window of RFC 1122).
/// Credit comes back when a quarter of a window is consumed, so that windows from 4 KiB up cannot stall on it.
const WRITE_ROOM_MIN: u64 = 1024;

/// Who waits for room is woken when no more than this is unsent, in bytes: a wake-up costs more than a small read is worth, and one message is left to
/// be sent meanwhile.
const WAKE_BELOW: u64 = STREAM_UNSENT_MAX / 2;

/// Sums over the sending halves of all streams, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Written, and to be sent.
    pub unsent: u64,
    /// The part of it that was sent before, on an attachment that is gone: it needs no credit of the tunnel.
    pub again: u64,
    /// Written, and not acknowledged.
    pub kept: u64,
    /// What may be kept, whatever the peer grants: it need not acknowledge what it takes. Beyond it a stream may write only when nothing of
    /// it is kept, and only [`STREAM_RESERVE`].
    kept_max: u64,
    /// The same for the sake of the process's other tunnels.
    kept_most: u64,
}

impl Load {
    /// Nothing is written yet.
    pub fn new(kept_max: u64) -> Self {
        Load {
            unsent: 0,
            again: 0,
            kept: 0,
            kept_max,
            kept_most: u64::MAX,
        }
    }

    /// From now on `room` more bytes may be kept.
    pub fn limit_to(&mut self, room: u64) {
        self.kept_most = self.kept.saturating_add(room);
    }

    /// Changes the sending half of a stream, and counts what became of its bytes.
    pub fn track<Outcome>(
        &mut self,
        send: &mut SendHalf,
        change: impl FnOnce(&mut SendHalf) -> Outcome,
    ) -> Outcome {
        let (unsent, again, kept) = (send.unsent(), send.again(), send.kept());
        let outcome = change(send);
        let moved =
            |sum: u64, before: u64, after: u64| sum.saturating_add(after).saturating_sub(before);
        self.unsent = moved(self.unsent, unsent, send.unsent());
        self.again = moved(self.again, again, send.again());
        self.kept = moved(self.kept, kept, send.kept());
        outcome
    }

    /// How many bytes the application may write to `stream` now.
    pub fn room(&self, stream: &Stream) -> u64 {
        let unsent = stream.send.unsent();
        let buffer = if self.kept >= self.kept_max.min(self.kept_most) {
            STREAM_RESERVE.saturating_sub(stream.send.kept())
        } else if self.unsent < TUNNEL_UNSENT_MAX {
            STREAM_UNSENT_MAX.saturating_sub(unsent)
        } else if unsent == 0 {
            STREAM_RESERVE
        } else {
            0
        };
        let room = buffer.min(stream.send.credit());
        // What is left of a queue that is long already waits until it is worth a read.
        let least = if unsent > WAKE_BELOW {
            STREAM_RESERVE
        } else {
            WRITE_ROOM_MIN
        };
        if room < least { 0 } else { room }
    }

    /// Whether the application of `stream`, which waits for room, should be woken. Whatever keeps it from that leaves in time, or is acknowledged, and
    /// then this is asked again.
    pub fn is_worth_waking(&self, stream: &Stream) -> bool {
        stream.send.unsent() <= WAKE_BELOW && self.room(stream) > 0
    }

    /// Whether these are the sums over `streams`.
    pub fn is_sum_of<'a>(&self, streams: impl Iterator<Item = &'a Stream>) -> bool {
        let none = Load {
            unsent: 0,
            again: 0,
            kept: 0,
            ..*self
        };
        *self
            == streams.fold(none, |sum, Stream { send, .. }| Load {
                unsent: sum.unsent.saturating_add(send.unsent()),
                again: sum.again.saturating_add(send.again()),
                kept: sum.kept.saturating_add(send.kept()),
                ..sum
            })
    }
}
