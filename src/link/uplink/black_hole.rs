//! Recognizes a path that carries small packets and drops large ones: one link after the other joins, and then its TCP connection sends the same bytes
//! again and again until the link is silent for too long.
//!
//! Knows no clock: durations go in.

use std::time::Duration;

/// What is seen of it.
pub(super) const EVIDENCE: &str = "the master answers small messages, and large ones do not arrive";

/// Links that end so in a row: one is a path that went away.
const ENDS: u8 = 2;

/// A link that lived longer carried something else before: the end of the one before says nothing of it.
const LIFE: Duration = Duration::from_secs(60);

/// What is known of the path to one master.
#[derive(Debug, Clone, Default)]
pub(super) struct BlackHole {
    ends: u8,
}

impl BlackHole {
    /// A link that had joined ended after it `lived`, with a TCP connection that was stuck or not. Returns whether that shows a black hole, once for each
    /// row of such links.
    pub(super) fn ended(&mut self, lived: Duration, is_stuck: bool) -> bool {
        self.ends = match is_stuck {
            false => 0,
            true if lived > LIFE => 1,
            true => self.ends.saturating_add(1),
        };
        self.ends == ENDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn two_links_in_a_row_that_are_stuck_show_a_black_hole_once() {
        let mut path = BlackHole::default();
        assert!(
            !path.ended(3600 * SECOND, true),
            "the path may have gone away"
        );
        assert!(path.ended(11 * SECOND, true));
        assert!(!path.ended(11 * SECOND, true), "it is said once");
    }

    #[test]
    fn links_that_carried_something_in_between_show_none() {
        let mut path = BlackHole::default();
        for (lived, is_stuck) in [
            (10, true),
            (5, false),
            (10, true),
            (61, true),
            (3600, true),
            (10, false),
        ] {
            assert!(!path.ended(lived * SECOND, is_stuck), "{lived} s");
        }
    }
}
