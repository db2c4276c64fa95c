//! Detects an MTU black hole: a path that carries small packets and drops large ones. One link
//! after the other joins, then its TCP connection retransmits the same bytes until the link times
//! out.
//!
//! Pure: durations go in, and there is no clock.

use std::time::Duration;

/// The evidence of a black hole, for the log.
pub(super) const EVIDENCE: &str = "the master answers small messages, and large ones do not arrive";

/// Stuck links in a row that show a black hole. A single one may be a path that failed.
const STUCK_LINKS: u8 = 2;

/// A link that lived longer than this carried large packets before, so the end of the previous link
/// does not count.
const MAX_LIFETIME: Duration = Duration::from_secs(60);

/// The detector for the path to one master.
#[derive(Debug, Clone, Default)]
pub(super) struct BlackHoleDetector {
    stuck_links: u8,
}

impl BlackHoleDetector {
    /// Records the end of a link that was up for `lived`. Returns whether a black hole is detected,
    /// once for each row of stuck links.
    pub(super) fn on_link_end(&mut self, lived: Duration, is_stuck: bool) -> bool {
        self.stuck_links = match is_stuck {
            false => 0,
            true if lived > MAX_LIFETIME => 1,
            true => self.stuck_links.saturating_add(1),
        };
        // Equal, not greater: a longer row is reported only once.
        self.stuck_links == STUCK_LINKS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn two_stuck_links_in_a_row_report_black_hole_once() {
        let mut path = BlackHoleDetector::default();
        assert!(
            !path.on_link_end(3600 * SECOND, true),
            "the path may have failed"
        );
        assert!(path.on_link_end(11 * SECOND, true));
        assert!(!path.on_link_end(11 * SECOND, true), "reported once");
    }

    #[test]
    fn working_links_in_between_report_no_black_hole() {
        let mut path = BlackHoleDetector::default();
        for (lived, is_stuck) in [
            (10, true),
            (5, false),
            (10, true),
            (61, true),
            (3600, true),
            (10, false),
        ] {
            assert!(!path.on_link_end(lived * SECOND, is_stuck), "{lived} s");
        }
    }
}
