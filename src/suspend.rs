//! Time in suspend. On most systems `Instant` does not count it, but peers, proxies and NAT tables
//! do.

use std::time::{Duration, Instant};

/// The interval at which an idle task compares the clocks. A timer does not fire early because the
/// machine was suspended.
pub const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Returns the total time in suspend, counted from an arbitrary moment. Only differences are
/// meaningful.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[must_use]
pub fn suspended() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    let awake = read(ClockId::Monotonic);
    read(ClockId::Boottime).saturating_sub(awake)
}

/// Returns the total time in suspend, counted from an arbitrary moment. Only differences are
/// meaningful. A change of the wall clock can make one too large.
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

/// A moment in time. The distance between two moments includes the time in suspend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The monotonic clock.
    pub awake: Instant,
    /// The value of [`suspended`] at this moment.
    pub suspended: Duration,
}

impl Moment {
    /// Returns the current moment.
    #[must_use]
    pub fn now() -> Self {
        Moment {
            awake: Instant::now(),
            suspended: suspended(),
        }
    }

    /// Returns the time from `earlier` to this moment, including suspend.
    #[must_use]
    pub fn since(self, earlier: Moment) -> Duration {
        let suspended = self.suspended.saturating_sub(earlier.suspended);
        self.awake
            .saturating_duration_since(earlier.awake)
            .saturating_add(suspended)
    }

    /// Returns the time since this moment, including suspend.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Moment::now().since(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_of_moments_includes_suspend() {
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
    fn awake_machine_is_not_suspended() {
        let before = suspended();
        std::thread::park_timeout(Duration::from_millis(20));
        assert!(suspended().abs_diff(before) < Duration::from_secs(1));
    }
}
