//! Bounds the lines that strangers can make the master log: some at once, then some each second, and with the next one how many were left out.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::bucket::Bucket;

/// Lines at once: more than people and services cause that come back after an outage of a small master.
const BURST: u32 = 200;

/// From then on, the time between two lines.
const APART: Duration = Duration::from_millis(100);

/// The lines of one kind.
#[derive(Debug)]
pub(super) struct LogLimit(Mutex<Lines>);

#[derive(Debug)]
struct Lines {
    bucket: Bucket,
    left_out: u64,
}

impl LogLimit {
    /// Nothing has been logged.
    pub(super) fn new() -> Self {
        LogLimit(Mutex::new(Lines {
            bucket: Bucket::full(Instant::now()),
            left_out: 0,
        }))
    }

    /// Logs a line, with how many were left out before it, if any were. Says whether it was logged.
    pub(super) fn log(&self, line: impl FnOnce(Option<u64>)) -> bool {
        let admitted = self.admits_at(Instant::now());
        admitted
            .map(|left_out| line((left_out > 0).then_some(left_out)))
            .is_some()
    }

    fn admits_at(&self, now: Instant) -> Option<u64> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let most = APART * BURST;
        if lines.bucket.debt(now) + APART > most {
            lines.left_out += 1;
            return None;
        }
        lines.bucket.take(now, APART, most);
        Some(std::mem::take(&mut lines.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_not_logged() {
        let start = Instant::now();
        let limit = LogLimit(Mutex::new(Lines {
            bucket: Bucket::full(start),
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
        assert_eq!(logged(1_000), 200, "no more is saved up than at first");
    }
}
