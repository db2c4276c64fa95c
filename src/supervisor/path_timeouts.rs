//! Learns the age and idle limits of the path to a master from how its links ended. Proxies and
//! load balancers cut connections at an age, or after a time without traffic. A limit that was
//! observed twice is expected again and avoided.
//!
//! Pure: durations go in and come out, and there is no clock.

use std::{fmt, time::Duration};

/// The minimum age limit to learn. Below it, replacing links in advance would cost more than the
/// cuts.
const MIN_AGE: Duration = Duration::from_secs(20);

/// The minimum idle limit to learn. A shorter pause before a cut is chance.
const MIN_IDLE: Duration = Duration::from_secs(2);

/// Two durations count as equal if they differ by at most this part of the longer one.
const TOLERANCE: f64 = 0.1;

/// The part of the age limit at which a link is replaced. The rest leaves time for some failed
/// attempts.
const REPLACE_AT: f64 = 0.85;

/// Replaces a link earlier by up to this part of that age, so that many roles that were cut
/// together do not return together each time.
const JITTER: f64 = 0.1;

/// One link in this many may live twice as long, to probe whether the path still has the limit.
const PROBE_EVERY: u32 = 8;

/// The minimum keep-alive interval to learn.
const MIN_KEEP_ALIVE: Duration = Duration::from_secs(1);

/// The learned limits of the path to one master.
#[derive(Debug, Default)]
pub(super) struct PathTimeouts {
    last_cut: Option<Cut>,
    age_limit: Option<AgeLimit>,
    keep_alive_interval: Option<Duration>,
}

/// The age and idle time of a link when the path cut it.
#[derive(Debug, Clone, Copy)]
struct Cut {
    age: Duration,
    idle: Duration,
}

/// The age at which the path cuts links.
#[derive(Debug)]
struct AgeLimit {
    age: Duration,
    /// The number of links since the limit is known.
    links: u32,
}

/// A change of the learned limits, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathLimit {
    /// The path cuts links at this age.
    Age(Duration),
    /// The path cuts links that are idle for this long.
    Idle(Duration),
    /// The path no longer has the learned age limit.
    NoAgeLimit,
}

impl fmt::Display for PathLimit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathLimit::Age(age) => {
                write!(
                    formatter,
                    "the path cuts links after {} s: links are replaced earlier",
                    age.as_secs_f32()
                )
            }
            PathLimit::Idle(idle) => {
                write!(
                    formatter,
                    "the path cuts links that are idle for {} s: keep-alive interval shortened",
                    idle.as_secs_f32()
                )
            }
            PathLimit::NoAgeLimit => {
                formatter.write_str("the path no longer cuts links at a fixed age")
            }
        }
    }
}

impl PathTimeouts {
    /// Returns the age at which to replace a link that begins now. `drawn` is a random number from
    /// 0 to 1.
    pub(super) fn replace_after(&mut self, drawn: f64) -> Option<Duration> {
        let limit = self.age_limit.as_mut()?;
        limit.links = limit.links.wrapping_add(1);
        let doubled = if limit.links.is_multiple_of(PROBE_EVERY) {
            2.0
        } else {
            1.0
        };
        Some(
            limit
                .age
                .mul_f64(doubled * REPLACE_AT * (1.0 - JITTER * drawn)),
        )
    }

    /// Returns the keep-alive interval that the path requires.
    pub(super) fn keep_alive_interval(&self) -> Option<Duration> {
        self.keep_alive_interval
    }

    /// Records that the path cut a link at this age, after nothing was sent or received for `idle`.
    pub(super) fn on_cut(&mut self, age: Duration, idle: Duration) -> Option<PathLimit> {
        let forgotten = self.on_survived(age);
        let last = self.last_cut.replace(Cut { age, idle })?;
        // A cut within the learned interval does not show a shorter idle limit.
        let is_new_idle = self
            .keep_alive_interval
            .is_none_or(|interval| idle > interval);
        if is_new_idle && idle.min(last.idle) >= MIN_IDLE && about_equal(idle, last.idle) {
            let idle = idle.min(last.idle);
            self.keep_alive_interval = Some((idle / 2).max(MIN_KEEP_ALIVE));
            return Some(PathLimit::Idle(idle));
        }
        if age.min(last.age) < MIN_AGE || !about_equal(age, last.age) {
            return forgotten;
        }
        // The age explains both cuts, so an idle limit that was learned from them was wrong.
        self.keep_alive_interval = None;
        let age = age.min(last.age);
        let is_known = self
            .age_limit
            .as_ref()
            .is_some_and(|limit| about_equal(limit.age, age));
        self.age_limit = Some(AgeLimit { age, links: 0 });
        (!is_known).then_some(PathLimit::Age(age))
    }

    /// Records that a link reached this age without a cut by the path.
    pub(super) fn on_survived(&mut self, age: Duration) -> Option<PathLimit> {
        self.age_limit
            .take_if(|limit| age > limit.age && !about_equal(age, limit.age))
            .map(|_| PathLimit::NoAgeLimit)
    }
}

fn about_equal(one: Duration, other: Duration) -> bool {
    one.abs_diff(other) <= one.max(other).mul_f64(TOLERANCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn two_cuts_at_same_age_teach_age_limit() {
        let mut path = PathTimeouts::default();
        assert_eq!(path.on_cut(seconds(100.0), seconds(0.5)), None);
        assert_eq!(path.replace_after(0.0), None, "once is chance");
        assert_eq!(
            path.on_cut(seconds(98.0), seconds(1.0)),
            Some(PathLimit::Age(seconds(98.0)))
        );
        assert_eq!(path.replace_after(0.0), Some(seconds(98.0 * 0.85)));
        let early = path.replace_after(1.0).unwrap();
        assert!(early > seconds(70.0) && early < seconds(80.0), "{early:?}");
    }

    #[test]
    fn cuts_at_different_or_young_ages_teach_nothing() {
        let mut path = PathTimeouts::default();
        for age in [100.0, 50.0, 70.0, 140.0, 19.0, 19.0, 1.0, 1.0] {
            assert_eq!(path.on_cut(seconds(age), seconds(0.0)), None, "{age} s");
        }
        assert_eq!(path.replace_after(0.5), None);
    }

    #[test]
    fn two_cuts_after_same_pause_halve_keep_alive_interval() {
        let mut path = PathTimeouts::default();
        assert_eq!(path.on_cut(seconds(300.0), seconds(10.0)), None);
        assert_eq!(
            path.on_cut(seconds(80.0), seconds(10.4)),
            Some(PathLimit::Idle(seconds(10.0)))
        );
        assert_eq!(
            (path.keep_alive_interval(), path.replace_after(0.5)),
            (Some(seconds(5.0)), None)
        );
    }

    #[test]
    fn keep_alive_interval_is_at_least_one_second() {
        let mut path = PathTimeouts::default();
        path.on_cut(seconds(9.0), seconds(1.9));
        path.on_cut(seconds(5.0), seconds(1.9));
        assert_eq!(path.keep_alive_interval(), None, "a short pause is chance");
        path.on_cut(seconds(9.0), seconds(2.0));
        path.on_cut(seconds(5.0), seconds(2.0));
        assert_eq!(path.keep_alive_interval(), Some(seconds(1.0)));
    }

    #[test]
    fn third_cut_distinguishes_age_limit_from_idle_limit() {
        let mut path = PathTimeouts::default();
        path.on_cut(seconds(112.0), seconds(12.0));
        assert_eq!(
            path.on_cut(seconds(112.0), seconds(12.0)),
            Some(PathLimit::Idle(seconds(12.0))),
            "the idle time explains both cuts"
        );
        assert_eq!(
            path.on_cut(seconds(112.0), seconds(4.0)),
            Some(PathLimit::Age(seconds(112.0)))
        );
        assert_eq!(path.keep_alive_interval(), None);
    }

    #[test]
    fn one_link_in_eight_probes_limit_and_removes_it_if_it_survives() {
        let mut path = PathTimeouts::default();
        path.on_cut(seconds(100.0), seconds(0.0));
        path.on_cut(seconds(100.0), seconds(0.0));
        let ages: Vec<_> = (0..8).map(|_| path.replace_after(0.0).unwrap()).collect();
        assert!(
            ages[..7].iter().all(|age| *age == seconds(85.0)),
            "{ages:?}"
        );
        assert_eq!(ages[7], seconds(170.0));
        assert_eq!(
            path.on_cut(seconds(101.0), seconds(0.0)),
            None,
            "the limit is unchanged"
        );
        assert_eq!(path.on_survived(seconds(85.0)), None);
        assert_eq!(path.replace_after(0.0), Some(seconds(85.0)));
        assert_eq!(
            path.on_survived(seconds(170.0)),
            Some(PathLimit::NoAgeLimit)
        );
        assert_eq!(path.replace_after(0.0), None);
    }

    #[test]
    fn shorter_limit_replaces_previous_one() {
        let mut path = PathTimeouts::default();
        path.on_cut(seconds(100.0), seconds(0.0));
        path.on_cut(seconds(100.0), seconds(0.0));
        path.on_cut(seconds(60.0), seconds(0.0));
        assert_eq!(
            path.on_cut(seconds(60.0), seconds(0.0)),
            Some(PathLimit::Age(seconds(60.0)))
        );
        assert_eq!(path.replace_after(0.0), Some(seconds(51.0)));
    }
}
