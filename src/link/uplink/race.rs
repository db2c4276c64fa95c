//! Attempts at several masters that run side by side: the first that joins wins. Knows neither masters nor links.

use std::sync::atomic::{AtomicBool, Ordering};

/// The time from one attempt of a race to the next, when neither fails nor joins before: that of the addresses of a name, which a path of
/// ordinary length answers within.
pub(super) use crate::link::connect::STAGGER;

/// What the attempts of a race share. One that runs alone has a race of its own, and wins it.
#[derive(Debug, Default)]
pub(super) struct Race {
    led: AtomicBool,
    won: AtomicBool,
}

/// The right to say with HELLO what the role wants. Given back when it is dropped.
pub(super) struct Lead<'r>(&'r Race);

impl Race {
    /// Takes the lead, when nobody has it: one attempt at a time asks for the role's tunnels before it has joined, which saves a round trip;
    /// several would bring the same tunnel about more than once.
    pub(super) fn lead(&self) -> Option<Lead<'_>> {
        (!self.led.swap(true, Ordering::AcqRel)).then(|| Lead(self))
    }

    /// Whether the caller, who has joined, is the first of all.
    pub(super) fn win(&self) -> bool {
        !self.won.swap(true, Ordering::AcqRel)
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.0.led.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wins_and_one_leads_at_a_time() {
        let race = Race::default();
        let lead = race.lead();
        assert!(lead.is_some() && race.lead().is_none() && race.lead().is_none());
        drop(lead);
        assert!(
            race.lead().is_some(),
            "the next one may lead when the first has failed"
        );
        assert!(race.win() && !race.win());
    }
}
