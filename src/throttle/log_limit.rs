//! Limits the log lines that peers can cause: a burst, then a fixed rate. The next line reports how
//! many were left out.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::TokenBucket;

/// The burst of lines: more than the clients and services of a small master cause when they
/// reconnect after an outage.
const BURST: u32 = 200;

/// The interval between lines after the burst.
const INTERVAL: Duration = Duration::from_millis(100);

/// The most keys with a separate limit. Further ones share one. At about 64 bytes each: 256 KiB.
const MAX_KEYS: usize = 4_096;

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
        LogLimit(Mutex::new(LogBucket::full(Instant::now())))
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
        state.admit(now)
    }
}

impl LogBucket {
    fn full(now: Instant) -> Self {
        LogBucket {
            bucket: TokenBucket::full(now),
            left_out: 0,
        }
    }

    /// Returns the number of lines left out before this one, or `None` if it is left out too.
    fn admit(&mut self, now: Instant) -> Option<u64> {
        let most = INTERVAL * BURST;
        if self.bucket.debt(now) + INTERVAL > most {
            self.left_out += 1;
            return None;
        }
        self.bucket.take(now, INTERVAL, most);
        Some(std::mem::take(&mut self.left_out))
    }

    /// Whether the bucket equals a new one.
    fn is_new(&self, now: Instant) -> bool {
        self.left_out == 0 && self.bucket.debt(now).is_zero()
    }
}

/// A rate limit for each key, so that the lines of one do not keep out those of others.
#[derive(Debug)]
pub struct LogLimits<K>(Mutex<LogBuckets<K>>);

#[derive(Debug)]
struct LogBuckets<K> {
    buckets: HashMap<K, LogBucket>,
    /// The bucket of the keys without a separate one.
    rest: LogBucket,
}

impl<K: Eq + Hash> Default for LogLimits<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Eq + Hash> LogLimits<K> {
    /// Creates limits with full bursts.
    #[must_use]
    pub fn new() -> Self {
        LogLimits(Mutex::new(LogBuckets {
            buckets: HashMap::new(),
            rest: LogBucket::full(Instant::now()),
        }))
    }

    /// Logs a line unless the limit of the key is reached, and passes the number of lines left out
    /// before it. Returns whether the line was logged.
    pub fn log(&self, key: K, line: impl FnOnce(Option<u64>)) -> bool {
        let admitted = self.admits_at(key, Instant::now());
        admitted
            .map(|left_out| line((left_out > 0).then_some(left_out)))
            .is_some()
    }

    fn admits_at(&self, key: K, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let LogBuckets { buckets, rest } = &mut *state;
        if !buckets.contains_key(&key) && buckets.len() >= MAX_KEYS {
            buckets.retain(|_, bucket| !bucket.is_new(now));
            if buckets.len() >= MAX_KEYS {
                return rest.admit(now);
            }
        }
        let bucket = buckets.entry(key);
        bucket.or_insert_with(|| LogBucket::full(now)).admit(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flood_is_counted_and_not_logged() {
        let start = Instant::now();
        let limit = LogLimit(Mutex::new(LogBucket::full(start)));
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

    #[test]
    fn noisy_key_keeps_no_other_out() {
        let (limits, start) = (LogLimits::new(), Instant::now());
        let logged = |key: u32| {
            let lines = (0..1_000).filter(|_| limits.admits_at(key, start).is_some());
            lines.count()
        };
        assert_eq!((logged(1), logged(1), logged(2)), (200, 0, 200));
        let later = start + Duration::from_secs(1);
        assert_eq!(limits.admits_at(1, later), Some(1_800));
    }

    #[test]
    fn keys_are_bounded_and_further_ones_share_a_limit() {
        let (limits, start) = (LogLimits::new(), Instant::now());
        let keys = 2 * u32::try_from(MAX_KEYS).unwrap();
        let logged = (0..keys).filter(|key| limits.admits_at(*key, start).is_some());
        assert_eq!(logged.count(), MAX_KEYS + 200);
        let kept = || limits.0.lock().unwrap().buckets.len();
        assert_eq!(kept(), MAX_KEYS);
        let later = start + Duration::from_secs(1);
        assert_eq!(limits.admits_at(keys, later), Some(0));
        assert_eq!(kept(), 1, "what is full again is forgotten");
    }
}
