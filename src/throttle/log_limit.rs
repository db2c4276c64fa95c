//! Limits the log lines that unauthenticated peers can cause: a burst, then a fixed rate. The next
//! line reports how many were left out.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::TokenBucket;

/// The burst of lines: more than the clients and services of a small master cause when they
/// reconnect after an outage.
const BURST: u32 = 200;

/// The interval between lines after the burst.
const INTERVAL: Duration = Duration::from_millis(100);

/// The rate limit for one kind of line.
#[derive(Debug)]
pub struct LogLimit(Mutex<LogBucket>);

#[derive(Debug)]
struct LogBucket {
    bucket: TokenBucket,
    left_out: u64,
}

impl Default for LogLimit {
    fn default() -> Self {
        Self::new()
    }
}

impl LogLimit {
    /// Creates a limit with a full burst.
    #[must_use]
    pub fn new() -> Self {
        LogLimit(Mutex::new(LogBucket {
            bucket: TokenBucket::full(Instant::now()),
            left_out: 0,
        }))
    }

    /// Logs a line unless the limit is reached, and passes the number of lines left out before it.
    /// Returns whether the line was logged.
    pub fn log(&self, line: impl FnOnce(Option<u64>)) -> bool {
        let admitted = self.admits_at(Instant::now());
        admitted
            .map(|left_out| line((left_out > 0).then_some(left_out)))
            .is_some()
    }

    fn admits_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let most = INTERVAL * BURST;
        if state.bucket.debt(now) + INTERVAL > most {
            state.left_out += 1;
            return None;
        }
        state.bucket.take(now, INTERVAL, most);
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_is_counted_and_not_logged() {
        let start = Instant::now();
        let limit = LogLimit(Mutex::new(LogBucket {
            bucket: TokenBucket::full(start),
            left_out: 0,
        }));
        let logged = |second: u64| {
            (0..10_000)
                .filter(|_| {
                    limit
                        .admits_at(start + Duration::from_secs(second))
                        .is_some()
                })
                .count()
        };
        assert_eq!(logged(0), 200);
        assert_eq!(logged(1), 10);
        assert_eq!(
            limit.admits_at(start + Duration::from_secs(2)),
            Some(9_990),
            "those since the last line"
        );
        assert_eq!(logged(1_000), 200, "the burst does not grow");
    }
}
