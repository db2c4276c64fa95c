//! The one budget that all channels of the master share. Knows bytes and how many queues hold some; not whose they are.
//!
//! Queues are paused by what is free, not by a fixed mark alone: with `n` queues that nobody reads each stops at an `n`-th of what is left,
//! so that together they settle at half of the budget, and the other half takes in what was under way when they were paused (dynamic
//! thresholds, after Choudhury and Hahne, 1998).

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Of the budget, what may be exceeded for the sake of queues that hold less than their share: a quarter. Beyond it nothing is taken.
const GRACE: usize = 4;

/// What the channels keep waiting, against what they may.
#[derive(Debug)]
pub(super) struct Memory {
    budget_bytes: usize,
    used_bytes: AtomicUsize,
    /// Queues that hold something.
    holders: AtomicUsize,
}

impl Memory {
    /// Nothing used of `budget_bytes`.
    pub(super) fn new(budget_bytes: usize) -> Self {
        Memory {
            budget_bytes,
            used_bytes: AtomicUsize::new(0),
            holders: AtomicUsize::new(0),
        }
    }

    /// Takes `bytes` for a queue that holds `held_bytes` already: within the budget always, a little beyond it when the queue holds no more
    /// than its fair share.
    #[must_use]
    pub(super) fn try_take_for_queue(&self, bytes: usize, held_bytes: usize) -> bool {
        let total = self
            .used_bytes
            .fetch_add(bytes, Relaxed)
            .saturating_add(bytes);
        let fair = held_bytes.saturating_add(bytes) <= self.share(self.budget_bytes);
        let limit = if fair {
            self.budget_bytes.saturating_add(self.budget_bytes / GRACE)
        } else {
            self.budget_bytes
        };
        if total <= limit {
            return true;
        }
        self.give_back(bytes);
        false
    }

    /// Gives back what was taken.
    pub(super) fn give_back(&self, bytes: usize) {
        self.used_bytes.fetch_sub(bytes, Relaxed);
    }

    /// Charges `bytes`, whether they fit or not: what is bounded elsewhere, and must not be lost.
    pub(super) fn charge(&self, bytes: usize) {
        self.used_bytes.fetch_add(bytes, Relaxed);
    }

    /// A queue that was empty holds something now.
    pub(super) fn holder_came(&self) {
        self.holders.fetch_add(1, Relaxed);
    }

    /// A queue that held something is empty now.
    pub(super) fn holder_went(&self) {
        self.holders.fetch_sub(1, Relaxed);
    }

    /// Bytes beyond which a queue is to be paused for the sake of the others.
    pub(super) fn pause_above(&self) -> usize {
        self.share(self.budget_bytes.saturating_sub(self.used_bytes()))
    }

    /// What is taken now.
    pub(super) fn used_bytes(&self) -> usize {
        self.used_bytes.load(Relaxed)
    }

    fn share(&self, bytes: usize) -> usize {
        bytes / self.holders.load(Relaxed).max(1)
    }
}
