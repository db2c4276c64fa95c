//! The send path: selects the frames of the next message and their order. Small frames come first,
//! then data in fair shares.

use std::time::Instant;

use bytes::BytesMut;

use super::{
    Mux, MuxEvent, StreamId, TunnelFrame,
    frame::{self, DATA_OVERHEAD, FRAME_MAX},
    rtt::FlowProgress,
    send_totals::{QUANTUM, WRITE_MAX, quantum},
    stream::{AckState, StreamEnd, StreamState},
    window::INTERACTIVE_RESERVE,
};

/// The smallest space left in a message, in bytes, in which to start a DATA frame.
const DATA_MIN: usize = 256;

/// A stream that may send, and how much.
#[derive(Debug, Clone, Copy)]
struct SendTurn {
    id: StreamId,
    /// Its share of the round, in bytes.
    share: usize,
    /// How many bytes it may send for the first time.
    credit: u64,
    /// Whether it is the head of the schedule.
    is_scheduled: bool,
}

impl Mux {
    /// Returns whether [`Mux::poll_transmit`] has a message to send.
    #[must_use]
    pub fn has_transmit(&self) -> bool {
        if self.close_state.is_over() {
            return self.close_state.due().is_some();
        }
        let opens_or_ends =
            self.resume_state.is_flowing() && !(self.opens.is_empty() && self.ends.is_empty());
        let small = self.pending_pong.is_some()
            || !self.ack_queue.due.is_empty()
            || self.window.is_update_due();
        self.resume_state.is_list_due() || opens_or_ends || small || self.has_data()
    }

    /// Appends the next message to `out`, at most `room` bytes long (use at least 8 KiB). Returns
    /// whether there was a message.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut BytesMut, room: usize) -> bool {
        let start = out.len();
        let end = start.saturating_add(room);
        if self.close_state.is_over() {
            self.transmit_close(out);
        } else if self.transmit_list(now, out, end) {
            self.transmit_flow(now, out, end);
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

    /// Appends everything except the frames that begin or end an attachment.
    fn transmit_flow(&mut self, now: Instant, out: &mut BytesMut, end: usize) {
        // An end that grants credit needs the round trip as much as an end that sends.
        if has_room(out, end)
            && (self.has_data() || !self.ack_queue.due.is_empty() || self.window.is_update_due())
            && let Some(token) = self.ping_due(now)
        {
            put_frame(out, end, &TunnelFrame::Ping { token });
        }
        if has_room(out, end)
            && let Some(token) = self.pending_pong.take()
        {
            put_frame(out, end, &TunnelFrame::Pong { token });
        }
        self.transmit_credit(now, out, end);
        if self.resume_state.is_flowing() {
            self.transmit_opens(out, end);
            self.transmit_ends(out, end);
            let begin = out.len();
            while self.has_data() && self.transmit_data(out, begin, end) {}
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

    /// Returns whether a stream may send data now. Retransmissions need no credit.
    fn has_data(&self) -> bool {
        let is_bulk_due =
            (self.bulk_credit() > 0 || self.send_totals.resend > 0) && !self.schedule.is_empty();
        let is_interactive_due =
            self.tunnel_sent < self.tunnel_limit && !self.interactive.is_empty();
        self.resume_state.is_flowing() && (is_bulk_due || is_interactive_due)
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

    fn transmit_opens(&mut self, out: &mut BytesMut, end: usize) {
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
                self.mark_open_sent(id);
            }
            self.opens.pop_front();
        }
    }

    fn mark_open_sent(&mut self, id: StreamId) {
        self.next_announced = self.next_announced.max(id.0.saturating_add(2));
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.open_state.mark_sent();
            self.schedule_send(id);
        }
    }

    /// Queues the stream if it has data or an end to send.
    pub(super) fn schedule_send(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        if stream.send.unsent() > 0 {
            self.schedule.add(id, QUANTUM);
        } else if stream.send.is_end_due() {
            self.ends.push_back(id);
        }
    }

    fn transmit_ends(&mut self, out: &mut BytesMut, end: usize) {
        while has_room(out, end)
            && let Some(id) = self.ends.pop_front()
        {
            self.transmit_end(out, id);
        }
    }

    /// Appends one DATA frame of the next stream, and its FIN if that was all. Returns false if the
    /// message has no room. Only the first frame, at `begin`, is shortened to the available room.
    /// The rest of a later frame would share the next message, shorten another frame there, and so
    /// on.
    fn transmit_data(&mut self, out: &mut BytesMut, begin: usize, end: usize) -> bool {
        let room = end
            .saturating_sub(out.len())
            .saturating_sub(DATA_OVERHEAD.saturating_add(FRAME_MAX));
        if room < DATA_MIN {
            return false;
        }
        let Some(turn) = self.next_turn() else {
            return false;
        };
        let SendTurn {
            id,
            share,
            credit,
            is_scheduled,
        } = turn;
        // Data never precedes its OPEN.
        let Some(stream) = self
            .streams
            .get_mut(&id)
            .filter(|stream| stream.open_state.due().is_none())
        else {
            self.end_turn(turn, 0, false);
            return true;
        };
        let unsent = stream.send.unsent();
        let sendable = unsent.min(credit.saturating_add(stream.send.resend()));
        // Without credit the stream leaves the round, until the peer grants more.
        if sendable == 0 && unsent > 0 {
            self.end_turn(turn, 0, false);
            if is_scheduled {
                self.parked.insert(id);
            }
            return true;
        }
        let length = share
            .min(WRITE_MAX)
            .min(usize::try_from(sendable).unwrap_or(WRITE_MAX));
        // The frame fits into the next message as a whole.
        if length > room && out.len() > begin {
            return false;
        }
        self.put_data(turn, out, length.min(room));
        self.transmit_end(out, id);
        true
    }

    /// Appends a DATA frame with the next `length` bytes of a stream, and ends its turn.
    fn put_data(&mut self, turn: SendTurn, out: &mut BytesMut, length: usize) {
        let id = turn.id;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if length > 0 {
            frame::data_header(out, id, stream.send.next(), length);
        }
        let (copied, fresh) = self
            .send_totals
            .track(&mut stream.send, |send| send.transmit(out, length));
        debug_assert_eq!(copied, length, "unsent bytes are retained");
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
    fn next_turn(&mut self) -> Option<SendTurn> {
        let credit = self.bulk_credit();
        if credit > 0 || self.send_totals.resend > 0 {
            let in_flight = self
                .send_totals
                .retained
                .saturating_sub(self.send_totals.unsent);
            let turn = self.schedule.next(quantum(in_flight))?;
            let id = turn.key;
            // Without another stream that waits, one long frame costs the receiver less than
            // several short ones.
            let share = if turn.is_alone {
                usize::MAX
            } else {
                usize::try_from(turn.credit).unwrap_or(0)
            };
            return Some(SendTurn {
                id,
                share,
                credit,
                is_scheduled: true,
            });
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
            is_scheduled: false,
        })
    }

    fn end_turn(&mut self, turn: SendTurn, bytes: usize, more: bool) {
        if turn.is_scheduled {
            self.schedule.sent(bytes, more);
        }
        if !turn.is_scheduled || !more {
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
    fn transmit_end(&mut self, out: &mut BytesMut, id: StreamId) {
        let is_due = |stream: &&mut StreamState| {
            stream.open_state.due().is_none() && stream.send.is_end_due()
        };
        let Some(stream) = self.streams.get_mut(&id).filter(is_due) else {
            return;
        };
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
