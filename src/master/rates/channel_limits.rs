//! The limits of one channel pair, as its data path sees them.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use super::{LimitedPair, NO_LEAF, NodeId, PerDirection, RateDirection, RateRequest, Rates};

/// The rate limits of a spliced channel pair. Dropping them removes the pair from the tree.
#[derive(Debug)]
pub(in crate::master) struct ChannelLimits {
    rates: Arc<Rates>,
    /// The number of the pair.
    number: u64,
    pair: Arc<LimitedPair>,
    /// The node to which `credit` belongs.
    leaf: u64,
    /// The bytes that were granted and not sent.
    credit: PerDirection<u64>,
}

impl ChannelLimits {
    pub(super) fn new(rates: Arc<Rates>, number: u64, pair: Arc<LimitedPair>) -> Self {
        ChannelLimits {
            rates,
            number,
            pair,
            leaf: NO_LEAF,
            credit: PerDirection::default(),
        }
    }

    /// Whether a limit applies to the pair now.
    pub(in crate::master) fn is_limited(&self) -> bool {
        self.pair.leaf.load(Relaxed) != NO_LEAF
    }

    /// Takes the bytes of the next message of a queue that holds `queued` bytes. Returns whether the
    /// message may be sent. If not, the channel is marked ready once it may.
    pub(in crate::master) fn take(
        &mut self,
        direction: RateDirection,
        length: usize,
        queued: usize,
    ) -> bool {
        let leaf = self.pair.leaf.load(Relaxed);
        if leaf != self.leaf {
            // Credit of earlier limits says nothing about the present ones.
            (self.leaf, self.credit) = (leaf, PerDirection::default());
        }
        if leaf == NO_LEAF {
            return true;
        }
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        let queued = u64::try_from(queued).unwrap_or(u64::MAX);
        let credit = self.credit.of_mut(direction);
        if *credit < length {
            let request = RateRequest {
                needed: length.saturating_sub(*credit),
                queued: queued.saturating_sub(*credit),
            };
            let Some(granted) = self.rates.request(NodeId(leaf), direction, request) else {
                // The last limit has just been removed.
                return true;
            };
            *credit = credit.saturating_add(granted);
        }
        if *credit < length {
            return false;
        }
        *credit = credit.saturating_sub(length);
        true
    }

    /// Returns the bytes in the queue of a direction above which its sender is paused.
    pub(in crate::master) fn queue_cap(&self, direction: RateDirection) -> usize {
        self.pair.queue_caps.of(direction).load(Relaxed)
    }

    /// Withdraws the request of a direction that has nothing to send any more.
    pub(in crate::master) fn cancel(&mut self, direction: RateDirection) {
        *self.credit.of_mut(direction) = 0;
        if let Some(leaf) = self.pair.leaf() {
            self.rates.cancel(leaf, direction);
        }
    }
}

impl Drop for ChannelLimits {
    fn drop(&mut self) {
        self.rates.detach(self.number);
    }
}
