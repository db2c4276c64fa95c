//! What a command is doing, for who looks at it.

use std::io::{self, IsTerminal, Write as _};

use crate::telemetry::shown;

/// A line on standard error that is written over, if a person looks at it.
#[derive(Clone, Copy)]
pub(super) struct ProgressLine {
    is_seen: bool,
}

impl ProgressLine {
    /// Back to the line's start, and the rest of it is cleared.
    const START: &str = "\r\x1b[K";

    pub(super) fn new() -> Self {
        ProgressLine {
            is_seen: io::stderr().is_terminal(),
        }
    }

    pub(super) fn show(self, text: &str) {
        if self.is_seen {
            // When nobody reads it, nobody misses it.
            let _ = write!(io::stderr(), "{}{}", Self::START, shown(text));
        }
    }

    pub(super) fn clear(self) {
        self.show("");
    }
}
