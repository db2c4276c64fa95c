//! Parallel attempts at several masters: the first attempt that joins wins. Independent of masters
//! and links.

use std::sync::atomic::{AtomicBool, Ordering};

/// The delay between two attempts of a race if neither fails nor joins before. It is the delay
/// between the addresses of one name: a path of ordinary length answers within it.
pub(super) use crate::net::connect::STAGGER;

/// The shared state of the attempts of a race. A single attempt has its own race, and wins it.
#[derive(Debug, Default)]
pub(super) struct Race {
    early_frames_taken: AtomicBool,
    won: AtomicBool,
}

/// The permit to send the role's frames with HELLO. Dropping it returns it to the race.
pub(super) struct EarlyFramesPermit<'r>(&'r Race);

impl Race {
    /// Takes the permit if it is free. One attempt at a time requests the role's tunnels before it
    /// has joined, which saves a round trip. Several would establish the same tunnel more than
    /// once.
    pub(super) fn early_frames(&self) -> Option<EarlyFramesPermit<'_>> {
        (!self.early_frames_taken.swap(true, Ordering::AcqRel)).then(|| EarlyFramesPermit(self))
    }

    /// Returns whether the caller, which has joined, is the first of all attempts.
    pub(super) fn win(&self) -> bool {
        !self.won.swap(true, Ordering::AcqRel)
    }
}

impl Drop for EarlyFramesPermit<'_> {
    fn drop(&mut self) {
        self.0.early_frames_taken.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_attempt_wins_and_one_at_a_time_sends_early_frames() {
        let race = Race::default();
        let permit = race.early_frames();
        assert!(permit.is_some() && race.early_frames().is_none() && race.early_frames().is_none());
        drop(permit);
        assert!(
            race.early_frames().is_some(),
            "the permit is free after the first attempt failed"
        );
        assert!(race.win() && !race.win());
    }
}
