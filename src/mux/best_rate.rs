//! The best rate of late, in bytes a second: what a path delivers, as `delivery` sees it.

use std::time::{Duration, Instant};

/// The best rate is forgotten after one to two times as many round trips, and at least this time, in which a queue stood.
const LIFETIME_ROUND_TRIPS: u32 = 5;
const LIFETIME_MIN: Duration = Duration::from_millis(200);

/// The best rate of this and the last lifetime.
#[derive(Debug)]
pub struct BestRate {
    now: f64,
    before: f64,
    since: Instant,
}

impl BestRate {
    /// This one was measured, and none before.
    pub fn new(now: Instant, rate: f64) -> Self {
        BestRate {
            now: rate,
            before: 0.0,
            since: now,
        }
    }

    /// The best rate, in bytes a second.
    pub fn best(&self) -> f64 {
        self.now.max(self.before)
    }

    /// Takes the rate of a round; one that is no better counts only when a queue stood.
    pub fn add(&mut self, now: Instant, rate: f64, is_queued: bool, round_trip: Duration) {
        let lifetime = round_trip
            .saturating_mul(LIFETIME_ROUND_TRIPS)
            .max(LIFETIME_MIN);
        if is_queued && now.saturating_duration_since(self.since) > lifetime {
            self.before = std::mem::take(&mut self.now);
            self.since = now;
        }
        if is_queued || rate > self.best() {
            self.now = self.now.max(rate);
        }
    }
}
