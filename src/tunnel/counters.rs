//! Monotonic counters of the tunnels and attachments of a process.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A monotonic counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    /// Returns the current value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The tunnel counters of a process.
#[derive(Debug, Default)]
pub struct TunnelCounters {
    /// Attachments that ended while their tunnel was alive.
    pub lost: Counter,
    /// Tunnels that were resumed after a loss.
    pub resumed: Counter,
    /// Bytes that were retransmitted after a resumption.
    pub resent_bytes: Counter,
    /// Tunnels that moved to another attachment without a loss.
    pub moved: Counter,
    /// Tunnels that ended because they had no attachment for too long.
    pub expired: Counter,
}
