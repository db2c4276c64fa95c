//! The server's requests for lanes (PROTOCOL 10.6.1). Of those that have arrived, the client knows the
//! one with the largest number. In the end it knows the latest one, whatever happened to the lanes.

use bytes::Bytes;

use super::{
    Simulation,
    network::{CLIENT, SERVER},
};
use crate::mux::TunnelFrame;

/// The largest number of lanes that the server asks for.
const WANTED_MAX: u64 = 8;

/// The requests of the server, and those that the client knows.
#[derive(Debug)]
pub(super) struct LaneRequests {
    /// The lanes that the server wants now.
    wanted: u64,
    /// The number and the lanes of the largest request that has arrived.
    arrived: (u64, u64),
    /// The lanes that the client's application knows from the events.
    announced: u64,
}

impl LaneRequests {
    /// Creates the state of a tunnel without a request, which has one lane.
    pub(super) fn new() -> Self {
        LaneRequests {
            wanted: 1,
            arrived: (0, 1),
            announced: 1,
        }
    }
}

impl Simulation {
    /// The server asks for a random number of lanes.
    pub(super) fn request_lanes(&mut self) {
        let lanes = self.rng.u64(1..=WANTED_MAX);
        self.network.counts.lane_requests += u64::from(lanes != self.lane_requests.wanted);
        self.lane_requests.wanted = lanes;
        self.peers[SERVER].mux.request_lanes(lanes);
    }

    /// Records the requests of a message that arrives at a side. The mux refuses those of a client.
    pub(super) fn record_lane_requests(&mut self, side: usize, mut message: Bytes) {
        while side == CLIENT
            && !message.is_empty()
            && let Ok(frame) = TunnelFrame::decode(&mut message)
        {
            if let TunnelFrame::Lanes { number, lanes } = frame {
                let is_newer = number > self.lane_requests.arrived.0;
                self.network.counts.old_lane_requests += u64::from(!is_newer);
                if is_newer {
                    self.lane_requests.arrived = (number, lanes);
                }
            }
        }
    }

    /// Handles the event of a request: the application looks at the number.
    pub(super) fn on_lanes_requested(&mut self, side: usize) {
        assert_eq!(side, CLIENT, "only the server asks for lanes");
        self.lane_requests.announced = self.peers[CLIENT].mux.requested_lanes();
    }

    /// Returns whether a request is still to be sent.
    pub(super) fn is_lane_request_due(&self) -> bool {
        self.peers[SERVER].mux.lane_request.is_due()
    }

    /// Checks that the client knows the largest request that has arrived.
    pub(super) fn check_lane_requests(&self) {
        let known = self.peers[CLIENT].mux.requested_lanes();
        assert_eq!(known, self.lane_requests.arrived.1, "the largest counts");
    }

    /// Checks that the client and its application know the latest request, after everything has
    /// arrived.
    pub(super) fn check_latest_lane_request(&self) {
        let LaneRequests {
            wanted,
            arrived: (_, arrived),
            announced,
        } = self.lane_requests;
        assert_eq!((arrived, announced), (wanted, wanted), "none is lost");
    }
}
