//! Which master is dialled next, and when (PROTOCOL 6.4). Knows no clock: durations go in and come out.
//!
//! An attempt right after the end of a link is made at once, as long as links live: each second of their life earns such attempts, and some
//! are kept. So a path that cuts each second is bridged each time, and a master that ends links as soon as they have joined is not stormed.

use std::time::Duration;

use crate::link::backoff::Backoff;

/// A wait after failed attempts is drawn below this, or below a part of the time that has failed, whichever is longer: a master that was killed
/// is back within a second or two, most of the time, and every moment of it is felt.
const FIRST_WAIT: Duration = Duration::from_millis(150);

/// The part, as a divisor. The next attempt comes an eighth later, on average.
const PART_OF_FAILING: u32 = 4;

/// No wait is longer while what the links carried is kept at both ends: it would be lost to a long wait.
const LONGEST_WAIT_WHILE_KEPT: Duration = Duration::from_secs(5);

/// For how long that is (PROTOCOL 12, the resume timeout).
const KEPT: Duration = Duration::from_secs(120);

/// No wait is longer at all: somebody who mends the path should not have to restart anything.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What is waited beside the backoff when somebody has to change something first, at either end.
const MENDING_WAIT: Duration = Duration::from_secs(5);

/// Attempts at once that a second of a link's life earns: a path that cuts four times a second is still bridged.
const EARNED_EACH_SECOND: f64 = 4.0;

/// Attempts at once that are kept, and that there are in the beginning.
const KEPT_ATTEMPTS: f64 = 10.0;

/// What "at once" is drawn from, so that ten thousand clients of a killed master do not all come in the same moment.
const AT_ONCE: Duration = Duration::from_millis(10);

/// The next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Next {
    /// At which master of the list.
    pub(super) master: usize,
    /// After this long.
    pub(super) wait: Duration,
}

/// The pace of one uplink.
#[derive(Debug)]
pub(super) struct Pace {
    /// The masters that have failed in this round.
    failed: Vec<bool>,
    /// Whether each failure of this round was one that only somebody's change can mend.
    hopeless: bool,
    backoff: Backoff,
    /// Attempts that may be made at once.
    at_once: f64,
}

impl Pace {
    /// The pace of an uplink to `masters`, at least one.
    pub(super) fn new(masters: usize) -> Self {
        Pace {
            failed: vec![false; masters],
            hopeless: true,
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT_WHILE_KEPT),
            at_once: KEPT_ATTEMPTS,
        }
    }

    /// A link to `master` that had lived for so long has ended, or is to be replaced: the same master follows.
    pub(super) fn ended(&mut self, master: usize, lived: Duration) -> Next {
        self.at_once = (self.at_once + lived.as_secs_f64() * EARNED_EACH_SECOND).min(KEPT_ATTEMPTS);
        if self.at_once < 1.0 {
            return self.next_after(master, |pace| pace.backoff.next_wait());
        }
        self.at_once -= 1.0;
        self.begin_round();
        self.backoff.reset();
        Next { master, wait: at_once() }
    }

    /// The same, when the master after it is to follow.
    pub(super) fn moves_on(&mut self, master: usize, lived: Duration) -> Next {
        let Next { wait, .. } = self.ended(master, lived);
        Next { master: self.after(master), wait }
    }

    /// An attempt at `master` has failed; `retryable` when it may succeed without anybody's change. None has succeeded for as long as `failing`.
    pub(super) fn failed(&mut self, master: usize, retryable: bool, failing: Duration) -> Next {
        self.hopeless &= !retryable;
        self.next_after(master, |pace| {
            let most = if failing < KEPT { LONGEST_WAIT_WHILE_KEPT } else { LONGEST_WAIT };
            let wait = (failing / PART_OF_FAILING).clamp(FIRST_WAIT, most).mul_f64(fastrand::f64());
            if pace.hopeless { LONGEST_WAIT.min(wait + MENDING_WAIT) } else { wait }
        })
    }

    /// The master after this one; with a wait when all of them have failed.
    fn next_after(&mut self, master: usize, wait: impl FnOnce(&mut Self) -> Duration) -> Next {
        if let Some(failed) = self.failed.get_mut(master) {
            *failed = true;
        }
        let next = self.after(master);
        if self.failed.get(next) == Some(&false) {
            return Next { master: next, wait: at_once() };
        }
        let wait = wait(self);
        self.begin_round();
        Next { master: next, wait }
    }

    /// The next master of the list that has not failed in this round; the very next one when all have.
    fn after(&self, master: usize) -> usize {
        let masters = self.failed.len().max(1);
        let others = (1..=masters).map(|step| (master + step) % masters);
        others.clone().find(|other| self.failed.get(*other) == Some(&false)).unwrap_or((master + 1) % masters)
    }

    fn begin_round(&mut self) {
        self.failed.fill(false);
        self.hopeless = true;
    }
}

fn at_once() -> Duration {
    AT_ONCE.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_link_that_is_cut_each_second_is_replaced_at_once_each_time() {
        let mut pace = Pace::new(1);
        for _ in 0..600 {
            let next = pace.ended(0, SECOND);
            assert!(next.master == 0 && next.wait <= AT_ONCE, "{next:?}");
        }
    }

    #[test]
    fn a_master_that_ends_links_as_soon_as_they_have_joined_is_dialled_ever_more_rarely() {
        let mut pace = Pace::new(1);
        let waits: Vec<Duration> = (0..100).map(|_| pace.ended(0, Duration::from_millis(1)).wait).collect();
        assert!(waits[..10].iter().all(|wait| *wait <= AT_ONCE), "{waits:?}");
        let all: Duration = waits.iter().sum();
        assert!(all > 100 * SECOND, "a hundred links in {all:?}");
        assert!(waits.iter().all(|wait| *wait <= LONGEST_WAIT_WHILE_KEPT));
        pace.ended(0, 5 * SECOND);
        assert!(pace.ended(0, Duration::ZERO).wait <= AT_ONCE, "a link that lives earns it again");
    }

    #[test]
    fn masters_that_have_not_failed_are_tried_at_once_and_then_comes_a_wait() {
        let mut pace = Pace::new(3);
        let mut master = 1;
        let mut round = Duration::ZERO;
        for _ in 0..20 {
            for last in [false, false, true] {
                let next = pace.failed(master, true, 300 * SECOND);
                assert_eq!(next.master, (master + 1) % 3);
                assert!(last || next.wait <= AT_ONCE, "{next:?}");
                round = round.max(next.wait);
                master = next.master;
            }
        }
        assert!(round > 5 * SECOND && round <= LONGEST_WAIT, "{round:?}");
    }

    #[test]
    fn a_link_that_lived_clears_the_failures_before_it() {
        let mut pace = Pace::new(2);
        assert_eq!(pace.failed(0, true, SECOND).master, 1);
        assert_eq!(pace.ended(1, 60 * SECOND).master, 1);
        let next = pace.failed(1, true, SECOND);
        assert!(next.master == 0 && next.wait <= AT_ONCE, "{next:?}");
    }

    #[test]
    fn two_masters_that_end_links_as_soon_as_they_have_joined_are_not_stormed_in_turns() {
        let mut pace = Pace::new(2);
        let mut next = Next { master: 0, wait: Duration::ZERO };
        let mut all = Duration::ZERO;
        for _ in 0..100 {
            next = pace.ended(next.master, Duration::ZERO);
            all += next.wait;
        }
        assert!(all > 50 * SECOND, "a hundred links in {all:?}");
    }

    #[test]
    fn a_master_that_is_away_for_half_a_second_is_found_again_at_once() {
        let mut pace = Pace::new(1);
        let waits: Vec<Duration> = (0..100).map(|_| pace.failed(0, true, SECOND / 2).wait).collect();
        assert!(waits.iter().all(|wait| *wait <= FIRST_WAIT), "{waits:?}");
    }

    #[test]
    fn waits_stay_short_while_something_can_be_resumed() {
        let mut pace = Pace::new(1);
        let early: Vec<Duration> = (0..50).map(|_| pace.failed(0, true, 30 * SECOND).wait).collect();
        assert!(early.iter().all(|wait| *wait <= LONGEST_WAIT_WHILE_KEPT), "{early:?}");
        let late: Vec<Duration> = (0..50).map(|_| pace.failed(0, true, 300 * SECOND).wait).collect();
        assert!(late.iter().any(|wait| *wait > 2 * LONGEST_WAIT_WHILE_KEPT), "{late:?}");
    }

    #[test]
    fn what_only_a_change_can_mend_is_tried_again_after_a_while() {
        let mut pace = Pace::new(2);
        pace.failed(0, false, SECOND);
        assert!(pace.failed(1, false, SECOND).wait >= MENDING_WAIT);
        pace.failed(0, false, SECOND);
        assert!(pace.failed(1, true, SECOND).wait < MENDING_WAIT, "the other may come back by itself");
    }

    #[test]
    fn moving_on_takes_the_next_master_of_the_list() {
        let mut pace = Pace::new(3);
        assert_eq!(pace.moves_on(2, SECOND).master, 0);
        assert_eq!(pace.moves_on(0, SECOND).master, 1);
    }
}
