//! Which master is dialled next, and when (PROTOCOL 6.4). Knows no clock: the time comes in.
//!
//! ```text
//!             failed                       its rest is over, or all rest and its rest ends first
//!   ready ─────────────► resting for so long ─────────────────────────────────────────────────► dialled
//!     ▲                                                                                            │
//!     └──────────────────────────────── a link that lived has ended ◄──────────────────────────────┘
//! ```
//!
//! Each master rests by itself: one that failed is not dialled again before its own rest is over, as long as another can be. The rest is drawn
//! below a part of the time that this master has failed, so that it grows exponentially, up to a longest one.
//!
//! An attempt right after the end of a link is made at once, as long as links live: each second of their life earns such attempts, and some
//! are kept. So a path that cuts each second is bridged each time, and a master that ends links as soon as they have joined is not stormed.

use std::time::Duration;

use tokio::time::Instant;

use crate::link::backoff::Backoff;

/// A rest after failed attempts is drawn below this, or below a part of the time that has failed, whichever is longer: a master that was killed
/// is back within a second or two, most of the time, and every moment of it is felt.
const FIRST_REST: Duration = Duration::from_millis(150);

/// The part, as a divisor. The next attempt comes an eighth later, on average.
const PART_OF_FAILING: u32 = 4;

/// No rest is longer while what the links carried is kept at both ends: it would be lost to a long wait.
const LONGEST_REST_WHILE_KEPT: Duration = Duration::from_secs(5);

/// For how long that is (PROTOCOL 12, the resume timeout).
const KEPT: Duration = Duration::from_secs(120);

/// No rest is longer at all: somebody who mends the path should not have to restart anything.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// What is rested beside that when somebody has to change something first, at either end.
const MENDING_REST: Duration = Duration::from_secs(5);

/// A master that has not been tried for this long after a failure begins anew: what it fails of now is something else.
const FORGOTTEN: Duration = Duration::from_secs(60);

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
    masters: Vec<Master>,
    /// Attempts that may be made at once.
    at_once: f64,
}

/// What is known of one master.
#[derive(Debug)]
struct Master {
    /// When its rest is over.
    rests_until: Option<Instant>,
    /// Its first and its last failure, of those without a link in between.
    failing: Option<(Instant, Instant)>,
    /// The rests after links that ended as soon as they had joined.
    short_lived: Backoff,
}

impl Master {
    fn new() -> Self {
        Master {
            rests_until: None,
            failing: None,
            short_lived: Backoff::new(FIRST_REST, LONGEST_REST_WHILE_KEPT),
        }
    }

    /// For how much longer it rests; zero when it does not.
    fn rest(&self, now: Instant) -> Duration {
        self.rests_until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// Another attempt has failed. Returns for how long all of them have.
    fn failed(&mut self, now: Instant) -> Duration {
        let recent = self
            .failing
            .filter(|(_, last)| now.saturating_duration_since(*last) < FORGOTTEN);
        let first = recent.map_or(now, |(first, _)| first);
        self.failing = Some((first, now));
        now.saturating_duration_since(first)
    }
}

impl Pace {
    /// The pace of an uplink to `masters`, at least one.
    pub(super) fn new(masters: usize) -> Self {
        Pace {
            masters: (0..masters).map(|_| Master::new()).collect(),
            at_once: KEPT_ATTEMPTS,
        }
    }

    /// The master has taken the role in: what it fails of from now on is something else.
    pub(super) fn joined(&mut self, master: usize) {
        if let Some(master) = self.masters.get_mut(master) {
            (master.rests_until, master.failing) = (None, None);
        }
    }

    /// A link to `master` that had lived for so long has ended, or is to be replaced: the same master follows, unless attempts at it have failed
    /// meanwhile and another one is ready.
    pub(super) fn ended(&mut self, now: Instant, master: usize, lived: Duration) -> Next {
        self.at_once = (self.at_once + lived.as_secs_f64() * EARNED_EACH_SECOND).min(KEPT_ATTEMPTS);
        let same = Next {
            master,
            wait: at_once(),
        };
        let is_earned = self.at_once >= 1.0;
        let Some(ended) = self.masters.get_mut(master) else {
            return same;
        };
        if !is_earned {
            ended.rests_until = Some(now + ended.short_lived.next_wait());
        } else {
            self.at_once -= 1.0;
            if ended.rest(now).is_zero() || self.ready_after(now, master, &|_| false).is_none() {
                self.masters[master] = Master::new();
                return same;
            }
        }
        self.next(now, master, &|_| false).unwrap_or(same)
    }

    /// An attempt at `master` has failed; `retryable` when it may succeed without anybody's change. None at any master has succeeded for as
    /// long as `linkless`. Returns how long this one rests.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        master: usize,
        retryable: bool,
        linkless: Duration,
    ) -> Duration {
        let Some(master) = self.masters.get_mut(master) else {
            return FIRST_REST;
        };
        let most = if linkless < KEPT {
            LONGEST_REST_WHILE_KEPT
        } else {
            LONGEST_REST
        };
        let drawn = (master.failed(now) / PART_OF_FAILING)
            .clamp(FIRST_REST, most)
            .mul_f64(fastrand::f64());
        let rest = if retryable {
            drawn
        } else {
            LONGEST_REST.min(drawn + MENDING_REST)
        };
        master.rests_until = Some(now + rest);
        rest
    }

    /// The next attempt after one at `master`, at none of those that are `taken`: the next one of the list that does not rest; when all do, the one
    /// whose rest ends first. Nothing when all are taken.
    pub(super) fn next(
        &self,
        now: Instant,
        master: usize,
        taken: &dyn Fn(usize) -> bool,
    ) -> Option<Next> {
        self.ready_after(now, master, taken)
            .map(|master| Next {
                master,
                wait: at_once(),
            })
            .or_else(|| {
                let resting = self.others(master).filter(|other| !taken(*other));
                let first = resting.min_by_key(|other| self.rest(now, *other))?;
                Some(Next {
                    master: first,
                    wait: self.rest(now, first),
                })
            })
    }

    /// Whether the rest of this master is not over.
    pub(super) fn rests(&self, now: Instant, master: usize) -> bool {
        !self.rest(now, master).is_zero()
    }

    /// The first master after this one that does not rest and is not taken.
    fn ready_after(
        &self,
        now: Instant,
        master: usize,
        taken: &dyn Fn(usize) -> bool,
    ) -> Option<usize> {
        self.others(master)
            .find(|other| !taken(*other) && self.rest(now, *other).is_zero())
    }

    /// All masters, from the one after this on; this one comes last.
    fn others(&self, master: usize) -> impl Iterator<Item = usize> + use<> {
        let masters = self.masters.len();
        (1..=masters).map(move |step| (master + step) % masters)
    }

    fn rest(&self, now: Instant, master: usize) -> Duration {
        self.masters
            .get(master)
            .map_or(Duration::ZERO, |master| master.rest(now))
    }
}

fn at_once() -> Duration {
    AT_ONCE.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    const NONE: &dyn Fn(usize) -> bool = &|_| false;

    /// A pace, and a time that passes as the test says.
    struct Bed {
        pace: Pace,
        now: Instant,
    }

    impl Bed {
        fn new(masters: usize) -> Self {
            Bed {
                pace: Pace::new(masters),
                now: Instant::now(),
            }
        }

        fn ended(&mut self, master: usize, lived: Duration) -> Next {
            self.pace.ended(self.now, master, lived)
        }

        /// An attempt fails; for as long as `failing`, all have.
        fn failed(&mut self, master: usize, failing: Duration) -> Duration {
            self.pace.failed(self.now, master, true, failing)
        }

        fn next(&self, master: usize) -> Next {
            self.pace.next(self.now, master, NONE).unwrap()
        }
    }

    #[test]
    fn a_link_that_is_cut_each_second_is_replaced_at_once_each_time() {
        let mut bed = Bed::new(1);
        for _ in 0..600 {
            let next = bed.ended(0, SECOND);
            assert!(next.master == 0 && next.wait <= AT_ONCE, "{next:?}");
        }
    }

    #[test]
    fn a_master_that_ends_links_as_soon_as_they_have_joined_is_dialled_ever_more_rarely() {
        let mut bed = Bed::new(1);
        let waits: Vec<Duration> = (0..100)
            .map(|_| bed.ended(0, Duration::from_millis(1)).wait)
            .collect();
        assert!(waits[..10].iter().all(|wait| *wait <= AT_ONCE), "{waits:?}");
        let all: Duration = waits.iter().sum();
        assert!(all > 100 * SECOND, "a hundred links in {all:?}");
        assert!(waits.iter().all(|wait| *wait <= LONGEST_REST_WHILE_KEPT));
        bed.ended(0, 5 * SECOND);
        assert!(
            bed.ended(0, Duration::ZERO).wait <= AT_ONCE,
            "a link that lives earns it again"
        );
    }

    #[test]
    fn masters_that_do_not_rest_are_tried_at_once_in_the_order_of_the_list() {
        let mut bed = Bed::new(3);
        for master in [1, 2] {
            bed.failed(master, SECOND);
            let next = bed.next(master);
            assert!(
                next.master == (master + 1) % 3 && next.wait <= AT_ONCE,
                "{next:?}"
            );
        }
    }

    #[test]
    fn when_all_rest_the_one_whose_rest_ends_first_is_next_and_not_before_its_end() {
        let mut rests = Bed::new(4);
        for _ in 0..200 {
            let drawn: Vec<Duration> = (0..4).map(|master| rests.failed(master, SECOND)).collect();
            let shortest = drawn.iter().min().unwrap();
            for from in 0..4 {
                let next = rests.next(from);
                assert_eq!((next.wait, drawn[next.master]), (*shortest, *shortest));
            }
        }
    }

    #[test]
    fn a_master_that_rests_is_passed_over_until_its_rest_is_over() {
        let mut bed = Bed::new(3);
        let rest = bed.failed(1, SECOND);
        assert_eq!(bed.next(0).master, 2);
        bed.now += rest;
        assert_eq!(bed.next(0).master, 1);
    }

    #[test]
    fn rests_grow_with_the_time_that_the_master_itself_has_failed_up_to_the_longest() {
        let mut bed = Bed::new(2);
        let (mut tries, mut longest) = (0, Duration::ZERO);
        let begun = bed.now;
        while bed.now < begun + 1000 * SECOND {
            let failing = bed.now - begun;
            let rest = bed.failed(0, failing);
            let most = if failing < KEPT {
                LONGEST_REST_WHILE_KEPT
            } else {
                LONGEST_REST
            };
            assert!(
                rest <= most.min((failing / 4).max(FIRST_REST)),
                "{rest:?} after {failing:?}"
            );
            longest = longest.max(rest);
            bed.now += rest;
            tries += 1;
        }
        assert!(
            longest > 20 * SECOND && tries < 300,
            "{tries} attempts, the longest rest was {longest:?}"
        );
        assert!(
            bed.failed(1, 1000 * SECOND) <= FIRST_REST,
            "another master has a rest of its own"
        );
    }

    #[test]
    fn a_failure_long_after_the_one_before_begins_anew() {
        let mut bed = Bed::new(1);
        bed.failed(0, SECOND);
        bed.now += 2 * FORGOTTEN;
        assert!(bed.failed(0, SECOND) <= FIRST_REST);
    }

    #[test]
    fn a_link_that_joined_ends_the_rest_of_its_master_and_what_fails_then_begins_anew() {
        let mut bed = Bed::new(1);
        for _ in 0..100 {
            bed.failed(0, 50 * SECOND);
            bed.now += SECOND;
        }
        bed.failed(0, 50 * SECOND);
        bed.pace.joined(0);
        assert!(!bed.pace.rests(bed.now, 0) && bed.failed(0, SECOND) <= FIRST_REST);
    }

    #[test]
    fn a_link_that_lived_ends_the_rests_of_its_master_and_of_no_other() {
        let mut bed = Bed::new(2);
        for _ in 0..40 {
            bed.failed(0, 50 * SECOND);
            bed.failed(1, 50 * SECOND);
            bed.now += SECOND;
        }
        bed.now += LONGEST_REST_WHILE_KEPT;
        assert_eq!(bed.ended(1, 60 * SECOND).master, 1);
        assert!(bed.failed(1, SECOND) <= FIRST_REST, "begins anew");
        let of_the_other = (0..50).map(|_| bed.failed(0, 50 * SECOND)).max().unwrap();
        assert!(of_the_other > FIRST_REST, "{of_the_other:?}");
    }

    #[test]
    fn a_master_that_failed_while_its_link_lived_gives_way_to_one_that_is_ready() {
        let mut bed = Bed::new(2);
        bed.pace.failed(bed.now, 0, false, SECOND);
        assert_eq!(bed.ended(0, 60 * SECOND).master, 1);
        bed.pace.failed(bed.now, 1, false, SECOND);
        let next = bed.ended(0, 60 * SECOND);
        assert!(
            next.master == 0 && next.wait <= AT_ONCE,
            "none is ready: {next:?}"
        );
    }

    #[test]
    fn two_masters_that_end_links_as_soon_as_they_have_joined_are_not_stormed_in_turns() {
        let mut bed = Bed::new(2);
        let begun = bed.now;
        let mut next = Next {
            master: 0,
            wait: Duration::ZERO,
        };
        for _ in 0..100 {
            next = bed.ended(next.master, Duration::ZERO);
            bed.now += next.wait;
        }
        let all = bed.now - begun;
        assert!(all > 50 * SECOND, "a hundred links in {all:?}");
    }

    #[test]
    fn a_master_that_is_away_for_half_a_second_is_found_again_at_once() {
        let mut bed = Bed::new(1);
        bed.failed(0, Duration::ZERO);
        bed.now += SECOND / 2;
        let rests: Vec<Duration> = (0..100).map(|_| bed.failed(0, SECOND / 2)).collect();
        assert!(rests.iter().all(|rest| *rest <= FIRST_REST), "{rests:?}");
    }

    #[test]
    fn what_only_a_change_can_mend_rests_longer_and_the_others_do_not() {
        let mut bed = Bed::new(2);
        assert!(bed.pace.failed(bed.now, 0, false, SECOND) >= MENDING_REST);
        bed.failed(1, SECOND);
        let next = bed.next(1);
        assert!(
            next.master == 1 && next.wait < MENDING_REST,
            "the other may come back by itself: {next:?}"
        );
    }

    #[test]
    fn a_master_that_is_taken_is_never_the_next() {
        let mut bed = Bed::new(3);
        assert_eq!(
            bed.pace
                .next(bed.now, 0, &|master| master == 1)
                .unwrap()
                .master,
            2
        );
        bed.failed(2, SECOND);
        let next = bed.pace.next(bed.now, 0, &|master| master != 2).unwrap();
        assert!(next.master == 2 && !next.wait.is_zero(), "{next:?}");
        assert_eq!(bed.pace.next(bed.now, 0, &|_| true), None);
    }
}
