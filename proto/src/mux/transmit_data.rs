//! The data of a message: selects the streams in fair shares, and the lane that carries each.

use std::time::Duration;

use bytes::BytesMut;

use super::{
    LaneId, Mux, MuxEvent, StreamId,
    frame::{self, DATA_OVERHEAD, FRAME_MAX},
    lanes::LaneLoad,
    send_totals::{QUANTUM, WRITE_MAX, quantum},
    stream::StreamState,
    window::INTERACTIVE_RESERVE,
};

/// The smallest space left in a message, in bytes, in which to start a DATA frame.
const DATA_MIN: usize = 256;

/// The number of messages into which the data of a small window is divided, and the smallest such
/// message, in bytes.
const WINDOW_MESSAGES: u64 = 4;
const MESSAGE_MIN: usize = 4 * 1024;

/// Paths with a shorter round trip take messages of any length: there a message costs more than its
/// wait.
const SHORT_ROUND_TRIP: Duration = Duration::from_millis(4);

/// A stream with at most this many unacknowledged bytes uses the control lane, if there are several
/// lanes: a shell, a game, a small request. More would queue in front of the others there.
pub(super) const URGENT_MAX: u64 = 8 * 1024;

/// The round in which a stream has its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    Bulk,
    Urgent,
    /// The streams that share the last part of the tunnel's credit.
    Reserve,
}

/// The lane of a message, and what it carries.
#[derive(Debug, Clone, Copy)]
pub(super) struct SendingLane {
    pub(super) id: LaneId,
    pub(super) load: LaneLoad,
}

/// A stream that may send, and how much.
#[derive(Debug, Clone, Copy)]
struct SendTurn {
    id: StreamId,
    /// Its share of the round, in bytes.
    share: usize,
    /// How many bytes it may send for the first time.
    credit: u64,
    round: Round,
}

impl Mux {
    /// Returns whether data may leave on this lane now.
    pub(super) fn has_data_for(&self, lane: SendingLane) -> bool {
        self.has_data(lane.load) && self.is_lane_open(lane.id, lane.load)
            || lane.load == LaneLoad::Control
                && self.has_data(LaneLoad::Bulk)
                && self.is_lane_open(lane.id, LaneLoad::Bulk)
    }

    /// Appends the data of a message. The control lane carries the small streams first, then a
    /// little bulk data.
    pub(super) fn transmit_streams(&mut self, lane: SendingLane, out: &mut BytesMut, end: usize) {
        self.transmit_round(lane, out, end);
        if lane.load == LaneLoad::Control {
            let bulk = SendingLane {
                load: LaneLoad::Bulk,
                ..lane
            };
            self.transmit_round(bulk, out, end);
        }
    }

    /// Appends data of the streams with this load until the message or the lane is full.
    fn transmit_round(&mut self, lane: SendingLane, out: &mut BytesMut, end: usize) {
        let begin = out.len();
        let limit = match lane.load {
            LaneLoad::Control => usize::MAX,
            LaneLoad::All => self.message_limit(),
            LaneLoad::Bulk => {
                let of_lane = self.lane_flows.message_limit(lane.id);
                of_lane.min(self.message_limit())
            }
        };
        let end = end.min(begin.saturating_add(limit));
        while self.has_data(lane.load)
            && self.is_lane_open(lane.id, lane.load)
            && self.transmit_data(lane, out, begin, end)
        {}
    }

    /// Returns how long the data of a message may be. The relay and the receiver process a message as
    /// a whole. A message as large as the window would stop the path until credit returns, and on a
    /// slow path everything behind it waits.
    fn message_limit(&mut self) -> usize {
        let part = self.peer_window / WINDOW_MESSAGES;
        if part >= WRITE_MAX as u64 || self.window.bandwidth().latest_rtt() < SHORT_ROUND_TRIP {
            return usize::MAX;
        }
        usize::try_from(part)
            .unwrap_or(usize::MAX)
            .max(MESSAGE_MIN)
            .saturating_add(DATA_OVERHEAD.saturating_add(FRAME_MAX))
    }

    /// Returns whether a stream may send data now on a lane with this load. Retransmissions need no
    /// credit.
    pub(super) fn has_data(&self, load: LaneLoad) -> bool {
        if !self.resume_state.is_flowing() {
            return false;
        }
        let has_bulk_credit = self.bulk_credit() > 0 || self.send_totals.resend > 0;
        let has_reserve = self.tunnel_sent < self.tunnel_limit && !self.interactive.is_empty();
        match load {
            LaneLoad::All => has_bulk_credit && !self.schedule.is_empty() || has_reserve,
            LaneLoad::Control => has_bulk_credit && !self.urgent.is_empty() || has_reserve,
            LaneLoad::Bulk => has_bulk_credit && !self.schedule.is_empty(),
        }
    }

    /// Puts a stream with data to send into a round.
    pub(super) fn schedule_data(&mut self, id: StreamId) {
        let is_urgent = !self.lanes.is_single()
            && self.streams.get(&id).is_some_and(|stream| {
                !stream.open_state.is_confirmed() || stream.send.retained() <= URGENT_MAX
            });
        if is_urgent {
            self.urgent.add(id, QUANTUM);
        } else {
            self.schedule.add(id, QUANTUM);
        }
    }

    /// Appends one DATA frame of the next stream, and its FIN if that was all. Returns false if the
    /// message has no room. Only the first frame, at `begin`, is shortened to the available room.
    /// The rest of a later frame would share the next message, shorten another frame there, and so
    /// on.
    fn transmit_data(
        &mut self,
        lane: SendingLane,
        out: &mut BytesMut,
        begin: usize,
        end: usize,
    ) -> bool {
        let room = end
            .saturating_sub(out.len())
            .saturating_sub(DATA_OVERHEAD.saturating_add(FRAME_MAX));
        if room < DATA_MIN {
            return false;
        }
        let Some(turn) = self.next_turn(lane.load) else {
            return false;
        };
        let Some(sendable) = self.sendable(lane, turn) else {
            return true;
        };
        let length = turn
            .share
            .min(WRITE_MAX)
            .min(usize::try_from(sendable).unwrap_or(WRITE_MAX));
        // The frame fits into the next message as a whole.
        if length > room && out.len() > begin {
            return false;
        }
        self.put_data(lane.id, turn, out, length.min(room));
        self.transmit_end(lane.id, out, turn.id);
        true
    }

    /// Returns how many bytes of the next chunk the stream may send in this turn. `None`: the turn
    /// has ended, because the stream cannot send on this lane, or not now.
    fn sendable(&mut self, lane: SendingLane, turn: SendTurn) -> Option<u64> {
        let id = turn.id;
        let Some(stream) = self.streams.get(&id) else {
            self.end_turn(turn, 0, false);
            return None;
        };
        // Data never precedes its OPEN.
        if !stream.open_state.may_send_on(lane.id) {
            if stream.open_state.due().is_none() {
                self.awaiting_open.insert(id);
            }
            self.end_turn(turn, 0, false);
            return None;
        }
        let unsent = stream.send.unsent();
        // The stream has become a bulk stream since it was scheduled.
        let is_bulk = stream.open_state.is_confirmed() && stream.send.retained() > URGENT_MAX;
        if turn.round == Round::Urgent && is_bulk && unsent > 0 {
            self.end_turn(turn, 0, false);
            self.schedule.add(id, QUANTUM);
            return None;
        }
        let sendable = unsent.min(turn.credit.saturating_add(stream.send.resend()));
        // Without credit the stream leaves the round, until the peer grants more.
        if sendable == 0 && unsent > 0 {
            self.end_turn(turn, 0, false);
            if turn.round != Round::Reserve {
                self.parked.insert(id);
            }
            return None;
        }
        let (_, chunk) = stream.send.next_chunk();
        Some(sendable.min(chunk))
    }

    /// Appends a DATA frame with the next `length` bytes of a stream, and ends its turn.
    fn put_data(&mut self, lane: LaneId, turn: SendTurn, out: &mut BytesMut, length: usize) {
        let id = turn.id;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if length > 0 {
            let (offset, _) = stream.send.next_chunk();
            frame::data_header(out, id, offset, length);
        }
        let (copied, fresh) = self
            .send_totals
            .track(&mut stream.send, |send| send.transmit(out, length, lane));
        debug_assert_eq!(copied, length, "unsent bytes are retained");
        self.lane_flows.on_sent(lane, copied as u64);
        self.tunnel_sent = self.tunnel_sent.saturating_add(fresh);
        let more = stream.send.unsent() > 0;
        if stream.wants_write && self.send_totals.should_wake(stream) {
            stream.wants_write = false;
            self.events.push_back(MuxEvent::Writable(id));
        }
        self.end_turn(turn, copied, more);
    }

    /// Selects the next stream and how much it may send. When only [`INTERACTIVE_RESERVE`] remains
    /// of the credit, interactive streams share it, and the others keep their places in the round.
    fn next_turn(&mut self, load: LaneLoad) -> Option<SendTurn> {
        let credit = self.bulk_credit();
        if credit > 0 || self.send_totals.resend > 0 {
            let in_flight = self.send_totals.in_flight();
            let (schedule, round) = if load == LaneLoad::Control {
                (&mut self.urgent, Round::Urgent)
            } else {
                (&mut self.schedule, Round::Bulk)
            };
            if let Some(turn) = schedule.next(quantum(in_flight)) {
                // Without another stream that waits, one long frame costs the receiver less than
                // several short ones.
                let share = if turn.is_alone {
                    usize::MAX
                } else {
                    usize::try_from(turn.credit).unwrap_or(0)
                };
                return Some(SendTurn {
                    id: turn.key,
                    share,
                    credit,
                    round,
                });
            }
        }
        if !load.has_control() {
            return None;
        }
        let id = *self.interactive.first()?;
        let credit = self.tunnel_limit.saturating_sub(self.tunnel_sent);
        let is_interactive = self
            .streams
            .get(&id)
            .is_some_and(|stream| self.is_interactive(stream));
        Some(SendTurn {
            id,
            share: usize::MAX,
            credit: if is_interactive { credit } else { 0 },
            round: Round::Reserve,
        })
    }

    fn end_turn(&mut self, turn: SendTurn, bytes: usize, more: bool) {
        match turn.round {
            Round::Bulk => self.schedule.sent(bytes, more),
            Round::Urgent => self.urgent.sent(bytes, more),
            Round::Reserve => {}
        }
        if turn.round == Round::Reserve || !more {
            self.interactive.remove(&turn.id);
        }
    }

    /// Returns the tunnel's credit without the interactive reserve.
    fn bulk_credit(&self) -> u64 {
        self.tunnel_limit
            .saturating_sub(self.tunnel_sent)
            .saturating_sub(self.reserve())
    }

    /// Returns the reserve. A small tunnel reserves an eighth of its initial window.
    fn reserve(&self) -> u64 {
        INTERACTIVE_RESERVE.min(self.grant.tunnel_window / 8)
    }

    /// Returns whether the stream may use [`INTERACTIVE_RESERVE`].
    pub(super) fn is_interactive(&self, stream: &StreamState) -> bool {
        stream.send.retained() <= self.reserve() / 2
    }
}
