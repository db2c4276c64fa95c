//! The wall clock of a master's policies.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The wall clock of a master. Tests use another one.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Returns the time since 1970.
    fn now(&self) -> Duration;

    /// Returns the time in whole Unix seconds, as policies count it.
    fn seconds(&self) -> i64 {
        i64::try_from(self.now().as_secs()).unwrap_or(i64::MAX)
    }
}

/// The clock of the system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.unwrap_or_default()
    }
}
