//! Detects an interactive stream beside bulk streams, so that its answers do not wait in the queue
//! that bulk data creates.

use std::time::{Duration, Instant};

/// A stream counts as interactive for this time after its last small frame, because a user who
/// types also pauses.
const ACTIVE_FOR: Duration = Duration::from_secs(1);

/// The last stream that received a small frame without moving much data, and the time of it.
#[derive(Debug, Default)]
pub(super) struct InteractiveDetector(Option<(u64, Instant)>);

impl InteractiveDetector {
    /// Records a small frame of `stream`, which has moved little data or has just begun.
    pub(super) fn on_activity(&mut self, now: Instant, stream: u64) {
        self.0 = Some((stream, now));
    }

    /// Forgets `stream` because it has moved much data or has ended.
    pub(super) fn clear(&mut self, stream: u64) {
        self.0.take_if(|(last, _)| *last == stream);
    }

    /// Returns whether an interactive stream was active recently.
    pub(super) fn is_active(&self, now: Instant) -> bool {
        self.0
            .is_some_and(|(_, at)| now.saturating_duration_since(at) < ACTIVE_FOR)
    }
}
