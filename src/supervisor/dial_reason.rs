//! Describes attempts in the log and to the role: why a link is dialled, and why an attempt failed.

use std::{fmt, time::Duration};

use tracing::debug;

use super::attempt::AttemptOutcome;
use report_proto::frame::Notice;

/// The reason to dial a link.
#[derive(Debug, Clone)]
pub(super) enum DialReason {
    /// No link is up.
    NoLink,
    /// The master is about to end the current link.
    GoAway(Notice),
    /// The current link has reached its maximum age.
    Rotation,
    /// The role requested another master.
    SwitchMaster,
}

impl fmt::Display for DialReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DialReason::NoLink => formatter.write_str("no link was up"),
            DialReason::GoAway(notice) => write!(formatter, "requested by the master ({notice})"),
            DialReason::Rotation => {
                formatter.write_str("the previous link was due for replacement")
            }
            DialReason::SwitchMaster => formatter.write_str("another master was requested"),
        }
    }
}

/// Returns the error of a failed attempt, for the role.
pub(super) fn failure_message(outcome: &AttemptOutcome) -> Option<String> {
    match outcome {
        AttemptOutcome::Dial(error) => Some(error.to_string()),
        AttemptOutcome::Join(error) => Some(error.to_string()),
        AttemptOutcome::Link { .. } | AttemptOutcome::Cancelled => None,
    }
}

/// Logs which master failed, why, and for how long it rests.
pub(super) fn log_failure(
    master: &str,
    outcome: &AttemptOutcome,
    rest: Duration,
    is_additional: bool,
) {
    let rests_ms = rest.as_millis() as u64;
    let retry_after_s = outcome.retry_after().map(|wait| wait.as_secs());
    match outcome {
        AttemptOutcome::Dial(error) => {
            let code = error.diagnosis().code;
            log_link!(is_additional, warn, %master, rests_ms, retry_after_s, %code, "cannot reach the master: {error}");
        }
        AttemptOutcome::Join(error) if error.is_retryable() => {
            let code = error.code();
            log_link!(is_additional, warn, %master, rests_ms, retry_after_s, %code, "cannot join the master: {error}");
        }
        AttemptOutcome::Join(error) => {
            let code = error.code();
            log_link!(is_additional, error, %master, rests_ms, %code, "cannot join the master: {error}");
        }
        AttemptOutcome::Link { reason, .. } => {
            log_link!(is_additional, warn, %master, rests_ms, retry_after_s, "the link was lost: {reason}");
        }
        AttemptOutcome::Cancelled => debug!(%master, "the link was closed"),
    }
}
