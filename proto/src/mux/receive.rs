//! The receive path: checks every frame of a message against the state before it changes anything.

use std::time::Instant;

use bytes::{Buf, Bytes};

use super::{
    DETAILS_MAX, Mux, MuxError, MuxEvent, REFUSED_MIN, ResetCode, StreamId, TunnelFrame,
    open_state::OpenState,
    stream::{StreamEnd, StreamState},
};
use crate::map::Map;

/// The largest frame that counts as interactive, in bytes: a keystroke, a prompt or a small answer.
const INTERACTIVE_FRAME_MAX: u64 = 1024;

/// The largest amount that an interactive stream moves, in bytes, in the time in which a bulk
/// stream would use up its window.
const INTERACTIVE_STREAM_MAX: u64 = 16 * 1024;

impl Mux {
    /// Processes a message from the peer.
    ///
    /// # Errors
    /// If the peer broke the protocol. The tunnel must end then. The frames before the faulty one
    /// have taken effect.
    pub fn handle_message(&mut self, now: Instant, mut message: Bytes) -> Result<(), MuxError> {
        if !message.is_empty() {
            self.resume_state.mark_candidates_stale();
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
                    bytes: self.detach_from_message(stream, bytes, length),
                },
                frame => frame,
            };
            self.handle_frame(now, frame)?;
        }
        self.update_budget();
        Ok(())
    }

    /// Copies `bytes` unless the application is about to take them. A piece that waits keeps its
    /// whole message in memory, and possibly the read buffer; a copy does not. If the application
    /// has proved that it reads, two kinds of pieces are not copied: large ones, and small ones for
    /// which it waits.
    fn detach_from_message(&self, id: StreamId, bytes: Bytes, message: usize) -> Bytes {
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
        if self.close_state.is_ended_by_peer() {
            return Err(MuxError::Protocol("frame after END"));
        }
        let is_listing = self.resume_state.admit(&frame)?;
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
            } => self.handle_end(now, stream, final_offset, StreamEnd::Fin),
            TunnelFrame::Reset {
                stream,
                final_offset,
                code,
            } => self.handle_end(now, stream, final_offset, StreamEnd::Reset(code)),
            TunnelFrame::Window {
                stream,
                received,
                limit,
            } => self.handle_window(stream, received, limit),
            frame => self.handle_tunnel_frame(now, frame),
        }
    }

    /// Processes a frame that concerns the tunnel and no stream.
    fn handle_tunnel_frame(&mut self, now: Instant, frame: TunnelFrame) -> Result<(), MuxError> {
        match frame {
            TunnelFrame::TunnelWindow { limit } => self.handle_tunnel_window(limit),
            TunnelFrame::Ping { token } => self.pending_pong = Some(token),
            TunnelFrame::Pong { token } => {
                let progress = self.progress();
                if let Some(sample) = self.rtt.on_pong(now, token, progress) {
                    self.window.bandwidth().on_rtt_sample(now, sample);
                }
            }
            TunnelFrame::Resume { seen, opened } => return self.handle_resume(seen, opened),
            TunnelFrame::Resumed => return self.handle_resumed(),
            TunnelFrame::End { code } => {
                self.close_state.set_ended_by_peer();
                self.events.push_back(MuxEvent::Closed(code));
            }
            TunnelFrame::Open { .. }
            | TunnelFrame::Data { .. }
            | TunnelFrame::Fin { .. }
            | TunnelFrame::Reset { .. }
            | TunnelFrame::Window { .. } => {}
        }
        Ok(())
    }

    fn handle_open(
        &mut self,
        now: Instant,
        id: StreamId,
        window: u64,
        details: Bytes,
    ) -> Result<(), MuxError> {
        // After a resumption the peer may repeat an OPEN that has arrived.
        if self.resume_state.has_resumed() && !self.is_local(id) && id.0 < self.next_peer {
            return Ok(());
        }
        if id.0 != self.next_peer {
            return Err(MuxError::Protocol("OPEN out of order"));
        }
        if details.len() > DETAILS_MAX {
            return Err(MuxError::Protocol("OPEN details too long"));
        }
        // A peer that keeps opening streams without ending the refused ones breaks the protocol.
        let permitted = self.parameters.streams_max;
        if self.peer_streams >= permitted.saturating_add(permitted.max(REFUSED_MIN)) {
            return Err(MuxError::Protocol(
                "too many refused streams that were never ended",
            ));
        }
        self.next_peer = self.next_peer.saturating_add(2);
        let full = self.peer_streams >= permitted;
        self.peer_streams = self.peer_streams.saturating_add(1);
        self.streams.insert(
            id,
            StreamState::new(self.parameters.stream_window, window, OpenState::Confirmed),
        );
        if full {
            self.reset(now, id, ResetCode::Limit);
            self.release(now, id);
        } else {
            // Copy the details: a slice would retain the whole message until the application
            // accepts the stream.
            self.events.push_back(MuxEvent::Opened {
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
        bytes: Bytes,
    ) -> Result<(), MuxError> {
        let Some(stream) = find_stream(&mut self.streams, id, self.next_local, self.next_peer)?
        else {
            return Ok(());
        };
        let Some(bytes) = new_data(stream, offset, bytes)? else {
            return Ok(());
        };
        let length = bytes.len() as u64;
        if !self.window.receive(now, length) {
            return Err(MuxError::FlowControl("data beyond the tunnel window"));
        }
        // Data that no application will read still counts, so that its credit returns.
        let unwanted = stream.released || matches!(stream.send.end(), Some(StreamEnd::Reset(_)));
        if unwanted {
            self.credit
                .track(&mut stream.receive, |receive| receive.skip(length));
            self.discard(now, id);
            return Ok(());
        }
        // A stream that moves much is bulk; small frames of another one are interactive.
        if stream.receive.window().consumed_since_mark() > INTERACTIVE_STREAM_MAX {
            self.window.bandwidth().interactive().clear(id.0);
        } else if length <= INTERACTIVE_FRAME_MAX {
            self.window.bandwidth().interactive().on_activity(now, id.0);
        }
        stream.receive.receive(bytes);
        if std::mem::take(&mut stream.wants_read) {
            self.events.push_back(MuxEvent::Readable(id));
        }
        if stream.receive.is_acknowledgement_due() {
            self.ack_immediately(id);
        } else if self.delay_ack(id) {
            self.ack_queue.on_received(now, length);
        }
        Ok(())
    }

    fn handle_end(
        &mut self,
        now: Instant,
        id: StreamId,
        final_offset: u64,
        end: StreamEnd,
    ) -> Result<(), MuxError> {
        let Some(stream) = find_stream(&mut self.streams, id, self.next_local, self.next_peer)?
        else {
            return Ok(());
        };
        let is_reset = matches!(end, StreamEnd::Reset(_));
        let Some(missing) = missing_bytes(stream, final_offset, is_reset)? else {
            return Ok(());
        };
        self.credit.track(&mut stream.receive, |receive| {
            receive.finish(end);
            receive.skip(missing);
        });
        self.window.bandwidth().interactive().clear(id.0);
        if !self.window.receive(now, missing) {
            return Err(MuxError::FlowControl(
                "final offset beyond the tunnel window",
            ));
        }
        if is_reset {
            self.events.push_back(MuxEvent::Reset(id));
            // A RESET needs an answer unless this end has sent FIN or RESET (PROTOCOL 9.4).
            let answered = stream.send.is_end_sent();
            self.discard(now, id);
            if !answered {
                self.end(id, StreamEnd::Reset(ResetCode::Cancelled));
            }
        }
        self.wake(id);
        if self.delay_ack(id) {
            self.ack_queue.expire_soon(now);
        }
        Ok(())
    }

    /// Processes an acknowledgement and new credit for a stream.
    pub(super) fn handle_window(
        &mut self,
        id: StreamId,
        received: u64,
        limit: u64,
    ) -> Result<(), MuxError> {
        let Some(stream) = find_stream(&mut self.streams, id, self.next_local, self.next_peer)?
        else {
            return Ok(());
        };
        let was_end_due = stream.send.is_end_due();
        if !self
            .send_totals
            .track(&mut stream.send, |send| send.acknowledge(received, limit))
        {
            return Err(MuxError::Protocol(
                "WINDOW acknowledges data that was never sent",
            ));
        }
        // The acknowledgement may cover all data before the end, which then need not be sent again.
        if !was_end_due && stream.send.is_end_due() {
            self.ends.push_back(id);
        }
        if stream.wants_write
            && (self.send_totals.should_wake(stream) || stream.send.is_end_acknowledged())
        {
            stream.wants_write = false;
            self.events.push_back(MuxEvent::Writable(id));
        }
        self.remove_if_complete(id);
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
                    self.schedule.add(id, super::send_totals::QUANTUM);
                }
            }
        }
    }
}

/// Returns the stream, or `None` if it is complete already.
///
/// # Errors
/// If the stream was never opened, or its OPEN was not sent yet.
fn find_stream(
    streams: &mut Map<StreamId, StreamState>,
    id: StreamId,
    next_local: u64,
    next_peer: u64,
) -> Result<Option<&mut StreamState>, MuxError> {
    let next = if id.0 % 2 == next_local % 2 {
        next_local
    } else {
        next_peer
    };
    if id.0 >= next {
        return Err(MuxError::Protocol(
            "frame for a stream that was never opened",
        ));
    }
    match streams.get_mut(&id) {
        Some(stream) if !stream.open_state.is_announced() => Err(MuxError::Protocol(
            "frame for a stream whose OPEN was not sent",
        )),
        Some(stream) => {
            stream.open_state.confirm();
            Ok(Some(stream))
        }
        None => Ok(None),
    }
}

/// Returns the part of the DATA from `offset` that has not arrived before, or `None` if there is
/// none.
///
/// # Errors
/// If the frame does not follow the received bytes, or exceeds the stream's window.
fn new_data(
    stream: &mut StreamState,
    offset: u64,
    mut bytes: Bytes,
) -> Result<Option<Bytes>, MuxError> {
    if bytes.is_empty() {
        return Err(MuxError::Protocol("DATA without bytes"));
    }
    let received = stream.receive.received();
    if offset > received {
        return Err(MuxError::Protocol("DATA leaves a gap"));
    }
    let repeated = usize::try_from(received.saturating_sub(offset)).unwrap_or(usize::MAX);
    if repeated >= bytes.len() {
        return Ok(None);
    }
    bytes.advance(repeated);
    if stream.receive.end().is_some() {
        return Err(MuxError::Protocol("DATA after the end of the direction"));
    }
    let length = bytes.len() as u64;
    if received.saturating_add(length) > stream.receive.window().limit() {
        return Err(MuxError::FlowControl("data beyond the stream window"));
    }
    Ok(Some(bytes))
}

/// Returns how many bytes before an end at `final_offset` were never sent, or `None` if the
/// direction has ended before and the frame changes nothing.
///
/// # Errors
/// If the offset does not match the received bytes or an earlier end, or exceeds the stream's
/// window.
fn missing_bytes(
    stream: &mut StreamState,
    final_offset: u64,
    is_reset: bool,
) -> Result<Option<u64>, MuxError> {
    let received = stream.receive.received();
    let missing = final_offset.saturating_sub(received);
    if final_offset < received || (missing > 0 && !is_reset) {
        return Err(MuxError::Protocol(
            "final offset does not match the received bytes",
        ));
    }
    match stream.receive.end() {
        Some(_) if missing > 0 => {
            return Err(MuxError::Protocol(
                "second end of a stream at another offset",
            ));
        }
        Some(StreamEnd::Reset(_)) => return Ok(None),
        Some(StreamEnd::Fin) if !is_reset => return Ok(None),
        _ => {}
    }
    if final_offset > stream.receive.window().limit() {
        return Err(MuxError::FlowControl(
            "final offset beyond the stream window",
        ));
    }
    Ok(Some(missing))
}
