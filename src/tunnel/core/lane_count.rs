//! How many lanes a tunnel has: the server asks for a number (PROTOCOL 10.6.1), and the client leaves
//! those that are too many. The server closes some if it has links without any.

use super::state::TunnelCore;
use crate::{link::LinkId, suspend::Moment};
use report_proto::frame::{Code, Notice};

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
        let surplus = self.lanes().saturating_sub(keep.max(1));
        for attempt in self.sharing_lanes().into_iter().take(surplus) {
            self.leave(now, attempt);
        }
    }

    /// Closes lanes that share a link of this server, the newest first, if some of its `links` carry
    /// none. The client requests them again, and the master then leads them to the links with the
    /// fewest channels. The bytes under way on them leave on the others at once.
    pub(in crate::tunnel) fn spread_lanes(&mut self, now: Moment, links: usize) {
        let sharing = self.sharing_lanes();
        let used = self.lanes().saturating_sub(sharing.len());
        for attempt in sharing.into_iter().take(links.saturating_sub(used)) {
            let lane = self
                .binding
                .lane_mut(attempt)
                .map(|lane| lane.bound.clone());
            let why = Notice::new(
                Code::Cancelled,
                "another link of the server carries no lane",
            );
            self.attachment_lost(now, attempt, why);
            self.close_all(lane, Code::Cancelled);
        }
    }

    /// Returns the lanes that have an older one on their link, the newest first.
    fn sharing_lanes(&self) -> Vec<u64> {
        let active: Vec<_> = self
            .binding
            .active()
            .map(|lane| (lane.attempt, lane.handle.link()))
            .collect();
        let has_older_on_link = |(index, (_, link)): &(usize, &(u64, LinkId))| {
            active.iter().take(*index).any(|(_, other)| other == link)
        };
        let newest_first = active.iter().enumerate().rev();
        newest_first
            .filter(has_older_on_link)
            .map(|(_, (attempt, _))| *attempt)
            .collect()
    }
}
