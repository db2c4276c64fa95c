//! How long to wait before the next attempt. Knows no clock: durations go in and come out.

use std::time::Duration;

/// Exponential backoff with full jitter: each wait is drawn between nothing and a ceiling that doubles.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// Waits of at most `first` to begin with, of at most `most` in the end.
    #[must_use]
    pub fn new(first: Duration, most: Duration) -> Self {
        let first = first.min(most);
        Backoff {
            first,
            most,
            ceiling: first,
        }
    }

    /// How long to wait before the next attempt, after one that failed.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.ceiling.mul_f64(fastrand::f64());
        self.ceiling = self.ceiling.saturating_mul(2).min(self.most);
        wait
    }

    /// Starts again with the first wait.
    pub fn reset(&mut self) {
        self.ceiling = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_most_and_stay_below_their_ceiling() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
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
    fn after_a_reset_the_first_wait_comes_again() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        for _ in 0..20 {
            backoff.next_wait();
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(200));
    }
}
