//! The detector of interactive streams.

use std::time::{Duration, Instant};

/// A stream counts as interactive for this time after its last small frame, because a user who
/// types also pauses.
const ACTIVE_FOR: Duration = Duration::from_secs(1);

/// Detects an interactive stream beside bulk streams, so that its answers do not wait in the queue
/// that bulk data creates. It holds the last stream that received a small frame without moving much
/// data, and the time of that frame.
#[derive(Debug, Default)]
pub(in crate::mux) struct InteractiveDetector(Option<(u64, Instant)>);

impl InteractiveDetector {
    /// Records a small frame of `stream`, which has moved little data or has just begun.
    pub(in crate::mux) fn on_activity(&mut self, now: Instant, stream: u64) {
        self.0 = Some((stream, now));
    }

    /// Forgets `stream` because it has moved much data or has ended.
    pub(in crate::mux) fn clear(&mut self, stream: u64) {
        self.0.take_if(|(last, _)| *last == stream);
    }

    /// Returns whether an interactive stream was active recently.
    pub(in crate::mux) fn is_active(&self, now: Instant) -> bool {
        self.0
            .is_some_and(|(_, at)| now.saturating_duration_since(at) < ACTIVE_FOR)
    }
}
