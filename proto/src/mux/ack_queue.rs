//! Schedules acknowledgements: which streams need a WINDOW, and by when. A message that is sent
//! anyway takes along as many as it has room for. A separate message would cost the relay as much
//! as one with data.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::StreamId;

/// The maximum delay of an acknowledgement (PROTOCOL 12) if more than [`SMALL_BYTES`] or an end is
/// to be acknowledged. It is the value of QUIC (RFC 9000, section 18.2).
pub(super) const ACK_DELAY: Duration = Duration::from_millis(25);

/// The maximum delay for less data (PROTOCOL 12), as in TCP (RFC 1122, 4.2.3.2, allows 500 ms). The
/// answer to a small request, or the next request, then carries the acknowledgement.
pub(super) const ACK_DELAY_LITTLE: Duration = Duration::from_millis(200);

/// The bytes of all streams together that the peer can retain for [`ACK_DELAY_LITTLE`] at no real
/// cost.
const SMALL_BYTES: u64 = 64 * 1024;

/// The largest number of acknowledgements that a message takes along: some 500 bytes.
const PIGGYBACK_MAX: usize = 32;

/// The acknowledgement queues of one end of a tunnel. The stream itself records whether an
/// acknowledgement is pending. A queued stream without one is skipped.
#[derive(Debug, Default)]
pub(super) struct AckQueue {
    /// Due with the next message.
    pub due: VecDeque<StreamId>,
    /// Due at the deadline.
    pub pending: VecDeque<StreamId>,
    /// The number of bytes that arrived for the streams in `pending`.
    unacknowledged: u64,
    deadline: Option<Instant>,
}

impl AckQueue {
    /// Returns the time at which to call [`AckQueue::expire`].
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Removes and returns the pending streams if their deadline has passed. They are due now.
    pub(super) fn expire(&mut self, now: Instant) -> VecDeque<StreamId> {
        if self.deadline.is_none_or(|deadline| deadline > now) {
            return VecDeque::new();
        }
        (self.deadline, self.unacknowledged) = (None, 0);
        std::mem::take(&mut self.pending)
    }

    /// Queues a stream whose acknowledgement can wait.
    pub(super) fn defer(&mut self, id: StreamId) {
        self.pending.push_back(id);
    }

    /// Records `bytes` that were not acknowledged, and sets the deadline.
    pub(super) fn on_received(&mut self, now: Instant, bytes: u64) {
        self.unacknowledged = self.unacknowledged.saturating_add(bytes);
        self.expire_in(
            now,
            if self.unacknowledged > SMALL_BYTES {
                ACK_DELAY
            } else {
                ACK_DELAY_LITTLE
            },
        );
    }

    /// Shortens the deadline to [`ACK_DELAY`]. A direction ended, and the peer keeps the stream
    /// until that is acknowledged, or another attachment began.
    pub(super) fn expire_soon(&mut self, now: Instant) {
        self.expire_in(now, ACK_DELAY);
    }

    fn expire_in(&mut self, now: Instant, delay: Duration) {
        if let Some(until) = now.checked_add(delay) {
            self.deadline = Some(self.deadline.map_or(until, |deadline| deadline.min(until)));
        }
    }

    /// Returns the next stream whose acknowledgement goes with a message that is sent anyway.
    /// `taken` counts those that the message carries already.
    pub(super) fn next_piggybacked(&mut self, taken: usize) -> Option<StreamId> {
        let next = if taken < PIGGYBACK_MAX {
            self.pending.pop_front()
        } else {
            None
        };
        if self.pending.is_empty() {
            (self.deadline, self.unacknowledged) = (None, 0);
        }
        next
    }

    /// Empties the queues. Streams with pending acknowledgements must be queued again.
    pub(super) fn clear(&mut self) {
        *self = AckQueue::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_amounts_and_ends_shorten_the_deadline() {
        let start = Instant::now();
        let mut ack_queue = AckQueue::default();
        ack_queue.defer(StreamId(2));
        ack_queue.on_received(start, 100);
        assert_eq!(ack_queue.deadline(), Some(start + ACK_DELAY_LITTLE));
        let later = start + ACK_DELAY;
        ack_queue.on_received(later, SMALL_BYTES);
        assert_eq!(
            ack_queue.deadline(),
            Some(later + ACK_DELAY),
            "more than SMALL_BYTES"
        );
        ack_queue.expire_soon(start);
        assert_eq!(ack_queue.deadline(), Some(start + ACK_DELAY));
        assert!(ack_queue.expire(start).is_empty());
        assert_eq!(ack_queue.expire(later), [StreamId(2)]);
        ack_queue.on_received(later, 100);
        assert_eq!(
            ack_queue.deadline(),
            Some(later + ACK_DELAY_LITTLE),
            "acknowledged bytes do not count"
        );
    }

    #[test]
    fn message_piggybacks_some_acks_and_the_rest_keep_their_deadline() {
        let start = Instant::now();
        let mut ack_queue = AckQueue::default();
        let streams = PIGGYBACK_MAX as u64 + 1;
        for id in 0..streams {
            ack_queue.defer(StreamId(id));
            ack_queue.on_received(start, 100);
        }
        let taken: Vec<_> = (0..)
            .map_while(|taken| ack_queue.next_piggybacked(taken))
            .collect();
        assert_eq!(
            (taken.len(), ack_queue.deadline()),
            (PIGGYBACK_MAX, Some(start + ACK_DELAY_LITTLE))
        );
        assert_eq!(ack_queue.next_piggybacked(0), Some(StreamId(streams - 1)));
        assert_eq!(
            (ack_queue.next_piggybacked(1), ack_queue.deadline()),
            (None, None)
        );
    }
}
