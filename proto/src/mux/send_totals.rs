//! The sums of sent and retained data over all streams, which limit further writes. The totals own
//! the sums; the streams own their numbers. [`SendTotals::track`] counts each change of a stream.

use super::{send_half::SendHalf, stream::StreamState};

/// The largest write of an application, in bytes. It fills a message of 64 KiB and leaves room for
/// small frames. A larger write would leave a rest each time that takes a separate message.
pub const WRITE_MAX: usize = 63 * 1024;

/// The largest amount that a stream may have written and not sent, in bytes. Two messages keep the
/// link busy while the application writes. A short queue also keeps the choice of the next stream
/// open.
pub(super) const STREAM_UNSENT_MAX: u64 = 2 * WRITE_MAX as u64;

/// The same limit for the tunnel. Beyond it a stream may write only if it has no unsent data, and
/// then only [`STREAM_RESERVE`].
pub(super) const TUNNEL_UNSENT_MAX: u64 = 2 * 1024 * 1024;

/// The unsent bytes that every stream may always have. A keystroke never waits for the memory of a
/// bulk copy.
pub(super) const STREAM_RESERVE: u64 = 16 * 1024;

/// The smallest room that is offered, in bytes. Less would make small messages when the credit is
/// nearly used up (the silly window of RFC 1122). Credit returns when a quarter of a window is
/// consumed, so windows of 4 KiB and more cannot stall on this limit.
const WRITE_ROOM_MIN: u64 = 1024;

/// A writer that waits for room is woken when at most this many bytes are unsent. A wake-up costs
/// more than a small read is worth, and one message remains to be sent in the meantime.
const WAKE_THRESHOLD: u64 = STREAM_UNSENT_MAX / 2;

/// The largest amount that a stream may send per round, in bytes, on a path that takes it in no
/// time. It fills a message, so that the receiving application gets that much at a time.
const QUANTUM_MAX: i64 = WRITE_MAX as i64;

/// The smallest quantum: large enough to make the headers negligible, small enough to keep a round
/// short. Four of them make a message.
pub(super) const QUANTUM: i64 = QUANTUM_MAX / 4;

/// The quantum may grow while a round of this many streams takes no longer than the data in flight,
/// which is about a round trip.
const STREAMS_PER_RTT: u64 = 4;

/// Returns the quantum for this many bytes in flight: a size that fills messages without a rest.
pub(super) fn quantum(in_flight_bytes: u64) -> i64 {
    let share = i64::try_from(in_flight_bytes / STREAMS_PER_RTT).unwrap_or(i64::MAX);
    [QUANTUM_MAX, QUANTUM_MAX / 2]
        .into_iter()
        .find(|quantum| share >= *quantum)
        .unwrap_or(QUANTUM)
}

/// Sums over the sending halves of all streams, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SendTotals {
    /// Written, and still to be sent.
    pub unsent: u64,
    /// The part of `unsent` that was sent before on an attachment that ended. It needs no tunnel
    /// credit.
    pub resend: u64,
    /// Written, and not acknowledged.
    pub retained: u64,
    /// The limit for `retained`, whatever the peer grants, because a peer need not acknowledge what
    /// it receives. Beyond it a stream may write only if it retains nothing, and then only
    /// [`STREAM_RESERVE`].
    retained_max: u64,
    /// The limit for `retained` that the process's memory budget imposes.
    budget_limit: u64,
}

impl SendTotals {
    /// Creates totals without any data.
    pub(super) fn new(retained_max: u64) -> Self {
        SendTotals {
            unsent: 0,
            resend: 0,
            retained: 0,
            retained_max,
            budget_limit: u64::MAX,
        }
    }

    /// Limits further retained data to `room` bytes.
    pub(super) fn limit_to(&mut self, room: u64) {
        self.budget_limit = self.retained.saturating_add(room);
    }

    /// Applies `change` to the sending half of a stream, and updates the sums by the change of its
    /// numbers.
    pub(super) fn track<Outcome>(
        &mut self,
        send: &mut SendHalf,
        change: impl FnOnce(&mut SendHalf) -> Outcome,
    ) -> Outcome {
        let (unsent, resend, retained) = (send.unsent(), send.resend(), send.retained());
        let outcome = change(send);
        let moved =
            |sum: u64, before: u64, after: u64| sum.saturating_add(after).saturating_sub(before);
        self.unsent = moved(self.unsent, unsent, send.unsent());
        self.resend = moved(self.resend, resend, send.resend());
        self.retained = moved(self.retained, retained, send.retained());
        outcome
    }

    /// Returns how many bytes have left and are not acknowledged.
    pub(super) fn in_flight(&self) -> u64 {
        self.retained.saturating_sub(self.unsent)
    }

    /// Returns how many bytes the application may write to `stream` now.
    pub(super) fn room(&self, stream: &StreamState) -> u64 {
        let unsent = stream.send.unsent();
        let buffer = if self.retained >= self.retained_max.min(self.budget_limit) {
            STREAM_RESERVE.saturating_sub(stream.send.retained())
        } else if self.unsent < TUNNEL_UNSENT_MAX {
            STREAM_UNSENT_MAX.saturating_sub(unsent)
        } else if unsent == 0 {
            STREAM_RESERVE
        } else {
            0
        };
        let room = buffer.min(stream.send.credit());
        // While the queue is long anyway, a small room can wait until it is worth a read.
        let minimum = if unsent > WAKE_THRESHOLD {
            STREAM_RESERVE
        } else {
            WRITE_ROOM_MIN
        };
        if room < minimum { 0 } else { room }
    }

    /// Returns whether to wake the application of `stream`, which waits for room. The data that
    /// fills the room is sent or acknowledged eventually, and then the mux asks again.
    pub(super) fn should_wake(&self, stream: &StreamState) -> bool {
        stream.send.unsent() <= WAKE_THRESHOLD && self.room(stream) > 0
    }

    /// Returns whether these are the sums over `streams`.
    pub(super) fn is_sum_of<'a>(&self, streams: impl Iterator<Item = &'a StreamState>) -> bool {
        let none = SendTotals {
            unsent: 0,
            resend: 0,
            retained: 0,
            ..*self
        };
        *self
            == streams.fold(none, |sum, StreamState { send, .. }| SendTotals {
                unsent: sum.unsent.saturating_add(send.unsent()),
                resend: sum.resend.saturating_add(send.resend()),
                retained: sum.retained.saturating_add(send.retained()),
                ..sum
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantum_grows_with_the_data_in_flight_up_to_a_message() {
        assert_eq!(
            [0, 64, 128, 256, 1 << 20].map(|kib| quantum(kib * 1024)),
            [16_128, 16_128, 32_256, 64_512, 64_512]
        );
        assert_eq!(quantum(u64::MAX), QUANTUM_MAX);
    }
}
