//! The wait before the next attempt after a failure. Pure: durations go in and come out, and there
//! is no clock. A caller that must be reproducible passes the jitter too.

use std::time::Duration;

/// Exponential backoff with full jitter: each wait is drawn between zero and a ceiling that
/// doubles.
#[derive(Debug, Clone)]
pub struct RetryBackoff {
    initial: Duration,
    max: Duration,
    ceiling: Duration,
}

impl RetryBackoff {
    /// Creates a backoff whose ceiling starts at `initial` and grows to `max`.
    #[must_use]
    pub fn new(initial: Duration, max: Duration) -> Self {
        let initial = initial.min(max);
        RetryBackoff {
            initial,
            max,
            ceiling: initial,
        }
    }

    /// Returns the wait before the next attempt, after one that failed.
    pub fn next_wait(&mut self) -> Duration {
        self.next_wait_with(fastrand::f64())
    }

    /// Like [`next_wait`](Self::next_wait), with a random number between 0 and 1 from the caller.
    pub fn next_wait_with(&mut self, jitter: f64) -> Duration {
        let wait = self.ceiling.mul_f64(jitter);
        self.ceiling = self.ceiling.saturating_mul(2).min(self.max);
        wait
    }

    /// Resets the ceiling to its initial value.
    pub fn reset(&mut self) {
        self.ceiling = self.initial;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_maximum_and_stay_below_ceiling() {
        let mut backoff = RetryBackoff::new(Duration::from_millis(200), Duration::from_secs(30));
        let mut ceiling = Duration::from_millis(200);
        let mut longest = Duration::ZERO;
        for _ in 0..500 {
            let wait = backoff.next_wait();
            assert!(wait <= ceiling, "{wait:?} of at most {ceiling:?}");
            longest = longest.max(wait);
            ceiling = (ceiling * 2).min(Duration::from_secs(30));
        }
        assert!(
            longest > Duration::from_secs(15),
            "waits do grow: {longest:?}"
        );
    }

    #[test]
    fn reset_restores_initial_ceiling() {
        let mut backoff = RetryBackoff::new(Duration::from_millis(200), Duration::from_secs(30));
        for _ in 0..20 {
            backoff.next_wait();
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(200));
    }
}
