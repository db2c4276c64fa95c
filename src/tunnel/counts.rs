//! What became of a process's tunnels and their attachments, in numbers. Only ever counted up, and read at leisure.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One number.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    pub(super) fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    /// The number now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The counts of a process.
#[derive(Debug, Default)]
pub struct Counts {
    /// Attachments that ended while their tunnel lived.
    pub lost: Count,
    /// Tunnels that went on after that.
    pub resumed: Count,
    /// Bytes that were sent again for it.
    pub again_bytes: Count,
    /// Tunnels that moved to another attachment without losing one.
    pub moved: Count,
    /// Tunnels given up because nothing carried them for too long.
    pub expired: Count,
}
