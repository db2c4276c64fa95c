//! What the mux sends: which frames go into the next message, and in which order. Small frames first, then data in fair shares.

use std::time::Instant;

use bytes::BytesMut;

use super::{
    Event, Mux, StreamId, TunnelFrame,
    frame::{self, DATA_OVERHEAD, FRAME_MAX},
    load::PIECE_MAX,
    round_trip::Progress,
    schedule,
    stream::{End, Stream, Update},
};

/// A message is not worth starting a DATA frame in when less than this is left, in bytes.
const DATA_MIN: usize = 256;

/// What a sender leaves of the tunnel's credit to streams that have no more than half of it unacknowledged, in bytes. The receiver grants it beside
/// what the path needs.
pub(super) const INTERACTIVE_RESERVE: u64 = 4 * 1024;

/// A stream that may send, and how much.
#[derive(Debug, Clone, Copy)]
struct Turn {
    id: StreamId,
    /// Its share of the round.
    share: usize,
    /// What it may send for the first time.
    credit: u64,
    /// It is the head of the schedule.
    is_scheduled: bool,
}

impl Mux {
    /// Whether [`Mux::poll_transmit`] has something to send.
    #[must_use]
    pub fn has_transmit(&self) -> bool {
        if self.closing.is_over() {
            return self.closing.due().is_some();
        }
        let opens_or_ends =
            self.resumption.flows() && !(self.opens.is_empty() && self.ends.is_empty());
        let small =
            self.pong.is_some() || !self.updates.due.is_empty() || self.window.is_update_due();
        self.resumption.is_list_due() || opens_or_ends || small || self.has_data()
    }

    /// Appends the next message to `out`, at most `room` bytes of it (at least 8 KiB make sense). Says whether there was anything.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut BytesMut, room: usize) -> bool {
        let start = out.len();
        let end = start.saturating_add(room);
        if self.closing.is_over() {
            self.transmit_close(out);
        } else if self.transmit_list(now, out, end) {
            self.transmit_flow(now, out, end);
            if out.len() > start {
                self.transmit_passengers(out, end);
            }
        }
        let any = out.len() > start;
        if any {
            self.resumption.something_moved();
        }
        self.settle();
        any
    }

    /// Everything but what begins and ends an attachment.
    fn transmit_flow(&mut self, now: Instant, out: &mut BytesMut, end: usize) {
        // Who grants credit needs the round trip as much as who sends.
        if has_room(out, end)
            && (self.has_data() || !self.updates.due.is_empty() || self.window.is_update_due())
            && let Some(token) = self.ping_due(now)
        {
            put(out, end, &TunnelFrame::Ping { token });
        }
        if has_room(out, end)
            && let Some(token) = self.pong.take()
        {
            put(out, end, &TunnelFrame::Pong { token });
        }
        self.transmit_credit(now, out, end);
        if self.resumption.flows() {
            self.transmit_opens(out, end);
            self.transmit_ends(out, end);
            let begin = out.len();
            while self.has_data() && self.transmit_data(out, begin, end) {}
        }
    }

    /// What would soon need a message of its own goes with one that leaves anyhow.
    fn transmit_passengers(&mut self, out: &mut BytesMut, end: usize) {
        let mut taken: usize = 0;
        while has_room(out, end)
            && let Some(id) = self.updates.next_passenger(taken)
        {
            if self
                .streams
                .get(&id)
                .is_some_and(|stream| stream.update == Update::Pending)
            {
                self.tell(id, out, end);
                taken = taken.saturating_add(1);
            }
        }
    }

    fn ping_due(&mut self, now: Instant) -> Option<u64> {
        let (progress, awaited_since) =
            (self.progress(), self.window.delivery().wants_ping_since());
        self.round_trip.ping_due(now, progress, awaited_since)
    }

    pub(super) fn progress(&self) -> Progress {
        Progress {
            received: self.window.received(),
            limit: self.window.limit(),
            sent: self.tunnel_sent,
        }
    }

    /// What was sent before needs no credit.
    fn has_data(&self) -> bool {
        let is_bulk_due =
            (self.credit_of_bulk() > 0 || self.load.again > 0) && !self.schedule.is_empty();
        let is_little_due = self.tunnel_sent < self.tunnel_limit && !self.little.is_empty();
        self.resumption.flows() && (is_bulk_due || is_little_due)
    }

    fn transmit_credit(&mut self, now: Instant, out: &mut BytesMut, end: usize) {
        if has_room(out, end) && self.window.is_update_due() {
            put(
                out,
                end,
                &TunnelFrame::TunnelWindow {
                    limit: self.window.advance_limit(now),
                },
            );
        }
        while has_room(out, end)
            && let Some(id) = self.updates.due.pop_front()
        {
            if self
                .streams
                .get(&id)
                .is_some_and(|stream| stream.update == Update::Due)
            {
                self.tell(id, out, end);
            }
        }
    }

    /// Tells the peer what was received of a stream, and up to where it may send.
    pub(super) fn tell(&mut self, id: StreamId, out: &mut BytesMut, end: usize) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.update = Update::None;
        let allowance = self
            .credit
            .allowance(&stream.receive, self.window.path_need());
        let limit = self.credit.track(&mut stream.receive, |receive| {
            receive.window().advance_limit(allowance)
        });
        let received = stream.receive.told();
        put(
            out,
            end,
            &TunnelFrame::Window {
                stream: id,
                received,
                limit,
            },
        );
        self.forget_if_over(id);
    }

    fn transmit_opens(&mut self, out: &mut BytesMut, end: usize) {
        while let Some(&id) = self.opens.front() {
            if let Some(stream) = self.streams.get_mut(&id)
                && let Some(details) = stream.opening.due().cloned()
            {
                if !has_room(out, end.saturating_sub(details.len())) {
                    return;
                }
                let allowance = self.credit.allowance(&stream.receive, 0);
                let window = self.credit.track(&mut stream.receive, |receive| {
                    receive.window().advance_limit(allowance)
                });
                put(
                    out,
                    end,
                    &TunnelFrame::Open {
                        stream: id,
                        window,
                        details,
                    },
                );
                self.announced(id);
            }
            self.opens.pop_front();
        }
    }

    fn announced(&mut self, id: StreamId) {
        self.next_announced = self.next_announced.max(id.0.saturating_add(2));
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.opening.leave();
            self.is_to_send(id);
        }
    }

    /// Notes that the stream may have something to send.
    pub(super) fn is_to_send(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        if stream.send.unsent() > 0 {
            self.schedule.add(id);
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

    /// One DATA frame of the stream whose turn it is, and its FIN when that was all. Says whether there was room: only the first frame, at `begin`, is cut to
    /// what there is. The rest of another one would share the next message, cut another one there, and so on.
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
        let Turn {
            id,
            share,
            credit,
            is_scheduled,
        } = turn;
        let Some(stream) = self
            .streams
            .get_mut(&id)
            .filter(|stream| stream.opening.due().is_none())
        else {
            self.turn_is_over(turn, 0, false);
            return true;
        };
        let unsent = stream.send.unsent();
        let sendable = unsent.min(credit.saturating_add(stream.send.again()));
        if sendable == 0 && unsent > 0 {
            self.turn_is_over(turn, 0, false);
            if is_scheduled {
                self.parked.insert(id);
            }
            return true;
        }
        let length = share
            .min(PIECE_MAX)
            .min(usize::try_from(sendable).unwrap_or(PIECE_MAX));
        if length > room && out.len() > begin {
            return false;
        }
        let length = length.min(room);
        if length > 0 {
            frame::data_header(out, id, stream.send.next(), length);
        }
        let (copied, fresh) = self
            .load
            .track(&mut stream.send, |send| send.transmit(out, length));
        debug_assert_eq!(copied, length, "what is unsent is kept");
        self.tunnel_sent = self.tunnel_sent.saturating_add(fresh);
        let more = stream.send.unsent() > 0;
        if stream.wants_write && self.load.is_worth_waking(stream) {
            stream.wants_write = false;
            self.events.push_back(Event::Writable(id));
        }
        self.turn_is_over(turn, copied, more);
        self.transmit_end(out, id);
        true
    }

    /// Whose turn it is, and what it may send. Once only [`INTERACTIVE_RESERVE`] is left of the credit, streams that move little share that, and the others
    /// keep their places in the round.
    fn next_turn(&mut self) -> Option<Turn> {
        let credit = self.credit_of_bulk();
        if credit > 0 || self.load.again > 0 {
            let under_way = self.load.kept.saturating_sub(self.load.unsent);
            let (id, share) = self.schedule.next(schedule::quantum(under_way))?;
            return Some(Turn {
                id,
                share,
                credit,
                is_scheduled: true,
            });
        }
        let id = *self.little.first()?;
        let credit = self.tunnel_limit.saturating_sub(self.tunnel_sent);
        let moves_little = self
            .streams
            .get(&id)
            .is_some_and(|stream| self.moves_little(stream));
        Some(Turn {
            id,
            share: usize::MAX,
            credit: if moves_little { credit } else { 0 },
            is_scheduled: false,
        })
    }

    fn turn_is_over(&mut self, turn: Turn, bytes: usize, more: bool) {
        if turn.is_scheduled {
            self.schedule.sent(bytes, more);
        }
        if !turn.is_scheduled || !more {
            self.little.remove(&turn.id);
        }
    }

    /// The tunnel's credit, less what is left to streams that move little.
    fn credit_of_bulk(&self) -> u64 {
        self.tunnel_limit
            .saturating_sub(self.tunnel_sent)
            .saturating_sub(self.reserve())
    }

    /// A small tunnel keeps an eighth of its first window.
    fn reserve(&self) -> u64 {
        INTERACTIVE_RESERVE.min(self.grant.tunnel_window / 8)
    }

    /// Whether the stream may use [`INTERACTIVE_RESERVE`].
    pub(super) fn moves_little(&self, stream: &Stream) -> bool {
        stream.send.kept() <= self.reserve() / 2
    }

    /// The FIN or RESET of a stream, when everything before it was sent. Room for it was left.
    fn transmit_end(&mut self, out: &mut BytesMut, id: StreamId) {
        let is_due =
            |stream: &&mut Stream| stream.opening.due().is_none() && stream.send.is_end_due();
        let Some(stream) = self.streams.get_mut(&id).filter(is_due) else {
            return;
        };
        let final_offset = stream.send.sent();
        match stream.send.end() {
            Some(End::Fin) => TunnelFrame::Fin {
                stream: id,
                final_offset,
            }
            .encode(out),
            Some(End::Reset(code)) => TunnelFrame::Reset {
                stream: id,
                final_offset,
                code,
            }
            .encode(out),
            None => return,
        }
        stream.send.end_was_sent();
        // A FIN before it may have been the last thing that the peer acknowledges.
        self.forget_if_over(id);
    }
}

pub(super) fn has_room(out: &BytesMut, end: usize) -> bool {
    end.saturating_sub(out.len()) >= FRAME_MAX
}

pub(super) fn put(out: &mut BytesMut, end: usize, frame: &TunnelFrame) {
    debug_assert!(has_room(out, end), "room was checked");
    frame.encode(out);
}
