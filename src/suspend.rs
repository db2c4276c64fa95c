//! Time in suspend. `Instant` does not count it on most systems, but peers, proxies and NAT tables do.

use std::time::{Duration, Instant};

/// How often a task that only waits compares the clocks: timers do not fire early because the machine slept.
pub const LOOK: Duration = Duration::from_secs(2);

/// How long the machine has been suspended in total, counted from an arbitrary moment. Only differences have a meaning.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[must_use]
pub fn suspended() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    let awake = read(ClockId::Monotonic);
    read(ClockId::Boottime).saturating_sub(awake)
}

/// How long the machine has been suspended in total, counted from an arbitrary moment. Only differences have a meaning; the wall clock can be
/// set, so that one may be too large.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[must_use]
pub fn suspended() -> Duration {
    use std::{sync::OnceLock, time::SystemTime};
    static START: OnceLock<(SystemTime, Instant)> = OnceLock::new();
    let (wall, awake) = *START.get_or_init(|| (SystemTime::now(), Instant::now()));
    wall.elapsed()
        .unwrap_or_default()
        .saturating_sub(awake.elapsed())
}

/// A moment whose distance to a later one includes the time that the machine was suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The monotonic clock.
    pub awake: Instant,
    /// [`suspended`] at that time.
    pub suspended: Duration,
}

impl Moment {
    /// The present.
    #[must_use]
    pub fn now() -> Self {
        Moment {
            awake: Instant::now(),
            suspended: suspended(),
        }
    }

    /// The time from `earlier` to this moment, suspend included.
    #[must_use]
    pub fn since(self, earlier: Moment) -> Duration {
        let suspended = self.suspended.saturating_sub(earlier.suspended);
        self.awake
            .saturating_duration_since(earlier.awake)
            .saturating_add(suspended)
    }

    /// The time from this moment to the present, suspend included.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Moment::now().since(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_between_two_moments_includes_suspend() {
        let start = Moment {
            awake: Instant::now(),
            suspended: Duration::from_secs(7),
        };
        let awake = start.awake + Duration::from_secs(1);
        assert_eq!(
            Moment { awake, ..start }.since(start),
            Duration::from_secs(1)
        );
        assert_eq!(
            Moment {
                awake,
                suspended: Duration::from_secs(207)
            }
            .since(start),
            Duration::from_secs(201)
        );
        assert_eq!(
            Moment {
                awake,
                suspended: Duration::ZERO
            }
            .since(start),
            Duration::from_secs(1),
            "a clock that was set back"
        );
    }

    #[test]
    fn a_machine_that_stays_awake_is_not_suspended() {
        let before = suspended();
        std::thread::park_timeout(Duration::from_millis(20));
        assert!(suspended().abs_diff(before) < Duration::from_secs(1));
    }
}
