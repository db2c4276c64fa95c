//! The life cycle of the roles: start, end, recovery, takeover, the default configuration file, and
//! logs as JSON.

mod endings;
mod json_logs;
mod process;
mod recovery;
mod shared_port_keys;

use std::time::Duration;

/// A limit for events that must happen immediately. It is far below the grace period.
const IMMEDIATE: Duration = Duration::from_secs(5);
