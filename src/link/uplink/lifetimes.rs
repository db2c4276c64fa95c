//! How long the path to a master lets links live, learned from how they ended. Proxies and load balancers cut connections at an age, or after a
//! time without traffic: what happened twice is expected to happen again, and forestalled.
//!
//! Knows no clock: durations go in and come out.

use std::{fmt, time::Duration};

/// Younger links are not replaced in time: there would be more of replacing than of links.
const LEAST_AGE: Duration = Duration::from_secs(20);

/// A pause shorter than this before a cut is chance.
const LEAST_IDLE: Duration = Duration::from_secs(2);

/// Two durations are about the same when they differ by no more than this part of the longer one.
const SAME_WITHIN: f64 = 0.1;

/// A link is replaced at this part of the age at which it would be cut: time for some failed attempts.
const REPLACED_AT: f64 = 0.85;

/// Or up to this part of that earlier, so that many roles which were cut together do not come together each time.
const JITTER: f64 = 0.1;

/// One link in so many is let live for twice as long, to see whether it is still cut.
const PROBE_EACH: u32 = 8;

/// No heartbeat is learned that is more frequent.
const LEAST_HEARTBEAT: Duration = Duration::from_secs(1);

/// What is known of the path to one master.
#[derive(Debug, Default)]
pub(super) struct Lifetimes {
    last: Option<Cut>,
    limit: Option<Limit>,
    heartbeat: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Cut {
    age: Duration,
    idle: Duration,
}

/// Links are cut at this age.
#[derive(Debug)]
struct Limit {
    age: Duration,
    /// Links since it is known.
    links: u32,
}

/// What an end of a link has taught, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lesson {
    /// Links are cut at this age.
    Age(Duration),
    /// Links are cut when nothing has passed for so long.
    Idle(Duration),
    /// Links are not cut at the age that was learned.
    NoLimit,
}

impl fmt::Display for Lesson {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lesson::Age(age) => {
                write!(
                    formatter,
                    "the path cuts links after {} s: they are replaced before that",
                    age.as_secs_f32()
                )
            }
            Lesson::Idle(idle) => {
                write!(
                    formatter,
                    "the path cuts links that are idle for {} s: the heartbeat is faster now",
                    idle.as_secs_f32()
                )
            }
            Lesson::NoLimit => {
                formatter.write_str("the path does not cut links at a certain age any more")
            }
        }
    }
}

impl Lifetimes {
    /// A link begins: the age at which to replace it. `drawn` is a random number from 0 to 1.
    pub(super) fn replace_after(&mut self, drawn: f64) -> Option<Duration> {
        let limit = self.limit.as_mut()?;
        limit.links = limit.links.wrapping_add(1);
        let doubled = if limit.links.is_multiple_of(PROBE_EACH) {
            2.0
        } else {
            1.0
        };
        Some(
            limit
                .age
                .mul_f64(doubled * REPLACED_AT * (1.0 - JITTER * drawn)),
        )
    }

    /// The heartbeat interval that the path demands.
    pub(super) fn heartbeat(&self) -> Option<Duration> {
        self.heartbeat
    }

    /// The path has cut a link of this age, when nothing had been sent or received for `idle`.
    pub(super) fn cut(&mut self, age: Duration, idle: Duration) -> Option<Lesson> {
        let forgotten = self.lived(age);
        let last = self.last.replace(Cut { age, idle })?;
        let fresh_idle = self.heartbeat.is_none_or(|heartbeat| idle > heartbeat);
        if fresh_idle && idle.min(last.idle) >= LEAST_IDLE && about_the_same(idle, last.idle) {
            let idle = idle.min(last.idle);
            self.heartbeat = Some((idle / 2).max(LEAST_HEARTBEAT));
            return Some(Lesson::Idle(idle));
        }
        if age.min(last.age) < LEAST_AGE || !about_the_same(age, last.age) {
            return forgotten;
        }
        // It was the age, then, whatever the traffic.
        self.heartbeat = None;
        let age = age.min(last.age);
        let known = self
            .limit
            .as_ref()
            .is_some_and(|limit| about_the_same(limit.age, age));
        self.limit = Some(Limit { age, links: 0 });
        (!known).then_some(Lesson::Age(age))
    }

    /// A link of this age has ended otherwise, or was replaced.
    pub(super) fn lived(&mut self, age: Duration) -> Option<Lesson> {
        self.limit
            .take_if(|limit| age > limit.age && !about_the_same(age, limit.age))
            .map(|_| Lesson::NoLimit)
    }
}

fn about_the_same(one: Duration, other: Duration) -> bool {
    one.abs_diff(other) <= one.max(other).mul_f64(SAME_WITHIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn links_that_are_cut_at_the_same_age_twice_are_replaced_before_it() {
        let mut path = Lifetimes::default();
        assert_eq!(path.cut(seconds(100.0), seconds(0.5)), None);
        assert_eq!(path.replace_after(0.0), None, "once is chance");
        assert_eq!(
            path.cut(seconds(98.0), seconds(1.0)),
            Some(Lesson::Age(seconds(98.0)))
        );
        assert_eq!(path.replace_after(0.0), Some(seconds(98.0 * 0.85)));
        let early = path.replace_after(1.0).unwrap();
        assert!(early > seconds(70.0) && early < seconds(80.0), "{early:?}");
    }

    #[test]
    fn links_that_are_cut_at_different_ages_or_very_young_teach_nothing() {
        let mut path = Lifetimes::default();
        for age in [100.0, 50.0, 70.0, 140.0, 19.0, 19.0, 1.0, 1.0] {
            assert_eq!(path.cut(seconds(age), seconds(0.0)), None, "{age} s");
        }
        assert_eq!(path.replace_after(0.5), None);
    }

    #[test]
    fn links_that_are_cut_after_the_same_pause_twice_get_a_heartbeat_of_half_of_it() {
        let mut path = Lifetimes::default();
        assert_eq!(path.cut(seconds(300.0), seconds(10.0)), None);
        assert_eq!(
            path.cut(seconds(80.0), seconds(10.4)),
            Some(Lesson::Idle(seconds(10.0)))
        );
        assert_eq!(
            (path.heartbeat(), path.replace_after(0.5)),
            (Some(seconds(5.0)), None)
        );
    }

    #[test]
    fn no_pause_makes_the_heartbeat_faster_than_one_second() {
        let mut path = Lifetimes::default();
        path.cut(seconds(9.0), seconds(1.9));
        path.cut(seconds(5.0), seconds(1.9));
        assert_eq!(path.heartbeat(), None, "such a short one is chance");
        path.cut(seconds(9.0), seconds(2.0));
        path.cut(seconds(5.0), seconds(2.0));
        assert_eq!(path.heartbeat(), Some(seconds(1.0)));
    }

    #[test]
    fn a_path_that_cuts_quiet_links_at_an_age_is_seen_through_at_the_third_cut() {
        let mut path = Lifetimes::default();
        path.cut(seconds(112.0), seconds(12.0));
        assert_eq!(
            path.cut(seconds(112.0), seconds(12.0)),
            Some(Lesson::Idle(seconds(12.0))),
            "it looks like that"
        );
        assert_eq!(
            path.cut(seconds(112.0), seconds(4.0)),
            Some(Lesson::Age(seconds(112.0)))
        );
        assert_eq!(path.heartbeat(), None);
    }

    #[test]
    fn one_link_in_eight_is_let_live_and_the_limit_is_forgotten_when_it_does() {
        let mut path = Lifetimes::default();
        path.cut(seconds(100.0), seconds(0.0));
        path.cut(seconds(100.0), seconds(0.0));
        let ages: Vec<_> = (0..8).map(|_| path.replace_after(0.0).unwrap()).collect();
        assert!(
            ages[..7].iter().all(|age| *age == seconds(85.0)),
            "{ages:?}"
        );
        assert_eq!(ages[7], seconds(170.0));
        assert_eq!(
            path.cut(seconds(101.0), seconds(0.0)),
            None,
            "still so, and no news"
        );
        assert_eq!(path.lived(seconds(85.0)), None);
        assert_eq!(path.replace_after(0.0), Some(seconds(85.0)));
        assert_eq!(path.lived(seconds(170.0)), Some(Lesson::NoLimit));
        assert_eq!(path.replace_after(0.0), None);
    }

    #[test]
    fn a_shorter_limit_takes_the_place_of_the_one_before() {
        let mut path = Lifetimes::default();
        path.cut(seconds(100.0), seconds(0.0));
        path.cut(seconds(100.0), seconds(0.0));
        path.cut(seconds(60.0), seconds(0.0));
        assert_eq!(
            path.cut(seconds(60.0), seconds(0.0)),
            Some(Lesson::Age(seconds(60.0)))
        );
        assert_eq!(path.replace_after(0.0), Some(seconds(51.0)));
    }
}
