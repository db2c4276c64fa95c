//! What the mux receives: every frame of a message, checked against the state before it changes anything.

use std::time::Instant;

use bytes::{Buf, Bytes};

use super::{
    DETAILS_MAX, Event, Mux, MuxError, REFUSED_MIN, ResetCode, StreamId, TunnelFrame,
    opening::Opening,
    stream::{End, Stream},
};
use crate::map::Map;

/// What a keystroke, a prompt or a small answer is at most, in bytes.
const LITTLE_AT_A_TIME: u64 = 1024;

/// A stream that moves little has moved no more within the time in which another would use its window up, in bytes.
const LITTLE: u64 = 16 * 1024;

impl Mux {
    /// Takes a message of the peer.
    ///
    /// # Errors
    /// When the peer broke the protocol. The tunnel must end then: the state is that of the frames before.
    pub fn handle_message(&mut self, now: Instant, mut message: Bytes) -> Result<(), MuxError> {
        if !message.is_empty() {
            self.resumption.something_moved();
        }
        let length = message.len();
        while !message.is_empty() {
            let frame = match TunnelFrame::decode(&mut message)? {
                TunnelFrame::Data {
                    stream,
                    offset,
                    bytes,
                } => TunnelFrame::Data {
                    stream,
                    offset,
                    bytes: self.unpinned(stream, bytes, length),
                },
                frame => frame,
            };
            self.handle_frame(now, frame)?;
        }
        self.settle();
        Ok(())
    }

    /// A piece that waits for its application keeps its whole message in memory, and perhaps what was read with it: a copy does not. A large piece is not
    /// copied for an application that has shown that it reads, nor a small one for such an application that waits for it.
    fn unpinned(&self, id: StreamId, bytes: Bytes, message: usize) -> Bytes {
        let is_taken = self.streams.get(&id).is_some_and(|stream| {
            let is_large = bytes.len() >= message / 2;
            stream.receive.is_proven() && (is_large || stream.wants_read)
        });
        if is_taken {
            bytes
        } else {
            Bytes::copy_from_slice(&bytes)
        }
    }

    fn handle_frame(&mut self, now: Instant, frame: TunnelFrame) -> Result<(), MuxError> {
        if self.closing.is_ended_by_peer() {
            return Err(MuxError::Protocol("a frame after END"));
        }
        let is_listing = self.resumption.admit(&frame)?;
        match frame {
            TunnelFrame::Window {
                stream,
                received,
                limit,
            } if is_listing => self.handle_listed(stream, received, limit),
            TunnelFrame::Open {
                stream,
                window,
                details,
            } => self.handle_open(now, stream, window, details),
            TunnelFrame::Data {
                stream,
                offset,
                bytes,
            } => self.handle_data(now, stream, offset, bytes),
            TunnelFrame::Fin {
                stream,
                final_offset,
            } => self.handle_end(now, stream, final_offset, End::Fin),
            TunnelFrame::Reset {
                stream,
                final_offset,
                code,
            } => self.handle_end(now, stream, final_offset, End::Reset(code)),
            TunnelFrame::Window {
                stream,
                received,
                limit,
            } => self.handle_window(stream, received, limit),
            TunnelFrame::TunnelWindow { limit } => {
                self.handle_tunnel_window(limit);
                Ok(())
            }
            TunnelFrame::Ping { token } => {
                self.pong = Some(token);
                Ok(())
            }
            TunnelFrame::Pong { token } => {
                let progress = self.progress();
                if let Some(sample) = self.round_trip.pong(now, token, progress) {
                    self.window.delivery().answered(now, sample);
                }
                Ok(())
            }
            TunnelFrame::Resume { seen, opened } => self.handle_resume(seen, opened),
            TunnelFrame::Resumed => self.handle_resumed(),
            TunnelFrame::End { code } => {
                self.closing.ended_by_peer();
                self.events.push_back(Event::Closed(code));
                Ok(())
            }
        }
    }

    fn handle_open(
        &mut self,
        now: Instant,
        id: StreamId,
        window: u64,
        details: Bytes,
    ) -> Result<(), MuxError> {
        if self.resumption.has_happened() && !self.is_local(id) && id.0 < self.next_peer {
            return Ok(());
        }
        if id.0 != self.next_peer {
            return Err(MuxError::Protocol(
                "OPEN of a stream that is not the next one",
            ));
        }
        if details.len() > DETAILS_MAX {
            return Err(MuxError::Protocol("OPEN with details that are too long"));
        }
        // A peer that goes on opening without ever finishing what was refused is not one to serve.
        let permitted = self.parameters.streams_max;
        if self.peer_streams >= permitted.saturating_add(permitted.max(REFUSED_MIN)) {
            return Err(MuxError::Protocol(
                "too many streams that were refused and never ended",
            ));
        }
        self.next_peer = self.next_peer.saturating_add(2);
        let full = self.peer_streams >= permitted;
        self.peer_streams = self.peer_streams.saturating_add(1);
        self.streams.insert(
            id,
            Stream::new(self.parameters.stream_window, window, Opening::Known),
        );
        if full {
            self.reset(now, id, ResetCode::Limit);
            self.release(now, id);
        } else {
            // A copy: a slice would hold the whole message for as long as nobody accepts the stream.
            self.events.push_back(Event::Opened {
                stream: id,
                details: Bytes::copy_from_slice(&details),
            });
        }
        Ok(())
    }

    fn handle_data(
        &mut self,
        now: Instant,
        id: StreamId,
        offset: u64,
        mut bytes: Bytes,
    ) -> Result<(), MuxError> {
        let Some(stream) = known(&mut self.streams, id, self.next_local, self.next_peer)? else {
            return Ok(());
        };
        if bytes.is_empty() {
            return Err(MuxError::Protocol("DATA without bytes"));
        }
        let received = stream.receive.received();
        if offset > received {
            return Err(MuxError::Protocol("DATA that leaves a gap"));
        }
        let repeated = usize::try_from(received.saturating_sub(offset)).unwrap_or(usize::MAX);
        if repeated >= bytes.len() {
            return Ok(());
        }
        bytes.advance(repeated);
        if stream.receive.end().is_some() {
            return Err(MuxError::Protocol("DATA after the end of its direction"));
        }
        let length = bytes.len() as u64;
        if received.saturating_add(length) > stream.receive.window().limit() {
            return Err(MuxError::FlowControl("beyond the window of the stream"));
        }
        if !self.window.receive(now, length) {
            return Err(MuxError::FlowControl("beyond the window of the tunnel"));
        }
        let unwanted = stream.released || matches!(stream.send.end(), Some(End::Reset(_)));
        if unwanted {
            self.credit
                .track(&mut stream.receive, |receive| receive.skip(length));
            self.discard(now, id);
            return Ok(());
        }
        if stream.receive.window().consumed_lately() > LITTLE {
            self.window.delivery().company().leaves(id.0);
        } else if length <= LITTLE_AT_A_TIME {
            self.window.delivery().company().comes(now, id.0);
        }
        stream.receive.receive(bytes);
        if std::mem::take(&mut stream.wants_read) {
            self.events.push_back(Event::Readable(id));
        }
        if stream.receive.is_acknowledgement_due() {
            self.update_at_once(id);
        } else if self.update_in_a_while(id) {
            self.updates.came(now, length);
        }
        Ok(())
    }

    fn handle_end(
        &mut self,
        now: Instant,
        id: StreamId,
        final_offset: u64,
        end: End,
    ) -> Result<(), MuxError> {
        let Some(stream) = known(&mut self.streams, id, self.next_local, self.next_peer)? else {
            return Ok(());
        };
        let received = stream.receive.received();
        let missing = final_offset.saturating_sub(received);
        let is_reset = matches!(end, End::Reset(_));
        if final_offset < received || (missing > 0 && !is_reset) {
            return Err(MuxError::Protocol(
                "an end at another offset than that of the bytes",
            ));
        }
        match stream.receive.end() {
            Some(_) if missing > 0 => {
                return Err(MuxError::Protocol("a second end at another offset"));
            }
            Some(End::Reset(_)) => return Ok(()),
            Some(End::Fin) if !is_reset => return Ok(()),
            _ => {}
        }
        if final_offset > stream.receive.window().limit() {
            return Err(MuxError::FlowControl(
                "a final offset beyond the window of the stream",
            ));
        }
        self.credit.track(&mut stream.receive, |receive| {
            receive.finish(end);
            receive.skip(missing);
        });
        self.window.delivery().company().leaves(id.0);
        if !self.window.receive(now, missing) {
            return Err(MuxError::FlowControl(
                "a final offset beyond the window of the tunnel",
            ));
        }
        if is_reset {
            self.events.push_back(Event::Reset(id));
            let answered = stream.send.is_end_sent();
            self.discard(now, id);
            if !answered {
                self.end(id, End::Reset(ResetCode::Cancelled));
            }
        }
        self.wake(id);
        if self.update_in_a_while(id) {
            self.updates.expire_soon(now);
        }
        Ok(())
    }

    /// What was taken is kept no more, and there is new credit.
    pub(super) fn handle_window(
        &mut self,
        id: StreamId,
        received: u64,
        limit: u64,
    ) -> Result<(), MuxError> {
        let Some(stream) = known(&mut self.streams, id, self.next_local, self.next_peer)? else {
            return Ok(());
        };
        let was_end_due = stream.send.is_end_due();
        if !self
            .load
            .track(&mut stream.send, |send| send.acknowledge(received, limit))
        {
            return Err(MuxError::Protocol(
                "WINDOW that acknowledges what was not sent",
            ));
        }
        // What stood before the end need not be sent again.
        if !was_end_due && stream.send.is_end_due() {
            self.ends.push_back(id);
        }
        if stream.wants_write
            && (self.load.is_worth_waking(stream) || stream.send.is_end_acknowledged())
        {
            stream.wants_write = false;
            self.events.push_back(Event::Writable(id));
        }
        self.forget_if_over(id);
        Ok(())
    }

    fn handle_tunnel_window(&mut self, limit: u64) {
        if limit > self.tunnel_limit {
            self.tunnel_limit = limit;
            while let Some(id) = self.parked.pop_first() {
                if self
                    .streams
                    .get(&id)
                    .is_some_and(|stream| stream.send.unsent() > 0)
                {
                    self.schedule.add(id);
                }
            }
        }
    }
}

/// The stream, or nothing when it is over already; a frame for one that was never opened breaks the protocol.
fn known(
    streams: &mut Map<StreamId, Stream>,
    id: StreamId,
    next_local: u64,
    next_peer: u64,
) -> Result<Option<&mut Stream>, MuxError> {
    let next = if id.0 % 2 == next_local % 2 {
        next_local
    } else {
        next_peer
    };
    if id.0 >= next {
        return Err(MuxError::Protocol(
            "a frame of a stream that was never opened",
        ));
    }
    match streams.get_mut(&id) {
        Some(stream) if !stream.opening.is_announced() => Err(MuxError::Protocol(
            "a frame of a stream whose OPEN has not left",
        )),
        Some(stream) => {
            stream.opening.heard();
            Ok(Some(stream))
        }
        None => Ok(None),
    }
}
