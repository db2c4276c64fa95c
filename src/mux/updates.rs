//! Which streams the peer is to be told of, and by when. What a message has room for behind its data goes with it: a message of its own costs the relay
//! as much as one with data.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::StreamId;

/// The peer is told at the latest after this long (PROTOCOL 12), the value of QUIC (RFC 9000, section 18.2), when there is more than [`LITTLE`]
/// or an end to tell of.
pub const ACK_DELAY: Duration = Duration::from_millis(25);

/// And after this long when there is little (PROTOCOL 12): what TCP does (RFC 1122, 4.2.3.2, allows 500 ms), so that the answer to a small request, or
/// the next request, carries it.
pub const ACK_DELAY_LITTLE: Duration = Duration::from_millis(200);

/// Bytes that the peer keeps for [`ACK_DELAY_LITTLE`] without being the poorer for it, those of all streams together.
const LITTLE: u64 = 64 * 1024;

/// How many updates go with a message that leaves for another reason: some 500 bytes.
const WITH_A_MESSAGE: usize = 32;

/// The queues of one end of a tunnel. A stream says itself whether it has an update, and of which kind: what is found here and has none is passed over.
#[derive(Debug, Default)]
pub struct Updates {
    /// Due with the next message.
    pub due: VecDeque<StreamId>,
    /// Due at the deadline.
    pub pending: VecDeque<StreamId>,
    /// Bytes that those in `pending` came with.
    unacknowledged: u64,
    deadline: Option<Instant>,
}

impl Updates {
    /// When [`Updates::expire`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The streams whose time has come: they are to be due.
    pub fn expire(&mut self, now: Instant) -> VecDeque<StreamId> {
        if self.deadline.is_none_or(|deadline| deadline > now) {
            return VecDeque::new();
        }
        (self.deadline, self.unacknowledged) = (None, 0);
        std::mem::take(&mut self.pending)
    }

    /// A stream has an update that can wait.
    pub fn defer(&mut self, id: StreamId) {
        self.pending.push_back(id);
    }

    /// `bytes` came that nobody was told of.
    pub fn came(&mut self, now: Instant, bytes: u64) {
        self.unacknowledged = self.unacknowledged.saturating_add(bytes);
        self.expire_in(
            now,
            if self.unacknowledged > LITTLE {
                ACK_DELAY
            } else {
                ACK_DELAY_LITTLE
            },
        );
    }

    /// What waits is not to wait as for little: a direction ended, and the peer keeps the stream until it is told, or another attachment began.
    pub fn expire_soon(&mut self, now: Instant) {
        self.expire_in(now, ACK_DELAY);
    }

    fn expire_in(&mut self, now: Instant, delay: Duration) {
        if let Some(until) = now.checked_add(delay) {
            self.deadline = Some(self.deadline.map_or(until, |deadline| deadline.min(until)));
        }
    }

    /// Those that go with a message which leaves anyhow, one for each call, when `taken` have gone with it already.
    pub fn next_passenger(&mut self, taken: usize) -> Option<StreamId> {
        let next = if taken < WITH_A_MESSAGE {
            self.pending.pop_front()
        } else {
            None
        };
        if self.pending.is_empty() {
            (self.deadline, self.unacknowledged) = (None, 0);
        }
        next
    }

    /// Nothing is to be told until it is queued again.
    pub fn clear(&mut self) {
        *self = Updates::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_and_ends_are_told_of_sooner_than_little() {
        let start = Instant::now();
        let mut updates = Updates::default();
        updates.defer(StreamId(2));
        updates.came(start, 100);
        assert_eq!(updates.deadline(), Some(start + ACK_DELAY_LITTLE));
        let later = start + ACK_DELAY;
        updates.came(later, LITTLE);
        assert_eq!(
            updates.deadline(),
            Some(later + ACK_DELAY),
            "then it is much"
        );
        updates.expire_soon(start);
        assert_eq!(updates.deadline(), Some(start + ACK_DELAY));
        assert!(updates.expire(start).is_empty());
        assert_eq!(updates.expire(later), [StreamId(2)]);
        updates.came(later, 100);
        assert_eq!(
            updates.deadline(),
            Some(later + ACK_DELAY_LITTLE),
            "what was told of counts no more"
        );
    }

    #[test]
    fn a_message_takes_some_along_and_the_rest_keeps_its_deadline() {
        let start = Instant::now();
        let mut updates = Updates::default();
        let streams = WITH_A_MESSAGE as u64 + 1;
        for id in 0..streams {
            updates.defer(StreamId(id));
            updates.came(start, 100);
        }
        let taken: Vec<_> = (0..)
            .map_while(|taken| updates.next_passenger(taken))
            .collect();
        assert_eq!(
            (taken.len(), updates.deadline()),
            (WITH_A_MESSAGE, Some(start + ACK_DELAY_LITTLE))
        );
        assert_eq!(updates.next_passenger(0), Some(StreamId(streams - 1)));
        assert_eq!(
            (updates.next_passenger(1), updates.deadline()),
            (None, None)
        );
    }
}
