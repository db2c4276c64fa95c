//! Further lanes of the port's tunnels: each further link of the client carries one of each tunnel.
//!
//! The link of the first slot is where tunnels are requested and resumed. A lane on a further link
//! joins a tunnel that is attached at both ends. It is requested again after a while if it is lost,
//! and as soon as the tunnel is resumed if all lanes are lost.

use std::{
    collections::BTreeMap,
    mem,
    time::{Duration, Instant},
};

use super::PortMachine;
use crate::{
    client::port::event::{AttachPurpose, AttachResult, PortAction, Slots},
    link::LinkId,
};
use report_proto::id::Id;

/// How long to wait before a lane that was refused or lost is requested again.
pub(super) const LANE_RETRY: Duration = Duration::from_secs(1);

/// The links of the client beside that of the first slot, and the lanes on them.
#[derive(Debug, Default)]
pub(super) struct FurtherLanes {
    /// The links that are up, by their slot.
    links: BTreeMap<usize, LinkId>,
    /// The links that are being established, by their slot.
    beginning: BTreeMap<usize, LinkId>,
    /// When to request a lane again that was refused or lost.
    retries: BTreeMap<(Id, LinkId), Instant>,
    /// The lanes that were requested and not lost since.
    requested: Vec<(Id, LinkId)>,
}

impl PortMachine {
    /// Handles a further link that is being established.
    pub(super) fn on_further_link_begins(&mut self, slot: usize, link: LinkId) {
        self.further.beginning.insert(slot, link);
    }

    /// Handles a further link that is up.
    pub(super) fn on_further_link_up(&mut self, slot: usize, link: LinkId) {
        self.further.beginning.retain(|_, known| *known != link);
        self.further.links.insert(slot, link);
    }

    /// Handles a further link that will be closed, or has ended. Its lanes are left if it is still
    /// up.
    pub(super) fn on_further_link_gone(&mut self, link: LinkId, is_up: bool) {
        self.further.beginning.retain(|_, known| *known != link);
        let before = self.further.links.len();
        self.further.links.retain(|_, known| *known != link);
        self.further.retries.retain(|(_, known), _| *known != link);
        self.further.requested.retain(|(_, known)| *known != link);
        if is_up && self.further.links.len() < before {
            let tunnels = self.tunnels.iter().map(|entry| entry.id);
            let leave = tunnels.map(|tunnel| PortAction::LeaveLink { tunnel, link });
            self.actions.extend(leave);
        }
    }

    /// Leaves the lanes on links that will be closed, as soon as others can carry on. When such a
    /// link began to retire, there was perhaps no other lane, or the request for this one was in
    /// flight.
    pub(super) fn leave_retiring_links(&mut self) {
        for entry in &mut self.tunnels {
            // Once for each view: the next one shows what was left.
            if mem::take(&mut entry.view.has_lane_to_leave) && entry.is_attached() {
                let tunnel = entry.id;
                self.actions.push(PortAction::LeaveRetiringLinks { tunnel });
            }
        }
    }

    /// Returns the further links that are up.
    pub(super) fn further_links(&self) -> impl Iterator<Item = LinkId> {
        self.further.links.values().copied()
    }

    /// Returns the further links that are up, and neither carry a lane of this tunnel nor have one
    /// under way. `further_lanes` are the slots with a lane.
    pub(super) fn links_without_lane(
        &self,
        tunnel: Id,
        further_lanes: Slots,
    ) -> impl Iterator<Item = LinkId> {
        let links = self.further.links.iter();
        let without = links.filter(move |(slot, _)| !further_lanes.contains(**slot));
        without
            .map(|(_, link)| *link)
            .filter(move |link| !self.lanes_in_flight(tunnel).any(|on| on == *link))
    }

    /// Returns how many further links are being established whose slot has none that is up.
    pub(super) fn links_to_come(&self) -> usize {
        let slots = self.further.beginning.keys();
        slots
            .filter(|slot| !self.further.links.contains_key(*slot))
            .count()
    }

    /// Requests the lanes that are missing.
    pub(super) fn ensure_lanes(&mut self, now: Instant) {
        if self.is_ending || self.further.links.is_empty() {
            return;
        }
        let mut missing = Vec::new();
        for entry in self.tunnels.iter().filter(|entry| entry.accepts_lanes()) {
            for link in self.links_without_lane(entry.id, entry.view.further_lanes) {
                let lane = (entry.id, link);
                let is_waiting = self.further.retries.get(&lane).is_some_and(|at| *at > now);
                if !is_waiting {
                    missing.push(lane);
                }
            }
        }
        for (tunnel, link) in missing {
            // The first request goes out at once. One after it means that the lane was lost.
            if self.further.requested.contains(&(tunnel, link)) {
                self.retry_lane(tunnel, link, now);
            } else {
                self.further.retries.remove(&(tunnel, link));
                self.further.requested.push((tunnel, link));
                self.attach(link, AttachPurpose::Lane { tunnel }, now);
            }
        }
    }

    /// Handles the outcome of a request for a lane.
    pub(super) fn on_lane_done(
        &mut self,
        tunnel: Id,
        link: LinkId,
        result: &AttachResult,
        now: Instant,
    ) {
        if let AttachResult::New(new) = result {
            // The server has lost the tunnel. The next request to resume it shows that too.
            let reason = super::EndTunnelReason::Redundant;
            self.actions.push(PortAction::EndTunnel {
                tunnel: new.tunnel,
                reason,
            });
        }
        if !matches!(result, AttachResult::Resumed) {
            self.retry_lane(tunnel, link, now);
        }
    }

    /// Returns when the next lane is to be requested again.
    pub(super) fn lane_retry_at(&self) -> Option<Instant> {
        self.further.retries.values().min().copied()
    }

    /// Drops the waits that are over, so that the lanes are requested again.
    pub(super) fn release_lane_retries(&mut self, now: Instant) {
        self.further.retries.retain(|_, at| *at > now);
    }

    /// Forgets the lanes of a tunnel that has ended, or has lost all of them.
    pub(super) fn forget_lanes(&mut self, tunnel: Id) {
        self.further
            .retries
            .retain(|(known, _), _| *known != tunnel);
        self.further.requested.retain(|(known, _)| *known != tunnel);
    }

    fn retry_lane(&mut self, tunnel: Id, link: LinkId, now: Instant) {
        self.further
            .requested
            .retain(|lane| *lane != (tunnel, link));
        if let Some(at) = now.checked_add(LANE_RETRY)
            && self.further.links.values().any(|known| *known == link)
        {
            self.further.retries.insert((tunnel, link), at);
        }
    }

    /// Returns the link of each request for a lane of this tunnel that has no outcome.
    pub(super) fn lanes_in_flight(&self, tunnel: Id) -> impl Iterator<Item = LinkId> {
        let is_lane = move |purpose: AttachPurpose| {
            purpose == AttachPurpose::Lane { tunnel }
                || purpose == AttachPurpose::RequestedLane { tunnel }
        };
        let requests = self.requests.values();
        requests
            .filter(move |request| is_lane(request.purpose))
            .map(|request| request.link)
    }
}
