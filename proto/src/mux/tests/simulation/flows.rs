//! Flows of datagrams beside the streams. Each datagram arrives unmodified and at most once, and those
//! of a flow that left on one lane arrive in order. Whether one arrives is left to chance.

use std::collections::{BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use fastrand::Rng;

use super::{
    Simulation,
    network::{CLIENT, SERVER},
};
use crate::mux::{FlowError, FlowId, ResetCode, TunnelFrame};

/// The most flows that the client has open.
const FLOWS_MAX: usize = 24;

/// The most flows that the server accepts, so that some are refused.
pub(super) const ACCEPTED_MAX: usize = 16;

/// The longest datagram. Some messages are too short for it.
const LENGTH_MAX: usize = 1500;

/// A datagram: the side that sent it, its flow, and its number.
type Key = (usize, FlowId, u64);

/// The flows of both sides, and what was sent on them.
pub(super) struct Flows {
    /// Separate from that of the simulation, so that flows leave its other choices alone.
    rng: Rng,
    /// The flows that the applications of each side use.
    live: [BTreeSet<FlowId>; 2],
    /// Every flow that the server has accepted.
    accepted: HashSet<FlowId>,
    opened: u64,
    next_number: u64,
    /// The lane on which each datagram left.
    lanes: HashMap<Key, u64>,
    /// The datagrams that have arrived.
    arrived: HashSet<Key>,
    /// The last number that arrived from a side, of a flow and a lane.
    latest: HashMap<(usize, FlowId, u64), u64>,
}

impl Flows {
    pub(super) fn new(seed: u64) -> Self {
        Flows {
            rng: Rng::with_seed(seed ^ 0xda7a),
            live: Default::default(),
            accepted: HashSet::new(),
            opened: 0,
            next_number: 0,
            lanes: HashMap::new(),
            arrived: HashSet::new(),
            latest: HashMap::new(),
        }
    }
}

fn details(flow: FlowId) -> Bytes {
    Bytes::from(format!("[{}]", flow.0))
}

/// Returns the content of a datagram: its number, and bytes that depend on everything.
fn content((side, flow, number): Key, length: usize) -> Bytes {
    let seed = number ^ flow.0.rotate_left(20) ^ (side as u64) << 60;
    let mut content = number.to_be_bytes().to_vec();
    let mut rng = Rng::with_seed(seed);
    content.extend((content.len()..length).map(|_| rng.u8(..)));
    content.into()
}

impl Simulation {
    /// Does something with a flow in every eighth step or so.
    pub(super) fn step_flows(&mut self) {
        let side = self.flows.rng.usize(0..2);
        match self.flows.rng.u32(0..256) {
            0..2 => self.open_flow(),
            2 => self.end_flow(side),
            3..16 => self.send_datagram(side),
            16..32 => self.read_datagrams(side),
            _ => {}
        }
    }

    fn open_flow(&mut self) {
        if self.flows.live[CLIENT].len() < FLOWS_MAX {
            let flow = FlowId(self.flows.opened);
            self.flows.opened += 1;
            let opened = self.peers[CLIENT].mux.open_flow(details(flow));
            assert_eq!(opened, flow, "flows are counted");
            self.flows.live[CLIENT].insert(flow);
        }
    }

    fn any_flow(&mut self, side: usize) -> Option<FlowId> {
        let flows = &mut self.flows;
        flows.rng.choice(&flows.live[side]).copied()
    }

    fn end_flow(&mut self, side: usize) {
        if let Some(flow) = self.any_flow(side) {
            self.flows.live[side].remove(&flow);
            self.peers[side].mux.end_flow(flow, ResetCode::Cancelled);
        }
    }

    fn send_datagram(&mut self, side: usize) {
        let Some(flow) = self.any_flow(side) else {
            return;
        };
        let number = self.flows.next_number;
        self.flows.next_number += 1;
        let length = self.flows.rng.usize(0..LENGTH_MAX) >> self.flows.rng.u32(0..8);
        let content = content((side, flow, number), length);
        let mux = &mut self.peers[side].mux;
        let sent = mux.send_datagram(self.now, flow, content);
        assert!(matches!(sent, Ok(()) | Err(FlowError::Ended(_))));
    }

    fn read_datagrams(&mut self, side: usize) {
        let Some(flow) = self.any_flow(side) else {
            return;
        };
        while let Ok(Some(datagram)) = self.peers[side].mux.read_datagram(flow) {
            let number = u64::from_be_bytes(datagram[..8].try_into().unwrap());
            let (from, flows) = (1 - side, &mut self.flows);
            let key = (from, flow, number);
            assert_eq!(datagram, content(key, datagram.len()), "{key:?}");
            assert!(flows.arrived.insert(key), "{key:?} arrived twice");
            let lane = flows.lanes[&key];
            let before = flows.latest.insert((from, flow, lane), number);
            assert!(before < Some(number), "{key:?} arrived after {before:?}");
            self.network.counts.datagrams += 1;
        }
    }

    /// Records the datagrams of a message that a side sends on a lane.
    pub(super) fn record_datagrams(&mut self, side: usize, lane: u64, mut message: Bytes) {
        while !message.is_empty() {
            let frame = TunnelFrame::decode(&mut message).expect("a frame of a mux");
            if let TunnelFrame::Datagram { flow, bytes, .. } = frame {
                let number = u64::from_be_bytes(bytes[..8].try_into().unwrap());
                let before = self.flows.lanes.insert((side, flow, number), lane);
                assert_eq!(before, None, "no datagram is sent again");
            }
        }
    }

    /// Handles a flow that the client has opened.
    pub(super) fn on_flow_opened(&mut self, side: usize, flow: FlowId, received: &Bytes) {
        assert_eq!((side, received), (SERVER, &details(flow)));
        assert!(self.flows.accepted.insert(flow), "{flow:?} opens once");
        self.flows.live[SERVER].insert(flow);
    }

    /// Handles a flow that the other side has ended, or the server has refused.
    pub(super) fn on_flow_ended(&mut self, side: usize, flow: FlowId) {
        let is_live = self.flows.live[side].remove(&flow);
        self.network.counts.ended_flows += u64::from(is_live);
        self.peers[side].mux.end_flow(flow, ResetCode::Cancelled);
    }

    /// Checks that the flows that a side has are those that its application uses.
    pub(super) fn check_flows(&self) {
        for side in [CLIENT, SERVER] {
            let (peer, live) = (&self.peers[side], &self.flows.live[side]);
            assert_eq!(peer.mux.flows(), live.len());
        }
        assert!(self.flows.live[SERVER].len() <= ACCEPTED_MAX);
    }
}
