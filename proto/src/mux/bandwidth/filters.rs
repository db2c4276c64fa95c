//! The filters of the measurements: the maximum rate and the minimum round trip of a path.

use std::time::{Duration, Instant};

/// [`MaxRateFilter`] forgets a rate after one to two windows during which the path had a queue. A
/// window lasts this number of round trips, and at least this time.
const WINDOW_RTTS: u32 = 5;
const WINDOW_MIN: Duration = Duration::from_millis(200);

/// A round trip is near min_rtt if it exceeds it by less than this factor or by less than this
/// time.
const MIN_RTT_FACTOR: f64 = 1.05;
const MIN_RTT_MARGIN: Duration = Duration::from_micros(200);

/// The part of a longer round trip that does not count as a queue.
pub(super) const JITTER: Duration = Duration::from_millis(2);

/// A windowed maximum of the delivery rate of a path, in bytes per second: that of the current and
/// of the previous window.
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

/// The minimum round trip, and when a similar one was last seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct MinRtt {
    pub time: Duration,
    pub seen: Instant,
}

impl MinRtt {
    /// Returns the minimum after the round trip `time`.
    pub(super) fn updated(previous: Option<MinRtt>, now: Instant, time: Duration) -> MinRtt {
        match previous {
            Some(min_rtt) if time > min_rtt.time => {
                let as_short = min_rtt
                    .time
                    .mul_f64(MIN_RTT_FACTOR)
                    .max(min_rtt.time.saturating_add(MIN_RTT_MARGIN));
                if time > as_short {
                    min_rtt
                } else {
                    MinRtt {
                        seen: now,
                        ..min_rtt
                    }
                }
            }
            _ => MinRtt { time, seen: now },
        }
    }
}
