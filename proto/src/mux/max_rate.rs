//! A windowed maximum of the delivery rate of a path, in bytes per second.

use std::time::{Duration, Instant};

/// The filter forgets a rate after one to two windows during which the path had a queue. A window
/// lasts this number of round trips, and at least this time.
const WINDOW_RTTS: u32 = 5;
const WINDOW_MIN: Duration = Duration::from_millis(200);

/// The maximum rate of the current and of the previous window.
#[derive(Debug)]
pub(super) struct MaxRateFilter {
    current: f64,
    previous: f64,
    since: Instant,
}

impl MaxRateFilter {
    /// Creates a filter that contains one measured rate.
    pub(super) fn new(now: Instant, rate: f64) -> Self {
        MaxRateFilter {
            current: rate,
            previous: 0.0,
            since: now,
        }
    }

    /// Returns the maximum rate, in bytes per second.
    pub(super) fn max(&self) -> f64 {
        self.current.max(self.previous)
    }

    /// Adds the rate of a round. A rate below the maximum counts only if the path had a queue.
    pub(super) fn add(&mut self, now: Instant, rate: f64, is_queued: bool, rtt: Duration) {
        let window = rtt.saturating_mul(WINDOW_RTTS).max(WINDOW_MIN);
        if is_queued && now.saturating_duration_since(self.since) > window {
            self.previous = std::mem::take(&mut self.current);
            self.since = now;
        }
        if is_queued || rate > self.max() {
            self.current = self.current.max(rate);
        }
    }
}
