//! The streams that the peer has opened. OPENs of different lanes may arrive in another order than
//! that of their numbers.

use std::collections::BTreeSet;

use super::{MuxError, StreamId};

/// The largest number of streams that a peer may skip, because their OPENs are still under way on
/// other lanes.
const SKIPPED_MAX: usize = 65_536;

/// The numbers of the streams that the peer has opened.
#[derive(Debug)]
pub(super) struct OpenedStreams {
    /// The number after the largest one.
    next: u64,
    /// The smaller numbers whose OPEN has not arrived.
    skipped: BTreeSet<u64>,
}

impl OpenedStreams {
    /// Creates the state before the first OPEN, which has the number `first`.
    pub(super) fn new(first: u64) -> Self {
        OpenedStreams {
            next: first,
            skipped: BTreeSet::new(),
        }
    }

    /// Returns whether the OPEN of this stream has not arrived.
    pub(super) fn is_missing(&self, id: StreamId) -> bool {
        id.0 >= self.next || self.skipped.contains(&id.0)
    }

    /// Returns the lowest number whose OPEN has not arrived.
    pub(super) fn lowest_missing(&self) -> u64 {
        self.skipped.first().copied().unwrap_or(self.next)
    }

    /// Records an OPEN.
    ///
    /// # Errors
    /// If the peer skips too many numbers.
    pub(super) fn add(&mut self, id: StreamId) -> Result<(), MuxError> {
        if id.0 < self.next {
            self.skipped.remove(&id.0);
            return Ok(());
        }
        let skipped = id.0.saturating_sub(self.next) / 2;
        let total = (self.skipped.len() as u64).saturating_add(skipped);
        if total > SKIPPED_MAX as u64 {
            return Err(MuxError::Protocol("OPEN skips too many streams"));
        }
        let next = self.next;
        self.skipped
            .extend((0..skipped).map(|index| next.saturating_add(index.saturating_mul(2))));
        self.next = id.0.saturating_add(2);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_of_any_order_is_known_once() {
        let mut opened = OpenedStreams::new(1);
        for id in [1, 7, 3] {
            assert!(opened.is_missing(StreamId(id)));
            opened.add(StreamId(id)).unwrap();
            assert!(!opened.is_missing(StreamId(id)));
        }
        assert_eq!(opened.lowest_missing(), 5);
        opened.add(StreamId(5)).unwrap();
        assert_eq!(opened.lowest_missing(), 9);
    }

    #[test]
    fn a_peer_that_skips_too_many_breaks_the_protocol() {
        let mut opened = OpenedStreams::new(0);
        opened.add(StreamId(2 * SKIPPED_MAX as u64)).unwrap();
        let next = StreamId(2 * SKIPPED_MAX as u64 + 4);
        assert!(opened.add(next).is_err());
        assert!(opened.add(StreamId(1 << 60)).is_err());
    }
}
