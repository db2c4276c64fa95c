//! What the mux sends: which frames go into the next message, and in which order. Small frames first, then data in fair shares.

use std::time::Instant;

use bytes::BytesMut;

use super::{
    Control, Mux, StreamId, TunnelFrame,
    frame::{self, DATA_OVERHEAD, FRAME_MAX},
    stream::{End, Update},
};
use crate::mux::Event;

/// A message is not worth starting a DATA frame in when less than this is left, in bytes.
const DATA_MIN: usize = 256;

impl Mux {
    /// Whether [`Mux::poll_transmit`] has something to send.
    #[must_use]
    pub fn has_transmit(&self) -> bool {
        self.pong.is_some() || !self.control.is_empty() || !self.due.is_empty() || self.window.is_update_due() || self.has_data()
    }

    /// Appends the next message to `out`, at most `room` bytes of it (at least 8 KiB make sense). Says whether there was anything.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut BytesMut, room: usize) -> bool {
        let start = out.len();
        let end = start.saturating_add(room);
        // Who grants credit needs the round trip as much as who sends.
        if (self.has_data() || !self.due.is_empty())
            && let Some(token) = self.round_trip.ping_due(now)
        {
            put(out, end, &TunnelFrame::Ping { token });
        }
        if let Some(token) = self.pong.take() {
            put(out, end, &TunnelFrame::Pong { token });
        }
        self.transmit_credit(out, end);
        self.transmit_control(out, end);
        while self.has_data() && self.transmit_data(out, end) {}
        self.check();
        out.len() > start
    }

    fn has_data(&self) -> bool {
        !self.schedule.is_empty() && self.tunnel_sent < self.tunnel_limit
    }

    fn transmit_credit(&mut self, out: &mut BytesMut, end: usize) {
        if self.window.is_update_due() {
            put(out, end, &TunnelFrame::TunnelWindow { limit: self.window.advance_limit() });
        }
        while has_room(out, end)
            && let Some(id) = self.due.pop_front()
        {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.update = Update::None;
            let limit = stream.receive.window().advance_limit();
            let received = stream.receive.told();
            put(out, end, &TunnelFrame::Window { stream: id, received, limit });
            self.forget_if_over(id);
        }
    }

    fn transmit_control(&mut self, out: &mut BytesMut, end: usize) {
        while let Some(control) = self.control.pop_front() {
            let details = if let Control::Open { details, .. } = &control { details.len() } else { 0 };
            if !has_room(out, end.saturating_sub(details)) {
                self.control.push_front(control);
                return;
            }
            match control {
                Control::Open { stream, window, details } => {
                    put(out, end, &TunnelFrame::Open { stream, window, details });
                    self.announced(stream);
                }
                Control::End(stream) => self.transmit_end(out, stream),
            }
        }
    }

    fn announced(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.announced = true;
            if stream.send.unsent() > 0 {
                self.schedule.add(id);
            }
        }
    }

    /// One DATA frame of the stream whose turn it is, and its FIN when that was all. Says whether there was room.
    fn transmit_data(&mut self, out: &mut BytesMut, end: usize) -> bool {
        let room = end.saturating_sub(out.len()).saturating_sub(DATA_OVERHEAD.saturating_add(FRAME_MAX));
        if room < DATA_MIN {
            return false;
        }
        let Some((id, share)) = self.schedule.next() else { return false };
        let credit = self.tunnel_limit.saturating_sub(self.tunnel_sent);
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.announced) else {
            self.schedule.sent(0, false);
            return true;
        };
        let length = room.min(share).min(usize::try_from(stream.send.unsent().min(credit)).unwrap_or(room));
        if length > 0 {
            frame::data_header(out, id, stream.send.next(), length);
        }
        let (copied, fresh) = stream.send.transmit(out, length);
        debug_assert_eq!(copied, length, "what is unsent is kept");
        self.tunnel_sent = self.tunnel_sent.saturating_add(fresh);
        self.load.unsent = self.load.unsent.saturating_sub(copied as u64);
        self.schedule.sent(copied, stream.send.unsent() > 0);
        if stream.wants_write && super::room(stream, self.load) > 0 {
            stream.wants_write = false;
            self.events.push_back(Event::Writable(id));
        }
        self.transmit_end(out, id);
        true
    }

    /// The FIN or RESET of a stream, when everything before it was sent. Room for it was left.
    fn transmit_end(&mut self, out: &mut BytesMut, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.send.is_end_due()) else { return };
        let final_offset = stream.send.sent();
        match stream.send.end() {
            Some(End::Fin) => TunnelFrame::Fin { stream: id, final_offset }.encode(out),
            Some(End::Reset(code)) => TunnelFrame::Reset { stream: id, final_offset, code }.encode(out),
            None => return,
        }
        stream.send.end_was_sent();
        // A FIN before it may have been the last thing that the peer acknowledges.
        self.forget_if_over(id);
    }
}

fn has_room(out: &BytesMut, end: usize) -> bool {
    end.saturating_sub(out.len()) >= FRAME_MAX
}

fn put(out: &mut BytesMut, end: usize, frame: &TunnelFrame) {
    debug_assert!(has_room(out, end), "room was checked");
    frame.encode(out);
}
