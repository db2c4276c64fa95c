//! A token bucket: allows a burst of events, then one event per refill interval. Takes the time as
//! a parameter.

use std::time::{Duration, Instant};

/// A token bucket, stored as the time at which it will be full again.
#[derive(Debug, Clone, Copy)]
pub struct TokenBucket {
    full_at: Instant,
}

impl TokenBucket {
    /// Creates a full bucket.
    #[must_use]
    pub fn full(now: Instant) -> Self {
        TokenBucket { full_at: now }
    }

    /// Returns the time until the bucket is full again.
    #[must_use]
    pub fn debt(&self, now: Instant) -> Duration {
        self.full_at.saturating_duration_since(now)
    }

    /// Takes a token that refills after `refill`, and returns the new debt. The debt never exceeds
    /// `most`.
    pub fn take(&mut self, now: Instant, refill: Duration, most: Duration) -> Duration {
        let debt = (self.debt(now) + refill).min(most);
        self.full_at = now + debt;
        debt
    }
}
