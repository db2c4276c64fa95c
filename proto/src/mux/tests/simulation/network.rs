//! The simulated network: attachments that are established, cut, raced and moved according to
//! PROTOCOL 10. It replaces tunnel, link and master: it numbers the attempts, carries offers
//! and answers, and decides which attachment each end uses.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use super::Simulation;
use crate::mux::TunnelFrame;

const CLIENT: usize = 0;
const SERVER: usize = 1;

/// An item in flight on an attachment.
#[derive(Debug)]
enum Item {
    /// The client's handshake message.
    Offer {
        moves: bool,
    },
    /// The server's handshake message.
    Answer {
        moves: bool,
    },
    /// A message of a mux or a candidate.
    Message(Bytes),
    Moved,
    /// The end of the attachment.
    Closed,
}

/// One direction of an attachment.
#[derive(Debug)]
struct SimulatedLane {
    items: VecDeque<(Instant, Item)>,
    latest: Instant,
}

#[derive(Debug)]
struct SimulatedAttachment {
    /// The direction toward each side.
    lanes: [SimulatedLane; 2],
    /// Whether the attachment carries nothing more.
    ended: bool,
}

/// The attachments as one end knows them.
#[derive(Debug, Default)]
pub(super) struct NetworkEnd {
    /// The attachment on which this end sends.
    current: Option<u64>,
    /// The largest attempt that has taken over.
    latest_attempt: u64,
    /// Whether each candidate moves the tunnel. The client knows it when the server has answered.
    candidates: BTreeMap<u64, Option<bool>>,
    moving: Option<Moving>,
    /// Whether the peer has sent its last message on the current attachment.
    peer_moved: bool,
}

/// An end that has taken over and waits for the last message of the previous attachment.
#[derive(Debug)]
struct Moving {
    from: u64,
    held: VecDeque<Bytes>,
}

#[derive(Debug)]
pub(super) struct Network {
    attachments: BTreeMap<u64, SimulatedAttachment>,
    ends: [NetworkEnd; 2],
    next_attempt: u64,
    delay_max: u64,
    pub counts: NetworkCounts,
}

/// Event counts, which show that the simulation covers its cases.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct NetworkCounts {
    pub cuts: u64,
    pub resumptions: u64,
    pub moves: u64,
    pub refused: u64,
    /// The number of lists begun.
    pub lists: u64,
    /// The number of further messages of a list.
    pub parts: u64,
}

impl std::ops::AddAssign for NetworkCounts {
    fn add_assign(&mut self, other: Self) {
        self.cuts += other.cuts;
        self.resumptions += other.resumptions;
        self.moves += other.moves;
        self.refused += other.refused;
        self.lists += other.lists;
        self.parts += other.parts;
    }
}

impl Network {
    /// Creates a network whose first attachment both ends use already. A message takes up to
    /// `delay_max` microseconds.
    pub(super) fn new(now: Instant, delay_max: u64) -> Self {
        let ends = [0, 1].map(|_| NetworkEnd {
            current: Some(0),
            ..NetworkEnd::default()
        });
        let attachments = BTreeMap::from([(0, SimulatedAttachment::new(now))]);
        Network {
            attachments,
            ends,
            next_attempt: 1,
            delay_max,
            counts: NetworkCounts::default(),
        }
    }

    /// Returns whether nothing is in flight.
    pub(super) fn is_quiet(&self) -> bool {
        self.attachments
            .values()
            .all(|attachment| attachment.lanes.iter().all(|lane| lane.items.is_empty()))
    }

    /// Returns whether the client has neither an attachment nor a candidate.
    pub(super) fn is_detached(&self) -> bool {
        self.ends[CLIENT].current.is_none() && self.ends[CLIENT].candidates.is_empty()
    }
}

impl SimulatedAttachment {
    fn new(now: Instant) -> Self {
        let lanes = [0, 1].map(|_| SimulatedLane {
            items: VecDeque::new(),
            latest: now,
        });
        SimulatedAttachment {
            lanes,
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
            attachment.lanes[1 - from].push(at, item);
        }
    }

    /// Starts a new attempt of the client.
    pub(super) fn attach(&mut self) {
        let end = &mut self.network.ends[CLIENT];
        let can_move = end.current.is_some()
            && end.moving.is_none()
            && !end.candidates.values().any(|moves| *moves != Some(false));
        let moves = can_move && self.rng.bool();
        let attempt = self.network.next_attempt;
        self.network.next_attempt += 1;
        self.network
            .attachments
            .insert(attempt, SimulatedAttachment::new(self.now));
        self.network.ends[CLIENT].candidates.insert(attempt, None);
        self.send(CLIENT, attempt, Item::Offer { moves });
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
            self.end_lane(attempt, side, at);
        }
        true
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
            self.end_lane(attempt, 1 - side, at);
        }
    }

    fn end_lane(&mut self, attempt: u64, toward: usize, at: Instant) {
        let Some(attachment) = self.network.attachments.get_mut(&attempt) else {
            return;
        };
        attachment.ended = true;
        let lane = &mut attachment.lanes[toward];
        if self.rng.bool() {
            lane.items.truncate(self.rng.usize(0..=lane.items.len()));
        }
        lane.push(at, Item::Closed);
    }

    /// Delivers one due item to a side, from a random attachment.
    pub(super) fn deliver(&mut self, side: usize) {
        let now = self.now;
        let due = |attachment: &SimulatedAttachment| {
            attachment.lanes[side]
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
        let lane = &mut self.network.attachments.get_mut(&attempt).unwrap().lanes[side];
        let Some((_, item)) = lane.items.pop_front() else {
            return;
        };
        match item {
            Item::Offer { moves } => self.on_offer(attempt, moves),
            Item::Answer { moves } => self.on_answer(attempt, moves),
            Item::Message(message) => self.on_message(side, attempt, message),
            Item::Moved => self.on_moved(side, attempt),
            Item::Closed => self.on_closed(side, attempt),
        }
        if self.network.ends[side].candidates.is_empty() && self.rng.bool() {
            self.peers[side].mux.drop_candidates();
        }
        self.network.attachments.retain(|_, attachment| {
            !attachment.ended || attachment.lanes.iter().any(|lane| !lane.items.is_empty())
        });
    }

    fn on_offer(&mut self, attempt: u64, moves: bool) {
        let end = &mut self.network.ends[SERVER];
        if attempt <= end.latest_attempt {
            self.network.counts.refused += 1;
            return self.close(SERVER, attempt);
        }
        let moves = moves && end.current.is_some() && end.moving.is_none();
        self.network.ends[SERVER]
            .candidates
            .insert(attempt, Some(moves));
        self.send(SERVER, attempt, Item::Answer { moves });
        self.send_first_message(SERVER, attempt, moves);
    }

    fn on_answer(&mut self, attempt: u64, moves: bool) {
        let end = &mut self.network.ends[CLIENT];
        let can_move = end.current.is_some() && end.moving.is_none();
        if !end.candidates.contains_key(&attempt) || moves && !can_move {
            end.candidates.remove(&attempt);
            return self.close(CLIENT, attempt);
        }
        end.candidates.insert(attempt, Some(moves));
        self.send_first_message(CLIENT, attempt, moves);
    }

    /// Sends the first message of a candidate.
    fn send_first_message(&mut self, side: usize, attempt: u64, moves: bool) {
        let mut out = BytesMut::new();
        let mux = &mut self.peers[side].mux;
        if moves {
            mux.write_ping(self.now, &mut out);
        } else {
            let room = self.rng.usize(100..2000);
            mux.write_resume(&mut out, room);
            assert!(!out.is_empty() && out.len() <= room);
        }
        self.send(side, attempt, Item::Message(out.freeze()));
    }

    fn on_message(&mut self, side: usize, attempt: u64, message: Bytes) {
        let end = &mut self.network.ends[side];
        if end.candidates.get(&attempt).is_some_and(Option::is_some) {
            return self.take_over(side, attempt, message);
        }
        match &mut end.moving {
            Some(moving) if end.current == Some(attempt) => moving.held.push_back(message),
            Some(moving) if moving.from == attempt => self.handle(side, message),
            None if end.current == Some(attempt) => self.handle(side, message),
            // This end closed the attachment before.
            _ => {}
        }
    }

    fn handle(&mut self, side: usize, message: Bytes) {
        let counts = &mut self.network.counts;
        match TunnelFrame::decode(&mut message.clone()) {
            Ok(TunnelFrame::Resume { .. }) => counts.lists += 1,
            Ok(_) if self.peers[side].mux.resume_state.is_reading_list() => counts.parts += 1,
            _ => {}
        }
        let result = self.peers[side].mux.handle_message(self.now, message);
        assert_eq!(result, Ok(()), "of {}", ["the server", "the client"][side]);
    }

    fn take_over(&mut self, side: usize, attempt: u64, message: Bytes) {
        let end = &mut self.network.ends[side];
        let moves = end.candidates.remove(&attempt) == Some(Some(true));
        if attempt <= end.latest_attempt || moves && (end.current.is_none() || end.moving.is_some())
        {
            self.network.counts.refused += 1;
            return self.close(side, attempt);
        }
        end.latest_attempt = attempt;
        let (before, moving) = (end.current.replace(attempt), end.moving.take());
        let later = end.candidates.split_off(&attempt);
        let older = std::mem::replace(&mut end.candidates, later);
        let peer_moved = std::mem::take(&mut end.peer_moved);
        older.into_keys().for_each(|older| self.close(side, older));
        match before {
            Some(from) if moves => {
                self.network.counts.moves += 1;
                self.send(side, from, Item::Moved);
                self.network.ends[side].moving = Some(Moving {
                    from,
                    held: VecDeque::from([message]),
                });
                if peer_moved {
                    self.on_moved(side, from);
                }
            }
            _ => {
                before
                    .into_iter()
                    .chain(moving.map(|moving| moving.from))
                    .for_each(|old| self.close(side, old));
                self.network.counts.resumptions += 1;
                self.peers[side].mux.resume(self.now);
                self.handle(side, message);
            }
        }
    }

    /// Processes the peer's last message on an attachment.
    fn on_moved(&mut self, side: usize, attempt: u64) {
        let end = &mut self.network.ends[side];
        match end.moving.take_if(|moving| moving.from == attempt) {
            Some(Moving { held, .. }) => {
                held.into_iter()
                    .for_each(|message| self.handle(side, message));
                if side == CLIENT {
                    self.close(CLIENT, attempt);
                }
            }
            None => end.peer_moved |= end.current == Some(attempt),
        }
    }

    fn on_closed(&mut self, side: usize, attempt: u64) {
        let end = &mut self.network.ends[side];
        end.candidates.remove(&attempt);
        let of_moving = end
            .moving
            .as_ref()
            .is_some_and(|moving| moving.from == attempt);
        if of_moving || end.current == Some(attempt) {
            self.detach(side);
        }
    }

    fn detach(&mut self, side: usize) {
        let end = &mut self.network.ends[side];
        end.peer_moved = false;
        let moving = end.moving.take().map(|moving| moving.from);
        let left: Vec<u64> = end.current.take().into_iter().chain(moving).collect();
        left.into_iter()
            .for_each(|attempt| self.close(side, attempt));
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
        let Some(current) = self.network.ends[side].current else {
            return;
        };
        let room = self.rng.usize(self.message_sizes.clone());
        let mut out = BytesMut::new();
        let mux = &mut self.peers[side].mux;
        let had = mux.has_transmit();
        if mux.poll_transmit(self.now, &mut out, room) {
            assert!(had && out.len() <= room);
            self.send(side, current, Item::Message(out.freeze()));
        }
    }
}

impl SimulatedLane {
    /// Appends an item that arrives at `at`, or later if an earlier item does.
    fn push(&mut self, at: Instant, item: Item) {
        self.latest = self.latest.max(at);
        self.items.push_back((self.latest, item));
    }
}
