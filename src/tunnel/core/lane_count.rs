//! How many lanes a tunnel has: the server asks for a number (PROTOCOL 10.6.1), and the client leaves
//! those that are too many.

use super::state::TunnelCore;
use crate::{link::LinkId, suspend::Moment};

impl TunnelCore {
    /// Sets whether the client opens lanes at the request of this server.
    pub(in crate::tunnel) fn set_takes_lane_requests(&mut self, takes: bool) {
        self.takes_lane_requests = takes;
    }

    /// Asks the client for this number of lanes, if it knows such requests.
    pub(in crate::tunnel) fn request_lanes(&mut self, lanes: usize) {
        if self.takes_lane_requests && self.end_notice.is_none() {
            self.mux.request_lanes(lanes as u64);
        }
    }

    /// Returns how many lanes the server asks for, at least one.
    pub(in crate::tunnel) fn requested_lanes(&self) -> usize {
        usize::try_from(self.mux.requested_lanes()).unwrap_or(usize::MAX)
    }

    /// Returns the number of lanes that this end does not leave.
    pub(in crate::tunnel) fn lanes(&self) -> usize {
        self.binding.active().count()
    }

    /// Leaves lanes, the newest first, until `keep` remain. Keeps one on each link.
    pub(in crate::tunnel) fn leave_surplus(&mut self, now: Moment, keep: usize) {
        let active: Vec<_> = self
            .binding
            .active()
            .map(|lane| (lane.attempt, lane.handle.link()))
            .collect();
        let surplus = active.len().saturating_sub(keep.max(1));
        let has_older_on_link = |(index, (_, link)): &(usize, &(u64, LinkId))| {
            active.iter().take(*index).any(|(_, other)| other == link)
        };
        let newest_first = active.iter().enumerate().rev();
        let leaving: Vec<u64> = newest_first
            .filter(has_older_on_link)
            .take(surplus)
            .map(|(_, (attempt, _))| *attempt)
            .collect();
        for attempt in leaving {
            self.leave(now, attempt);
        }
    }
}
