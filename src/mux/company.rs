//! Whether a stream that moves little is beside those that move much: somebody who types, whose answer is not to wait behind what they move.

use std::time::{Duration, Instant};

/// A stream that moves little is company for so long after it was last heard of: somebody who types pauses.
const STAYS: Duration = Duration::from_secs(1);

/// The last stream for which something came though it moves little, and when.
#[derive(Debug, Default)]
pub struct Company(Option<(u64, Instant)>);

impl Company {
    /// Something came for `stream`, which moves little, or has only begun.
    pub fn comes(&mut self, now: Instant, stream: u64) {
        self.0 = Some((stream, now));
    }

    /// Much came for `stream`, or its end: it is no company, and waits for nothing.
    pub fn leaves(&mut self, stream: u64) {
        self.0.take_if(|(last, _)| *last == stream);
    }

    /// Whether one has been heard of lately, and has not left.
    pub fn is_there(&self, now: Instant) -> bool {
        self.0
            .is_some_and(|(_, at)| now.saturating_duration_since(at) < STAYS)
    }
}
