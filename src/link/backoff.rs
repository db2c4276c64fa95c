//! How long to wait before the next attempt. Knows no clock: durations go in and come out.

use std::time::Duration;

/// What lived this long was no failed attempt: the next one is made at once.
pub const LIVED: Duration = Duration::from_secs(10);

/// Exponential backoff with full jitter: each wait is drawn between nothing and a ceiling that doubles.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    ceiling: Duration,
}

impl Default for Backoff {
    /// From 200 ms, two round trips of a long path, up to 30 s, after which an operator who repairs something starts to wait.
    fn default() -> Self {
        Backoff::new(Duration::from_millis(200), Duration::from_secs(30))
    }
}

impl Backoff {
    /// Waits of at most `first` to begin with, of at most `most` in the end.
    #[must_use]
    pub fn new(first: Duration, most: Duration) -> Self {
        let first = first.min(most);
        Backoff { first, most, ceiling: first }
    }

    /// How long to wait before the next attempt, after one that failed.
    pub fn next_wait(&mut self) -> Duration {
        self.next_wait_below(self.most)
    }

    /// The same, and at most `most` this time.
    pub fn next_wait_below(&mut self, most: Duration) -> Duration {
        let wait = self.ceiling.min(most).mul_f64(fastrand::f64());
        self.ceiling = self.ceiling.saturating_mul(2).min(self.most);
        wait
    }

    /// How long to wait before the next attempt, after something that was up for `lived`: not at all when it had lived.
    pub fn after(&mut self, lived: Duration) -> Duration {
        if lived < LIVED {
            return self.next_wait();
        }
        self.reset();
        Duration::ZERO
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
        assert!(longest > Duration::from_secs(15), "waits do grow: {longest:?}");
    }

    #[test]
    fn a_link_that_lived_is_dialled_again_at_once_and_then_from_the_first_wait() {
        let mut backoff = Backoff::default();
        for _ in 0..20 {
            backoff.next_wait();
        }
        assert_eq!(backoff.after(LIVED), Duration::ZERO);
        assert!(backoff.after(Duration::from_secs(1)) <= Duration::from_millis(200));
    }

    #[test]
    fn a_link_that_ended_early_counts_as_a_failed_attempt() {
        let mut backoff = Backoff::default();
        for _ in 0..20 {
            backoff.next_wait();
        }
        let waits: Vec<Duration> = (0..100).map(|_| backoff.after(Duration::from_secs(9))).collect();
        assert!(waits.iter().max() > Some(&Duration::from_secs(5)), "{waits:?}");
    }
}
