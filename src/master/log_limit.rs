//! Bounds the lines that strangers can make the master log: some at once, then some each second, and with the next one how many were left out.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// Lines at once: more than people and services cause that come back after an outage of a small master.
const BURST: f64 = 200.0;

/// Lines each second from then on.
const EACH_SECOND: f64 = 10.0;

/// The lines of one kind.
#[derive(Debug)]
pub(super) struct LogLimit(Mutex<Bucket>);

#[derive(Debug)]
struct Bucket {
    lines: f64,
    at: Instant,
    left_out: u64,
}

impl LogLimit {
    /// Nothing has been logged.
    pub(super) fn new() -> Self {
        LogLimit(Mutex::new(Bucket { lines: BURST, at: Instant::now(), left_out: 0 }))
    }

    /// Whether a line may be logged, and how many were left out before it.
    pub(super) fn admits(&self) -> Option<u64> {
        self.admits_at(Instant::now())
    }

    fn admits_at(&self, now: Instant) -> Option<u64> {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let earned = now.saturating_duration_since(bucket.at).as_secs_f64() * EACH_SECOND;
        bucket.lines = (bucket.lines + earned).min(BURST);
        bucket.at = now;
        if bucket.lines < 1.0 {
            bucket.left_out += 1;
            return None;
        }
        bucket.lines -= 1.0;
        Some(std::mem::take(&mut bucket.left_out))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_is_counted_and_not_logged() {
        let start = Instant::now();
        let limit = LogLimit(Mutex::new(Bucket { lines: BURST, at: start, left_out: 0 }));
        let logged = |second: u64| (0..10_000).filter(|_| limit.admits_at(start + Duration::from_secs(second)).is_some()).count();
        assert_eq!(logged(0), 200);
        assert_eq!(logged(1), 10);
        assert_eq!(limit.admits_at(start + Duration::from_secs(2)), Some(9_990), "those since the last line");
        assert_eq!(logged(1_000), 200, "no more is saved up than at first");
    }
}
