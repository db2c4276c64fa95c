//! Doubts a clock that is far ahead of the last maintenance of the database, and confirms it when
//! it has run for hours. Pure: the times are arguments.

use std::time::{Duration, Instant};

/// How long a clock runs without a jump until it is confirmed. A machine without a battery for its
/// clock, or with a wrong one, corrects it earlier from the network.
pub(super) const CONFIRMATION_TIME: Duration = Duration::from_secs(6 * 3_600);

/// The most that a clock may differ from the passed time, in seconds. A larger difference is a jump.
const MAX_JUMP: u64 = 3_600;

/// A wall clock, compared with the last maintenance of the database.
#[derive(Debug, Default)]
pub(super) struct ClockCheck(Option<Doubt>);

/// A clock that is far ahead.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    /// The time of the last maintenance, in Unix seconds.
    last: i64,
    /// The time by the clock at the start of the doubt, in Unix seconds.
    wall: i64,
    /// The start of the doubt.
    since: Instant,
}

impl Doubt {
    /// Whether the clock has run without a jump.
    fn is_steady(&self, wall: i64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since).as_secs();
        let expected = self
            .wall
            .saturating_add(i64::try_from(passed).unwrap_or(i64::MAX));
        expected.abs_diff(wall) <= MAX_JUMP
    }
}

impl ClockCheck {
    /// Records that the clock is far ahead of the last maintenance. Returns whether that is news.
    pub(super) fn doubt(&mut self, last: i64, wall: i64, now: Instant) -> bool {
        let is_known = self.0.is_some_and(|doubt| doubt.is_steady(wall, now));
        // Another master that maintains the database at another time contradicts the clock.
        let is_same = is_known && self.0.is_some_and(|doubt| doubt.last == last);
        if !is_same {
            let since = now;
            self.0 = Some(Doubt { last, wall, since });
        }
        !is_known
    }

    /// Returns the time of the last maintenance, if the clock is confirmed although it is far ahead
    /// of it.
    pub(super) fn confirmed(&self, wall: i64, now: Instant) -> Option<i64> {
        let doubt = self.0.filter(|doubt| doubt.is_steady(wall, now))?;
        let lasts = now.saturating_duration_since(doubt.since);
        (lasts >= CONFIRMATION_TIME).then_some(doubt.last)
    }

    /// Ends the doubt. Returns whether there was one.
    pub(super) fn clear(&mut self) -> bool {
        self.0.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAST: i64 = 1_800_000_000;
    const FAR: i64 = LAST + 10 * 365 * 86_400;
    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn a_clock_is_confirmed_when_it_has_run_for_hours() {
        let (mut check, start) = (ClockCheck::default(), Instant::now());
        assert_eq!(check.confirmed(FAR, start), None);
        assert!(check.doubt(LAST, FAR, start));
        for hours in 0..6_u32 {
            let (wall, now) = (FAR + i64::from(hours) * 3_600, start + hours * HOUR);
            assert_eq!(check.confirmed(wall, now), None, "{hours}");
            assert!(!check.doubt(LAST, wall, now), "it is reported once");
        }
        let (wall, now) = (FAR + 6 * 3_600, start + CONFIRMATION_TIME);
        assert_eq!(check.confirmed(wall, now), Some(LAST));
        assert!(check.clear());
        assert_eq!(check.confirmed(wall, now), None);
        assert!(!check.clear());
    }

    #[test]
    fn a_jump_begins_the_time_again() {
        let (mut check, start) = (ClockCheck::default(), Instant::now());
        check.doubt(LAST, FAR, start);
        let later = start + CONFIRMATION_TIME;
        assert_eq!(check.confirmed(FAR, later), None, "it has stood still");
        assert!(check.doubt(LAST, FAR, later), "and is reported again");
        let end = later + CONFIRMATION_TIME;
        assert_eq!(check.confirmed(FAR + 6 * 3_600, end), Some(LAST));
    }

    #[test]
    fn another_master_with_another_time_begins_the_time_again() {
        let (mut check, start) = (ClockCheck::default(), Instant::now());
        check.doubt(LAST, FAR, start);
        let almost = start + 5 * HOUR;
        assert!(!check.doubt(LAST + 5 * 3_600, FAR + 5 * 3_600, almost));
        let (wall, now) = (FAR + 6 * 3_600, start + CONFIRMATION_TIME);
        assert_eq!(check.confirmed(wall, now), None);
    }
}
