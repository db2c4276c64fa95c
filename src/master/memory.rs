//! The memory budget that all channels of the master share. Knows bytes and the number of non-empty
//! queues, but not whose they are.
//!
//! The free budget decides when a queue is paused, in addition to a fixed mark. With `n` queues
//! that have no reader, each stops at an `n`-th of the free budget. Together they settle at half of
//! the budget. The other half takes the data in flight at the time of the pause (dynamic
//! thresholds, Choudhury and Hahne, 1998).

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The overcommit for queues below their fair share: one part in this many of the budget, a
/// quarter. Above it every reservation fails.
const OVERCOMMIT_DIVISOR: usize = 4;

/// The memory that the channels hold, and their budget.
#[derive(Debug)]
pub(super) struct Memory {
    budget_bytes: AtomicUsize,
    used_bytes: AtomicUsize,
    /// The number of non-empty queues.
    holders: AtomicUsize,
}

impl Memory {
    /// Creates a budget of `budget_bytes` with nothing in use.
    pub(super) fn new(budget_bytes: usize) -> Self {
        Memory {
            budget_bytes: AtomicUsize::new(budget_bytes),
            used_bytes: AtomicUsize::new(0),
            holders: AtomicUsize::new(0),
        }
    }

    /// Changes the budget. Bytes beyond a smaller one stay.
    pub(super) fn set_budget(&self, budget_bytes: usize) {
        self.budget_bytes.store(budget_bytes, Relaxed);
    }

    /// Reserves `bytes` for a queue that already holds `held_bytes`. Succeeds within the budget,
    /// and within the overcommit when the queue holds no more than its fair share.
    #[must_use]
    pub(super) fn try_reserve_for_queue(&self, bytes: usize, held_bytes: usize) -> bool {
        // Adds first and undoes on failure: one atomic operation on the common path.
        let total = self
            .used_bytes
            .fetch_add(bytes, Relaxed)
            .saturating_add(bytes);
        let budget_bytes = self.budget_bytes.load(Relaxed);
        let is_fair = held_bytes.saturating_add(bytes) <= self.share(budget_bytes);
        let limit = if is_fair {
            budget_bytes.saturating_add(budget_bytes / OVERCOMMIT_DIVISOR)
        } else {
            budget_bytes
        };
        if total <= limit {
            return true;
        }
        self.refund(bytes);
        false
    }

    /// Returns a reservation.
    pub(super) fn refund(&self, bytes: usize) {
        self.used_bytes.fetch_sub(bytes, Relaxed);
    }

    /// Charges `bytes` even above the budget, for data that is bounded elsewhere and must not be
    /// lost.
    pub(super) fn charge(&self, bytes: usize) {
        self.used_bytes.fetch_add(bytes, Relaxed);
    }

    /// Counts a queue that became non-empty.
    pub(super) fn add_holder(&self) {
        self.holders.fetch_add(1, Relaxed);
    }

    /// Counts a queue that became empty.
    pub(super) fn remove_holder(&self) {
        self.holders.fetch_sub(1, Relaxed);
    }

    /// Returns the queue size above which a queue is paused in favour of the others.
    pub(super) fn pause_above(&self) -> usize {
        let budget_bytes = self.budget_bytes.load(Relaxed);
        self.share(budget_bytes.saturating_sub(self.used_bytes()))
    }

    /// Returns the bytes in use.
    pub(super) fn used_bytes(&self) -> usize {
        self.used_bytes.load(Relaxed)
    }

    fn share(&self, bytes: usize) -> usize {
        bytes / self.holders.load(Relaxed).max(1)
    }
}
