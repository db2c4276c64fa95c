//! A bucket of bytes that refills at a rate and may be in debt. Takes the time as a parameter.

use std::time::{Duration, Instant};

use super::limits::{NANOS_PER_SECOND, RateLimit};

/// The longest wait that a bucket reports. A bucket in deeper debt is checked again then.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// A bucket of bytes.
///
/// A message is sent as a whole, so a bucket that is not empty admits any message and goes into
/// debt. The next message waits until the debt is paid, which keeps the long-term rate exact.
#[derive(Debug, Clone)]
pub(super) struct RateBucket {
    /// Bytes per second, positive.
    rate: u64,
    /// The largest level, in billionths of a byte.
    capacity: i128,
    /// The level at `at`, in billionths of a byte. This unit keeps the arithmetic exact.
    level: i128,
    at: Instant,
}

impl RateBucket {
    /// Creates a full bucket.
    pub(super) fn full(limit: RateLimit, now: Instant) -> Self {
        let capacity = billionths(limit.burst_bytes());
        RateBucket {
            rate: limit.rate(),
            capacity,
            level: capacity,
            at: now,
        }
    }

    /// Changes the limit. Keeps the level as far as the new burst allows, in credit and in debt: a
    /// debt of the old rate may take minutes to pay at the new one.
    pub(super) fn change(&mut self, limit: RateLimit, now: Instant) {
        self.refill(now);
        self.rate = limit.rate();
        self.capacity = billionths(limit.burst_bytes());
        self.level = self.level.clamp(-self.capacity, self.capacity);
    }

    /// Takes bytes, if necessary as a debt.
    pub(super) fn take(&mut self, bytes: u64, now: Instant) {
        self.refill(now);
        self.level = self.level.saturating_sub(billionths(bytes));
    }

    /// Returns `None` if the bucket holds more than `reserve` bytes, otherwise the time at which it
    /// will. The reserve must be less than the burst.
    pub(super) fn ready_at(&mut self, reserve: u64, now: Instant) -> Option<Instant> {
        self.refill(now);
        let missing = billionths(reserve).saturating_sub(self.level);
        // A level that equals the reserve admits nothing.
        let missing = u128::try_from(missing).ok()?.saturating_add(1);
        let wait = missing.div_ceil(u128::from(self.rate));
        let wait = Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX));
        // The clock of the caller may be behind.
        Some(self.at + wait.min(MAX_WAIT))
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at);
        let earned = u128::from(self.rate).saturating_mul(elapsed.as_nanos());
        let earned = i128::try_from(earned).unwrap_or(i128::MAX);
        self.level = self.level.saturating_add(earned).min(self.capacity);
        self.at = self.at.max(now);
    }
}

/// Converts bytes to billionths of a byte.
fn billionths(bytes: u64) -> i128 {
    i128::try_from(u128::from(bytes).saturating_mul(NANOS_PER_SECOND)).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limit(bytes_per_second: u64, burst: u64) -> RateLimit {
        RateLimit {
            bytes_per_second,
            burst: Some(burst),
        }
    }

    #[test]
    fn full_bucket_admits_its_burst_and_then_the_rate() {
        let now = Instant::now();
        let mut bucket = RateBucket::full(limit(1_000, 5_000), now);
        bucket.take(4_999, now);
        assert_eq!(bucket.ready_at(0, now), None);
        bucket.take(1, now);
        let due = bucket.ready_at(0, now).expect("it is empty");
        assert_eq!(due - now, Duration::from_nanos(1), "any byte is enough");
        assert_eq!(bucket.ready_at(0, due), None);
    }

    #[test]
    fn debt_delays_the_next_message() {
        let now = Instant::now();
        let mut bucket = RateBucket::full(limit(1_000, 1_000), now);
        bucket.take(6_000, now);
        let due = bucket.ready_at(0, now).expect("it is in debt");
        assert_eq!(due - now, 5 * SECOND + Duration::from_nanos(1));
        assert!(bucket.ready_at(0, due - Duration::from_nanos(1)).is_some());
        assert_eq!(bucket.ready_at(0, due), None);
    }

    #[test]
    fn pause_saves_no_more_than_the_burst() {
        let now = Instant::now();
        let mut bucket = RateBucket::full(limit(1_000, 2_000), now);
        let later = now + 1_000 * SECOND;
        bucket.take(2_000, later);
        assert!(bucket.ready_at(0, later).is_some());
    }

    #[test]
    fn reserve_is_kept() {
        let now = Instant::now();
        let mut bucket = RateBucket::full(limit(1_000, 2_000), now);
        assert_eq!(bucket.ready_at(1_999, now), None);
        bucket.take(1_000, now);
        let due = bucket.ready_at(1_500, now).expect("less is left");
        assert_eq!(due - now, SECOND / 2 + Duration::from_nanos(1));
    }

    #[test]
    fn lower_limit_does_not_inherit_the_debt_of_the_higher_one() {
        let now = Instant::now();
        let mut bucket = RateBucket::full(limit(1_000_000_000, 1_000), now);
        bucket.take(1_000_000_000, now);
        bucket.change(limit(1_000, 1_000), now);
        let due = bucket.ready_at(0, now).expect("it is in debt");
        assert!(due - now <= SECOND + Duration::from_nanos(1));
    }

    #[test]
    fn extreme_numbers_and_clocks_are_harmless() {
        let now = Instant::now();
        let mut bucket = RateBucket::full(limit(u64::MAX, u64::MAX), now + SECOND);
        bucket.take(u64::MAX, now);
        bucket.take(u64::MAX, now + 100_000 * SECOND);
        bucket.change(limit(0, 0), now);
        bucket.take(u64::MAX, now);
        let due = bucket.ready_at(0, now).expect("it is in debt");
        assert!(due >= now);
    }

    proptest! {
        #[test]
        fn long_term_rate_is_exact(
            rate in 1_u64..10_000_000_000,
            burst in 1_u64..10_000_000,
            messages in proptest::collection::vec(1_u64..131_072, 1..200),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut bucket = RateBucket::full(limit(rate, burst), start);
            let mut sent = 0_u128;
            for message in &messages {
                while let Some(due) = bucket.ready_at(0, now) {
                    prop_assert!(due > now);
                    now = due;
                }
                bucket.take(*message, now);
                sent += u128::from(*message);
            }
            let earned = u128::from(rate) * (now - start).as_nanos() / NANOS_PER_SECOND;
            let most = earned + u128::from(limit(rate, burst).burst_bytes()) + 131_072;
            prop_assert!(sent <= most, "{} of {}", sent, most);
        }
    }
}
