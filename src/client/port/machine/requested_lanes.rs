//! Lanes that the server asks for (PROTOCOL 10.6.1): it keeps several links, because its own path to
//! the master loses packets. A client link then carries several lanes of a tunnel. The master
//! leads each to the server's link with the fewest channels.
//!
//! The machine of the port bounds the number, and changes it once a second at most. Each further
//! link of the client gets a lane in any case (see `lanes`), so this module leaves room for those.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::PortMachine;
use crate::{
    client::port::event::{AttachPurpose, AttachResult, EndTunnelReason, PortAction, TunnelView},
    link::LinkId,
};
use report_proto::id::Id;

/// The minimum time between two changes of the number, and between two rows of requests for lanes.
pub(super) const LANE_CHANGE: Duration = Duration::from_secs(1);

/// The lanes of the tunnels whose server asks for several.
#[derive(Debug, Default)]
pub(super) struct RequestedLanes {
    /// The maximum number of lanes of a tunnel. A port with 0 or 1 opens none on request.
    max: usize,
    tunnels: BTreeMap<Id, TunnelLanes>,
    /// Counts the requests, so that they use the links in turn.
    requests: usize,
}

#[derive(Debug)]
struct TunnelLanes {
    /// The number that the port keeps.
    target: usize,
    /// When the number may change again.
    change_at: Instant,
    /// When missing lanes may be requested again.
    request_at: Instant,
    /// When to look again. Set while something waits for one of these times, or for a link that is
    /// being established.
    look_at: Option<Instant>,
}

impl RequestedLanes {
    /// Creates the state of a port whose tunnels may have up to `max` lanes on request.
    pub(super) fn new(max: usize) -> Self {
        RequestedLanes {
            max,
            ..RequestedLanes::default()
        }
    }

    /// Changes the maximum number of lanes of a tunnel.
    pub(super) fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// Returns the lanes of a tunnel, with the number that the server wants now. `None`: the server
    /// has never asked for several.
    fn of(&mut self, tunnel: Id, wanted: usize, now: Instant) -> Option<&mut TunnelLanes> {
        let wanted = wanted.clamp(1, self.max.max(1));
        if wanted == 1 && !self.tunnels.contains_key(&tunnel) {
            return None;
        }
        let lanes = self.tunnels.entry(tunnel).or_insert(TunnelLanes {
            target: 1,
            change_at: now,
            request_at: now,
            look_at: None,
        });
        if lanes.target != wanted && lanes.change_at <= now {
            lanes.target = wanted;
            lanes.change_at = now + LANE_CHANGE;
        }
        lanes.look_at = (lanes.target != wanted).then_some(lanes.change_at);
        Some(lanes)
    }
}

impl PortMachine {
    /// Requests the lanes that are missing, and leaves those that are too many.
    pub(super) fn ensure_requested_lanes(&mut self, now: Instant) {
        for lanes in self.requested.tunnels.values_mut() {
            lanes.look_at = None;
        }
        if self.is_ending {
            return;
        }
        let attached: Vec<(Id, TunnelView)> = self
            .tunnels
            .iter()
            .filter(|entry| entry.accepts_lanes())
            .map(|entry| (entry.id, entry.view))
            .collect();
        let links: Vec<LinkId> = self
            .newest_link()
            .into_iter()
            .chain(self.further_links())
            .collect();
        for (tunnel, view) in attached {
            self.ensure_lanes_of(tunnel, &view, &links, now);
        }
    }

    fn ensure_lanes_of(&mut self, tunnel: Id, view: &TunnelView, links: &[LinkId], now: Instant) {
        let in_flight = self.lanes_in_flight(tunnel).count();
        // Their lanes are requested after a wait, or when the links are up.
        let waiting: Vec<LinkId> = self
            .links_without_lane(tunnel, view.further_lanes)
            .collect();
        let to_come = self.links_to_come();
        let Some(lanes) = self.requested.of(tunnel, view.requested_lanes, now) else {
            return;
        };
        // Each link of the client keeps its lane in any case.
        let keep = lanes.target.max(links.len());
        if view.lanes > keep && !view.is_moving {
            self.actions.push(PortAction::LeaveLanes { tunnel, keep });
            return;
        }
        let without = lanes
            .target
            .saturating_sub(view.lanes + in_flight + waiting.len());
        let missing = without.saturating_sub(to_come);
        if missing < without {
            // No event reports that a link could not be established.
            let next = now + LANE_CHANGE;
            lanes.look_at = lanes.look_at.into_iter().chain([next]).min();
        }
        let is_open = |link: &&LinkId| !waiting.contains(*link);
        let open: Vec<LinkId> = links.iter().filter(is_open).copied().collect();
        if missing == 0 || open.is_empty() {
            return;
        }
        if lanes.request_at > now {
            let next = lanes.look_at.into_iter().chain([lanes.request_at]).min();
            lanes.look_at = next;
            return;
        }
        lanes.request_at = now + LANE_CHANGE;
        let first = self.requested.requests;
        self.requested.requests = first.wrapping_add(missing);
        let turn = open.iter().cycle().skip(first % open.len());
        for link in turn.take(missing) {
            self.attach(*link, AttachPurpose::RequestedLane { tunnel }, now);
        }
    }

    /// Handles the outcome of a request for a lane. The number of lanes shows whether it succeeded.
    pub(super) fn on_requested_lane_done(&mut self, result: &AttachResult) {
        if let AttachResult::New(new) = result {
            // The server has lost the tunnel. The next request to resume it shows that too.
            self.actions.push(PortAction::EndTunnel {
                tunnel: new.tunnel,
                reason: EndTunnelReason::Redundant,
            });
        }
    }

    /// Returns when the numbers of lanes have to be looked at again.
    pub(super) fn requested_lanes_at(&self) -> Option<Instant> {
        let tunnels = self.requested.tunnels.values();
        tunnels.filter_map(|lanes| lanes.look_at).min()
    }

    /// Forgets a tunnel that has ended.
    pub(super) fn forget_requested_lanes(&mut self, tunnel: Id) {
        self.requested.tunnels.remove(&tunnel);
    }

    /// Lets the lanes of a tunnel that has lost all of them be requested without a wait.
    pub(super) fn request_lanes_at_once(&mut self, tunnel: Id, now: Instant) {
        if let Some(lanes) = self.requested.tunnels.get_mut(&tunnel) {
            lanes.request_at = now;
        }
    }
}
