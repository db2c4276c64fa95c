//! The grace period of the process, which a reload may change. Every part that drains reads it when
//! its drain begins.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// How long a drain may take. Clones share the value.
#[derive(Clone)]
pub struct Grace(Arc<AtomicU64>);

impl Grace {
    /// Returns the present value.
    #[must_use]
    pub fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Relaxed))
    }

    /// Changes the value for drains that begin later.
    pub fn set(&self, period: Duration) {
        self.0.store(milliseconds(period), Relaxed);
    }
}

impl From<Duration> for Grace {
    fn from(period: Duration) -> Self {
        Grace(Arc::new(AtomicU64::new(milliseconds(period))))
    }
}

impl fmt::Debug for Grace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Grace").field(&self.get()).finish()
    }
}

fn milliseconds(period: Duration) -> u64 {
    u64::try_from(period.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_see_a_later_change() {
        let grace = Grace::from(Duration::from_secs(5));
        let clone = grace.clone();
        grace.set(Duration::from_millis(1_500));
        assert_eq!(clone.get(), Duration::from_millis(1_500));
        grace.set(Duration::MAX);
        assert_eq!(clone.get(), Duration::from_millis(u64::MAX));
    }
}
