//! A bucket of tokens, of which each costs some time: what happens in bursts may happen some times at once, and then as often as tokens come back. Knows time as a
//! parameter.

use std::time::{Duration, Instant};

/// Kept as the time at which the bucket will be full again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// A full one.
    pub(super) fn full(now: Instant) -> Self {
        Bucket { full_at: now }
    }

    /// How long it takes until the bucket is full again.
    pub(super) fn debt(&self, now: Instant) -> Duration {
        self.full_at.saturating_duration_since(now)
    }

    /// Takes a token that comes back after `refill`; the debt is `most` at the most. Answers the debt.
    pub(super) fn take(&mut self, now: Instant, refill: Duration, most: Duration) -> Duration {
        let debt = (self.debt(now) + refill).min(most);
        self.full_at = now + debt;
        debt
    }
}
