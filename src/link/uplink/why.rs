//! What is said of links in the log and to the role: why one is made, and why an attempt came to nothing.

use std::{fmt, time::Duration};

use tracing::{debug, error, warn};

use super::attempt::Outcome;
use crate::frame::Notice;

/// Why a link is made.
#[derive(Debug, Clone)]
pub(super) enum Why {
    /// There is none.
    Linkless,
    /// The master is about to end the present one.
    GoAway(Notice),
    /// The present one is old.
    Rotation,
    /// The role asks for another master.
    MoveOn,
}

impl fmt::Display for Why {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Linkless => formatter.write_str("there was none"),
            Why::GoAway(notice) => write!(formatter, "the master asked for it ({notice})"),
            Why::Rotation => formatter.write_str("the one before is old"),
            Why::MoveOn => formatter.write_str("another master is wanted"),
        }
    }
}

/// Why an attempt came to nothing.
pub(super) fn told(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Dial(error) => Some(error.to_string()),
        Outcome::Join(error) => Some(error.to_string()),
        Outcome::Link { .. } | Outcome::Cancelled => None,
    }
}

/// Says which master failed, why, and for how long it rests.
pub(super) fn log_failure(master: &str, outcome: &Outcome, rests: Duration) {
    let rests_ms = rests.as_millis() as u64;
    match outcome {
        Outcome::Dial(error) => warn!(%master, rests_ms, "cannot reach the master: {error}"),
        Outcome::Join(error) if error.is_retryable() => {
            warn!(%master, rests_ms, "cannot join the master: {error}")
        }
        Outcome::Join(error) => error!(%master, rests_ms, "cannot join the master: {error}"),
        Outcome::Link { why, .. } => warn!(%master, rests_ms, "the link was lost: {why}"),
        Outcome::Cancelled => debug!(%master, "the link was closed"),
    }
}
