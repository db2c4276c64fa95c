//! The send path: selects the frames of the next message and their order. Small frames come first,
//! then data in fair shares.

use std::time::Instant;

use bytes::BytesMut;

use super::{
    LaneId, Mux, MuxEvent, StreamId, TunnelFrame,
    frame::{self, DATA_OVERHEAD, FRAME_MAX},
    lanes::LaneLoad,
    rtt::FlowProgress,
    send_totals::{QUANTUM, WRITE_MAX, quantum},
    stream::{AckState, StreamEnd, StreamState},
    window::INTERACTIVE_RESERVE,
};

/// The smallest space left in a message, in bytes, in which to start a DATA frame.
const DATA_MIN: usize = 256;

/// A stream with at most this many unacknowledged bytes uses the control lane, if there are several
/// lanes: a shell, a game, a small request. More would queue in front of the others there.
const URGENT_MAX: u64 = 8 * 1024;

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
struct SendingLane {
    id: LaneId,
    load: LaneLoad,
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
    /// Returns whether [`Mux::poll_transmit`] has a message to send on `lane`.
    #[must_use]
    pub fn has_transmit(&self, lane: LaneId) -> bool {
        let Some(load) = self.lanes.load(lane) else {
            return false;
        };
        if self.close_state.is_over() {
            return self.close_state.due(lane).is_some();
        }
        if self.resume_state.is_list_due() {
            return self.resume_state.lane == Some(lane);
        }
        let opens_or_ends =
            self.resume_state.is_flowing() && !(self.opens.is_empty() && self.ends.is_empty());
        let small = self.pending_pong.is_some()
            || !self.ack_queue.due.is_empty()
            || !self.forgotten_ends.is_empty()
            || self.lanes.is_report_due()
            || self.lane_request.is_due()
            || self.window.is_update_due();
        let has_report = !self.lanes.is_single() && self.lane_flows.is_report_due();
        load.has_control() && (opens_or_ends || small || has_report)
            || self.has_data(load) && self.is_lane_open(lane, load)
    }

    /// Appends the next message for `lane` to `out`, at most `room` bytes long (use at least 8
    /// KiB). Returns whether there was a message.
    pub fn poll_transmit(
        &mut self,
        now: Instant,
        lane: LaneId,
        out: &mut BytesMut,
        room: usize,
    ) -> bool {
        let Some(load) = self.lanes.load(lane) else {
            return false;
        };
        let start = out.len();
        let end = start.saturating_add(room);
        if self.close_state.is_over() {
            self.transmit_close(lane, out);
        } else if self.transmit_list(now, lane, out, end) {
            let lane = SendingLane { id: lane, load };
            if load.has_control() {
                self.transmit_control(now, lane, out, end);
            }
            let begin = out.len();
            let data_end = if load == LaneLoad::Bulk {
                end.min(begin.saturating_add(self.lane_flows.message_limit(lane.id)))
            } else {
                end
            };
            while self.has_data(load)
                && self.is_lane_open(lane.id, load)
                && self.transmit_data(lane, out, begin, data_end)
            {}
            if load.has_control() && (out.len() > start || self.lane_flows.is_report_due()) {
                self.transmit_reports(out, end);
            }
            if out.len() > start {
                self.piggyback_acks(out, end);
            }
        }
        let any = out.len() > start;
        if any {
            // The lists of the candidates do not reflect this message.
            self.resume_state.mark_candidates_stale();
        }
        self.update_budget();
        any
    }

    /// Appends everything except data and the frames that begin or end an attachment.
    fn transmit_control(
        &mut self,
        now: Instant,
        lane: SendingLane,
        out: &mut BytesMut,
        end: usize,
    ) {
        // An end that grants credit needs the round trip as much as an end that sends.
        let is_active = !self.ack_queue.due.is_empty()
            || self.window.is_update_due()
            || self.has_data(lane.load);
        if has_room(out, end)
            && is_active
            && let Some(token) = self.ping_due(now)
        {
            put_frame(out, end, &TunnelFrame::Ping { token });
        }
        if has_room(out, end)
            && let Some(token) = self.pending_pong.take()
        {
            put_frame(out, end, &TunnelFrame::Pong { token });
        }
        while has_room(out, end)
            && let Some(lost) = self.lanes.next_report(lane.id)
        {
            put_frame(out, end, &TunnelFrame::Lost { lane: lost });
        }
        if has_room(out, end)
            && let Some(request) = self.lane_request.take_due()
        {
            put_frame(out, end, &request);
        }
        self.transmit_credit(now, out, end);
        if self.resume_state.is_flowing() {
            self.transmit_opens(lane.id, out, end);
            self.transmit_ends(lane.id, out, end);
        }
    }

    /// Appends what has arrived on each of several lanes.
    fn transmit_reports(&mut self, out: &mut BytesMut, end: usize) {
        while !self.lanes.is_single()
            && has_room(out, end)
            && let Some((lane, bytes)) = self.lane_flows.next_report()
        {
            put_frame(out, end, &TunnelFrame::Received { lane, bytes });
        }
    }

    /// Adds delayed acknowledgements to a message that is sent anyway. Each would otherwise need a
    /// separate message soon.
    fn piggyback_acks(&mut self, out: &mut BytesMut, end: usize) {
        let mut taken: usize = 0;
        while has_room(out, end)
            && let Some(id) = self.ack_queue.next_piggybacked(taken)
        {
            if self
                .streams
                .get(&id)
                .is_some_and(|stream| stream.ack_state == AckState::Delayed)
            {
                self.transmit_window(id, out, end);
                taken = taken.saturating_add(1);
            }
        }
    }

    fn ping_due(&mut self, now: Instant) -> Option<u64> {
        let (progress, awaited_since) =
            (self.progress(), self.window.bandwidth().ping_wanted_since());
        self.rtt.ping_due(now, progress, awaited_since)
    }

    pub(super) fn progress(&self) -> FlowProgress {
        FlowProgress {
            received: self.window.received(),
            limit: self.window.limit(),
            sent: self.tunnel_sent,
        }
    }

    /// Returns whether a stream may send data now on a lane with this load. Retransmissions need no
    /// credit.
    fn has_data(&self, load: LaneLoad) -> bool {
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

    fn transmit_credit(&mut self, now: Instant, out: &mut BytesMut, end: usize) {
        if has_room(out, end) && self.window.is_update_due() {
            put_frame(
                out,
                end,
                &TunnelFrame::TunnelWindow {
                    limit: self.window.advance_limit(now),
                },
            );
        }
        while has_room(out, end)
            && let Some(id) = self.ack_queue.due.pop_front()
        {
            if self
                .streams
                .get(&id)
                .is_some_and(|stream| stream.ack_state == AckState::Due)
            {
                self.transmit_window(id, out, end);
            }
        }
        while has_room(out, end)
            && let Some((stream, final_offset)) = self.forgotten_ends.pop_front()
        {
            put_frame(
                out,
                end,
                &TunnelFrame::Window {
                    stream,
                    received: final_offset.saturating_add(1),
                    limit: final_offset,
                },
            );
        }
    }

    /// Appends the WINDOW of a stream: the received bytes and the new send limit.
    pub(super) fn transmit_window(&mut self, id: StreamId, out: &mut BytesMut, end: usize) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.ack_state = AckState::None;
        let allowance = self
            .credit
            .allowance(&stream.receive, self.window.path_need());
        let limit = self.credit.track(&mut stream.receive, |receive| {
            receive.window().advance_limit(allowance)
        });
        let received = stream.receive.acknowledge();
        put_frame(
            out,
            end,
            &TunnelFrame::Window {
                stream: id,
                received,
                limit,
            },
        );
        self.remove_if_complete(id);
    }

    fn transmit_opens(&mut self, lane: LaneId, out: &mut BytesMut, end: usize) {
        while let Some(&id) = self.opens.front() {
            if let Some(stream) = self.streams.get_mut(&id)
                && let Some(details) = stream.open_state.due().cloned()
            {
                if !has_room(out, end.saturating_sub(details.len())) {
                    return;
                }
                let allowance = self.credit.allowance(&stream.receive, 0);
                let window = self.credit.track(&mut stream.receive, |receive| {
                    receive.window().advance_limit(allowance)
                });
                put_frame(
                    out,
                    end,
                    &TunnelFrame::Open {
                        stream: id,
                        window,
                        details,
                    },
                );
                self.mark_open_sent(id, lane);
            }
            self.opens.pop_front();
        }
    }

    fn mark_open_sent(&mut self, id: StreamId, lane: LaneId) {
        self.next_announced = self.next_announced.max(id.0.saturating_add(2));
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.open_state.mark_sent(lane);
            self.schedule_send(id);
        }
    }

    /// Queues the stream if it has data or an end to send.
    pub(super) fn schedule_send(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        if stream.send.unsent() > 0 {
            self.schedule_data(id);
        } else if stream.send.is_end_due() {
            self.ends.push_back(id);
        }
    }

    fn transmit_ends(&mut self, lane: LaneId, out: &mut BytesMut, end: usize) {
        while has_room(out, end)
            && let Some(id) = self.ends.pop_front()
        {
            self.transmit_end(lane, out, id);
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
            let in_flight = self
                .send_totals
                .retained
                .saturating_sub(self.send_totals.unsent);
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

    /// Appends the FIN or RESET of a stream, if everything before it was sent. The caller has left
    /// room for it.
    fn transmit_end(&mut self, lane: LaneId, out: &mut BytesMut, id: StreamId) {
        let Some(stream) = self
            .streams
            .get_mut(&id)
            .filter(|stream| stream.send.is_end_due())
        else {
            return;
        };
        if !stream.open_state.may_send_on(lane) {
            if stream.open_state.due().is_none() {
                self.awaiting_open.insert(id);
            }
            return;
        }
        let final_offset = stream.send.sent();
        match stream.send.end() {
            Some(StreamEnd::Fin) => TunnelFrame::Fin {
                stream: id,
                final_offset,
            }
            .encode(out),
            Some(StreamEnd::Reset(code)) => TunnelFrame::Reset {
                stream: id,
                final_offset,
                code,
            }
            .encode(out),
            None => return,
        }
        stream.send.mark_end_sent();
        // The peer may have acknowledged an earlier FIN, so the stream may be complete now.
        self.remove_if_complete(id);
    }
}

pub(super) fn has_room(out: &BytesMut, end: usize) -> bool {
    end.saturating_sub(out.len()) >= FRAME_MAX
}

pub(super) fn put_frame(out: &mut BytesMut, end: usize, frame: &TunnelFrame) {
    debug_assert!(has_room(out, end), "room was checked");
    frame.encode(out);
}
