//! The simulated network: attachments that are established, cut, raced and moved according to
//! PROTOCOL 10. It replaces tunnel, link and master: it numbers the attempts, carries offers
//! and answers, and decides which attachment each end uses.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use super::{
    Simulation,
    counts::NetworkCounts,
    in_flight::{Direction, Item},
};
use crate::mux::{LaneId, TunnelFrame};

pub(super) const CLIENT: usize = 0;
pub(super) const SERVER: usize = 1;

/// The longest stall, in milliseconds: several times the delay after which an answer is late.
const STALL_MAX_MS: u64 = 100;

#[derive(Debug)]
struct SimulatedAttachment {
    /// The direction toward each side.
    directions: [Direction; 2],
    /// Whether the attachment carries nothing more.
    ended: bool,
}

/// The attachments as one end knows them.
#[derive(Debug, Default)]
pub(super) struct NetworkEnd {
    /// The lanes on which this end sends.
    lanes: BTreeSet<u64>,
    /// The lanes that this end has left, and that still deliver.
    leaving: BTreeSet<u64>,
    /// The attempt that resumed the tunnel last.
    base: u64,
    /// Whether each candidate joins the others. The client knows it when the server has answered.
    candidates: BTreeMap<u64, Option<bool>>,
}

#[derive(Debug)]
pub(super) struct Network {
    attachments: BTreeMap<u64, SimulatedAttachment>,
    ends: [NetworkEnd; 2],
    next_attempt: u64,
    delay_max: u64,
    /// The maximum number of lanes.
    lanes_max: usize,
    pub counts: NetworkCounts,
}

impl Network {
    /// Creates a network whose first attachment both ends use already. A message takes up to
    /// `delay_max` microseconds.
    pub(super) fn new(now: Instant, delay_max: u64, lanes_max: usize) -> Self {
        let ends = [0, 1].map(|_| NetworkEnd {
            lanes: BTreeSet::from([0]),
            ..NetworkEnd::default()
        });
        let attachments = BTreeMap::from([(0, SimulatedAttachment::new(now))]);
        Network {
            attachments,
            ends,
            next_attempt: 1,
            delay_max,
            lanes_max,
            counts: NetworkCounts::default(),
        }
    }

    /// Returns whether nothing is in flight.
    pub(super) fn is_quiet(&self) -> bool {
        self.attachments.values().all(|attachment| {
            attachment
                .directions
                .iter()
                .all(|direction| direction.items.is_empty())
        })
    }

    /// Returns whether the client has neither a lane nor a candidate.
    pub(super) fn is_detached(&self) -> bool {
        self.ends[CLIENT].lanes.is_empty() && self.ends[CLIENT].candidates.is_empty()
    }
}

impl SimulatedAttachment {
    fn new(now: Instant) -> Self {
        SimulatedAttachment {
            directions: [0, 1].map(|_| Direction::new(now)),
            ended: false,
        }
    }
}

impl Simulation {
    fn delay(&mut self) -> Duration {
        Duration::from_micros(self.rng.u64(0..=self.network.delay_max))
    }

    fn send(&mut self, from: usize, attempt: u64, item: Item) {
        let at = self.now + self.delay();
        let Some(attachment) = self.network.attachments.get_mut(&attempt) else {
            return;
        };
        if !attachment.ended {
            attachment.directions[1 - from].push(at, item);
        }
    }

    /// Starts a new attempt of the client.
    pub(super) fn attach(&mut self) {
        let end = &self.network.ends[CLIENT];
        let joining = end
            .candidates
            .values()
            .filter(|joins| **joins != Some(false));
        let can_join = !end.lanes.is_empty()
            && end.lanes.len() + joining.count() < self.network.lanes_max
            && self.peers[CLIENT].mux.is_settled();
        let joins = can_join && self.rng.u32(0..4) > 0;
        let attempt = self.network.next_attempt;
        self.network.next_attempt += 1;
        self.network
            .attachments
            .insert(attempt, SimulatedAttachment::new(self.now));
        self.network.ends[CLIENT].candidates.insert(attempt, None);
        self.send(CLIENT, attempt, Item::Offer { joins });
    }

    /// The client leaves a random lane if another remains.
    pub(super) fn leave(&mut self) {
        let end = &self.network.ends[CLIENT];
        if end.lanes.len() < 2 {
            return;
        }
        if let Some(lane) = self.rng.choice(end.lanes.clone()) {
            self.leave_lane(CLIENT, lane);
        }
    }

    fn leave_lane(&mut self, side: usize, lane: u64) {
        let end = &mut self.network.ends[side];
        end.lanes.remove(&lane);
        end.leaving.insert(lane);
        self.peers[side].mux.retire_lane(self.now, LaneId(lane));
        self.send(side, lane, Item::Left);
    }

    /// Cuts a random attachment. Some messages in flight still arrive, and each end notices the cut
    /// at its own time.
    pub(super) fn cut(&mut self) -> bool {
        let living = self
            .network
            .attachments
            .iter()
            .filter(|(_, attachment)| !attachment.ended)
            .map(|(&attempt, _)| attempt);
        let Some(attempt) = self.rng.choice(living.collect::<Vec<_>>()) else {
            return false;
        };
        self.network.counts.cuts += 1;
        for side in [CLIENT, SERVER] {
            let late = if self.rng.u32(0..4) == 0 {
                Duration::from_millis(self.rng.u64(0..50))
            } else {
                Duration::ZERO
            };
            let at = self.now + self.delay() + late;
            self.end_direction(attempt, side, at);
        }
        true
    }

    /// Stalls one direction of a random attachment, as TCP does that repeats a lost segment.
    pub(super) fn stall(&mut self) {
        let toward = self.rng.usize(0..2);
        let time = Duration::from_millis(self.rng.u64(0..STALL_MAX_MS));
        if let Some(attachment) = self.rng.choice(self.network.attachments.values_mut()) {
            self.network.counts.stalls += 1;
            attachment.directions[toward].stall(self.now, time);
        }
    }

    /// Closes an attachment from one end. Messages in flight may still arrive at either end.
    fn close(&mut self, side: usize, attempt: u64) {
        let at = self.now + self.delay();
        if self
            .network
            .attachments
            .get(&attempt)
            .is_some_and(|attachment| !attachment.ended)
        {
            self.end_direction(attempt, 1 - side, at);
        }
    }

    fn end_direction(&mut self, attempt: u64, toward: usize, at: Instant) {
        let Some(attachment) = self.network.attachments.get_mut(&attempt) else {
            return;
        };
        attachment.ended = true;
        let direction = &mut attachment.directions[toward];
        if self.rng.bool() {
            let kept = self.rng.usize(0..=direction.items.len());
            direction.items.truncate(kept);
        }
        direction.push(at, Item::Closed);
    }

    /// Delivers one due item to a side, from a random attachment.
    pub(super) fn deliver(&mut self, side: usize) {
        let now = self.now;
        let due = |attachment: &SimulatedAttachment| {
            attachment.directions[side]
                .items
                .front()
                .is_some_and(|(at, _)| *at <= now)
        };
        let ready: Vec<u64> = self
            .network
            .attachments
            .iter()
            .filter(|(_, attachment)| due(attachment))
            .map(|(&attempt, _)| attempt)
            .collect();
        let Some(attempt) = self.rng.choice(ready) else {
            return;
        };
        let attachment = self.network.attachments.get_mut(&attempt).unwrap();
        let Some((_, item)) = attachment.directions[side].items.pop_front() else {
            return;
        };
        match item {
            Item::Offer { joins } => self.on_offer(attempt, joins),
            Item::Answer { joins } => self.on_answer(attempt, joins),
            Item::Message(message) => self.on_message(side, attempt, message),
            Item::Left => self.on_left(side, attempt),
            Item::Closed => self.on_closed(side, attempt),
        }
        if self.network.ends[side].candidates.is_empty() && self.rng.bool() {
            self.peers[side].mux.drop_candidates();
        }
        self.network.attachments.retain(|_, attachment| {
            let in_flight = attachment
                .directions
                .iter()
                .any(|direction| !direction.items.is_empty());
            !attachment.ended || in_flight
        });
    }

    fn on_offer(&mut self, attempt: u64, joins: bool) {
        let end = &mut self.network.ends[SERVER];
        if attempt <= end.base {
            self.network.counts.refused += 1;
            return self.close(SERVER, attempt);
        }
        let joins = joins && !end.lanes.is_empty();
        end.candidates.insert(attempt, Some(joins));
        self.send(SERVER, attempt, Item::Answer { joins });
        self.send_first_message(SERVER, attempt, joins);
    }

    fn on_answer(&mut self, attempt: u64, joins: bool) {
        let end = &mut self.network.ends[CLIENT];
        if !end.candidates.contains_key(&attempt) {
            return self.close(CLIENT, attempt);
        }
        end.candidates.insert(attempt, Some(joins));
        self.send_first_message(CLIENT, attempt, joins);
    }

    /// Sends the first message of a candidate.
    fn send_first_message(&mut self, side: usize, attempt: u64, joins: bool) {
        let mut out = BytesMut::new();
        let mux = &mut self.peers[side].mux;
        if joins {
            mux.write_ping(self.now, &mut out);
        } else {
            let room = self.rng.usize(100..2000);
            mux.write_resume(&mut out, room);
            assert!(!out.is_empty() && out.len() <= room);
        }
        self.send(side, attempt, Item::Message(out.freeze()));
    }

    fn on_message(&mut self, side: usize, attempt: u64, message: Bytes) {
        let end = &self.network.ends[side];
        if end.candidates.get(&attempt).is_some_and(Option::is_some) {
            return self.take_over(side, attempt, message);
        }
        // Otherwise this end closed the attachment before.
        if end.lanes.contains(&attempt) || end.leaving.contains(&attempt) {
            self.handle(side, attempt, message);
        }
    }

    fn handle(&mut self, side: usize, attempt: u64, message: Bytes) {
        self.record_lane_requests(side, message.clone());
        let counts = &mut self.network.counts;
        let mux = &mut self.peers[side].mux;
        match TunnelFrame::decode(&mut message.clone()) {
            Ok(TunnelFrame::Resume { .. }) => counts.lists += 1,
            Ok(_) if mux.resume_state.is_reading_list(LaneId(attempt)) => counts.parts += 1,
            _ => {}
        }
        let result = mux.handle_message(self.now, LaneId(attempt), message);
        assert_eq!(result, Ok(()), "of {}", ["the server", "the client"][side]);
    }

    fn take_over(&mut self, side: usize, attempt: u64, message: Bytes) {
        let end = &mut self.network.ends[side];
        let joins = end.candidates.remove(&attempt) == Some(Some(true));
        if attempt <= end.base {
            self.network.counts.refused += 1;
            return self.close(side, attempt);
        }
        if joins {
            end.lanes.insert(attempt);
            self.network.counts.joins += 1;
            self.peers[side].mux.add_lane(self.now, LaneId(attempt));
        } else {
            end.base = attempt;
            let later = end.candidates.split_off(&attempt);
            let older = std::mem::replace(&mut end.candidates, later).into_keys();
            let lanes = std::mem::replace(&mut end.lanes, BTreeSet::from([attempt]));
            let leaving = std::mem::take(&mut end.leaving);
            let replaced: Vec<u64> = older.chain(lanes).chain(leaving).collect();
            for replaced in replaced {
                self.close(side, replaced);
            }
            self.network.counts.resumptions += 1;
            self.peers[side].mux.resume(self.now, LaneId(attempt));
        }
        self.handle(side, attempt, message);
    }

    /// Processes the peer's last message on a lane.
    fn on_left(&mut self, side: usize, attempt: u64) {
        let end = &mut self.network.ends[side];
        if side == SERVER && end.lanes.contains(&attempt) {
            // Everything of the client has arrived. The answer shows the same for this end.
            self.leave_lane(SERVER, attempt);
            if self.network.ends[SERVER].lanes.is_empty() {
                self.detach(SERVER);
            }
        } else if side == CLIENT && end.leaving.remove(&attempt) {
            self.network.counts.leaves += 1;
            self.peers[CLIENT].mux.remove_lane(LaneId(attempt));
            self.close(CLIENT, attempt);
        }
    }

    fn on_closed(&mut self, side: usize, attempt: u64) {
        let end = &mut self.network.ends[side];
        end.candidates.remove(&attempt);
        if end.lanes.remove(&attempt) | end.leaving.remove(&attempt) {
            self.peers[side].mux.lose_lane(self.now, LaneId(attempt));
            if !self.detach_if_stuck(side) {
                self.network.counts.losses += 1;
            }
        }
    }

    /// Detaches an end that cannot carry on without the lane that it has lost.
    fn detach_if_stuck(&mut self, side: usize) -> bool {
        let is_stuck =
            self.network.ends[side].lanes.is_empty() || self.peers[side].mux.is_list_lost();
        if is_stuck {
            self.detach(side);
        }
        is_stuck
    }

    /// Closes a lane that the peer has reported as lost.
    pub(super) fn on_lane_lost(&mut self, side: usize, LaneId(lane): LaneId) {
        let end = &mut self.network.ends[side];
        if end.lanes.remove(&lane) | end.leaving.remove(&lane) {
            self.close(side, lane);
            self.detach_if_stuck(side);
        }
    }

    fn detach(&mut self, side: usize) {
        let end = &mut self.network.ends[side];
        let (lanes, leaving) = (
            std::mem::take(&mut end.lanes),
            std::mem::take(&mut end.leaving),
        );
        for attempt in lanes.into_iter().chain(leaving) {
            self.peers[side].mux.lose_lane(self.now, LaneId(attempt));
            self.close(side, attempt);
        }
    }

    /// Drops a candidate, as after a timeout, or detaches an end before the network notices a cut.
    pub(super) fn drop_candidate_or_detach(&mut self, side: usize) {
        let candidates: Vec<u64> = self.network.ends[side].candidates.keys().copied().collect();
        match self.rng.choice(candidates) {
            Some(attempt) => {
                self.network.ends[side].candidates.remove(&attempt);
                self.close(side, attempt);
            }
            None => self.detach(side),
        }
    }

    pub(super) fn transmit(&mut self, side: usize) {
        let Some(lane) = self.rng.choice(self.network.ends[side].lanes.clone()) else {
            return;
        };
        let room = self.rng.usize(self.message_sizes.clone());
        let mut out = BytesMut::new();
        let mux = &mut self.peers[side].mux;
        let had = mux.has_transmit(LaneId(lane));
        if mux.poll_transmit(self.now, LaneId(lane), &mut out, room) {
            assert!(
                had && out.len() <= room,
                "had {had}, {} of {room}",
                out.len()
            );
            let message = out.freeze();
            self.record_datagrams(side, lane, message.clone());
            self.send(side, lane, Item::Message(message));
        }
    }
}
