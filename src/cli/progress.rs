//! The progress line of a command.

use std::io::{self, IsTerminal, Write as _};

use crate::telemetry::escape_text;

/// A line on standard error that each update overwrites. Only terminals show it.
#[derive(Clone, Copy)]
pub(super) struct ProgressLine {
    is_seen: bool,
}

impl ProgressLine {
    /// Returns to the start of the line and clears it.
    const START: &str = "\r\x1b[K";

    pub(super) fn new() -> Self {
        ProgressLine {
            is_seen: io::stderr().is_terminal(),
        }
    }

    pub(super) fn show(self, text: &str) {
        if self.is_seen {
            // Ignore a closed standard error.
            let _ = write!(io::stderr(), "{}{}", Self::START, escape_text(text));
        }
    }

    pub(super) fn clear(self) {
        self.show("");
    }
}
