//! The receive path: checks every frame of a message against the state before it changes anything.

use std::time::Instant;

use bytes::Bytes;

use super::{
    DETAILS_MAX, LaneId, Mux, MuxError, MuxEvent, REFUSED_MIN, ResetCode, StreamId, TunnelFrame,
    open_state::OpenState,
    opened::OpenedStreams,
    stream::{StreamEnd, StreamState},
};
use crate::map::Map;

/// The largest number of acknowledgements for forgotten streams that wait to be sent. A peer repeats
/// the ends of its streams once per lane that ends.
const FORGOTTEN_ENDS_MAX: usize = 65_536;

/// The largest frame that counts as interactive, in bytes: a keystroke, a prompt or a small answer.
const INTERACTIVE_FRAME_MAX: u64 = 1024;

/// The largest amount that an interactive stream moves, in bytes, in the time in which a bulk
/// stream would use up its window.
const INTERACTIVE_STREAM_MAX: u64 = 16 * 1024;

impl Mux {
    /// Processes a message of the peer that arrived on `lane`.
    ///
    /// # Errors
    /// If the peer broke the protocol. The tunnel must end then. The frames before the faulty one
    /// have taken effect.
    pub fn handle_message(
        &mut self,
        now: Instant,
        lane: LaneId,
        mut message: Bytes,
    ) -> Result<(), MuxError> {
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
            self.handle_frame(now, lane, frame)?;
        }
        self.repeat_reported(now);
        self.schedule_confirmed();
        self.watch_waiting(now);
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

    fn handle_frame(
        &mut self,
        now: Instant,
        lane: LaneId,
        frame: TunnelFrame,
    ) -> Result<(), MuxError> {
        if self.close_state.is_ended_by_peer() {
            return Err(MuxError::Protocol("frame after END"));
        }
        let is_listing = self.resume_state.admit(lane, &frame)?;
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
            } => {
                self.lane_flows.on_received(lane, bytes.len() as u64);
                self.handle_data(now, stream, offset, bytes)
            }
            TunnelFrame::Fin {
                stream,
                final_offset,
            } => self.handle_fin(now, stream, final_offset),
            TunnelFrame::Reset {
                stream,
                final_offset,
                code,
            } => self.handle_reset(now, stream, final_offset, code),
            TunnelFrame::Window {
                stream,
                received,
                limit,
            } => self.handle_window(stream, received, limit),
            frame => self.handle_tunnel_frame(now, lane, frame),
        }
    }

    /// Processes a frame that concerns the tunnel and no stream.
    fn handle_tunnel_frame(
        &mut self,
        now: Instant,
        lane: LaneId,
        frame: TunnelFrame,
    ) -> Result<(), MuxError> {
        match frame {
            TunnelFrame::TunnelWindow { limit } => self.handle_tunnel_window(limit),
            TunnelFrame::Ping { token } => self.pending_pong = Some(token),
            TunnelFrame::Pong { token } => {
                self.control_watch.on_pong(now, token);
                self.return_control(now);
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
            TunnelFrame::Lost { lane } => self.handle_lost(lane),
            TunnelFrame::Lanes { number, lanes } => return self.handle_lanes(number, lanes),
            TunnelFrame::Received { lane, bytes } => {
                let min_rtt = self.window.bandwidth().min_rtt();
                self.lane_flows.on_report(now, lane, bytes, min_rtt);
            }
            TunnelFrame::Datagram { .. }
            | TunnelFrame::OpenFlow { .. }
            | TunnelFrame::Flow { .. }
            | TunnelFrame::EndFlow { .. }
            | TunnelFrame::DatagramsReceived { .. } => {
                return self.handle_flow_frame(now, lane, frame);
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
        if self.is_local(id) {
            return Err(MuxError::Protocol("OPEN with a stream of the wrong side"));
        }
        // After the end or a stall of a lane the peer may repeat an OPEN that has arrived.
        if !self.opened_by_peer.is_missing(id) {
            return Ok(());
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
        self.opened_by_peer.add(id)?;
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
        if bytes.is_empty() {
            return Err(MuxError::Protocol("DATA without bytes"));
        }
        let frame_bytes = bytes.len() as u64;
        if self.find_stream(id)?.is_none() {
            return Ok(());
        }
        let received = self.change_receive(now, id, |receive| {
            let had_end = receive.end().is_some();
            let length = receive.receive(offset, bytes)?;
            Ok((length, receive.end().is_some() && !had_end))
        });
        let Some((length, has_ended)) = received.transpose()?.filter(|(length, _)| *length > 0)
        else {
            return Ok(());
        };
        let waited = self.rtt.waited(now);
        self.window.bandwidth().on_ping_wait(now, waited);
        if !self.window.receive(now, length) {
            return Err(MuxError::FlowControl("data beyond the tunnel window"));
        }
        self.gaps.check()?;
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        // Data that no application will read still counts, so that its credit returns.
        let unwanted = stream.released || matches!(stream.send.end(), Some(StreamEnd::Reset(_)));
        if unwanted {
            self.discard(now, id);
        } else {
            self.on_wanted_data(now, id, frame_bytes);
        }
        if has_ended {
            self.on_direction_ended(now, id);
        }
        Ok(())
    }

    /// Handles data that the application will read: wakes it, and schedules the acknowledgement.
    fn on_wanted_data(&mut self, now: Instant, id: StreamId, length: u64) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        // A stream that moves much is bulk; small frames of another one are interactive.
        if stream.receive.window().consumed_since_mark() > INTERACTIVE_STREAM_MAX {
            self.window.bandwidth().interactive().clear(id.0);
        } else if length <= INTERACTIVE_FRAME_MAX {
            self.window.bandwidth().interactive().on_activity(now, id.0);
        }
        if std::mem::take(&mut stream.wants_read) {
            self.events.push_back(MuxEvent::Readable(id));
        }
        if stream.receive.is_acknowledgement_due() {
            self.ack_immediately(id);
        } else if self.delay_ack(id) {
            self.ack_queue.on_received(now, length);
        }
    }

    fn handle_fin(
        &mut self,
        now: Instant,
        id: StreamId,
        final_offset: u64,
    ) -> Result<(), MuxError> {
        if self.find_stream(id)?.is_none() {
            return self.acknowledge_forgotten(id, final_offset);
        }
        let finished = self.change_receive(now, id, |receive| receive.finish(final_offset));
        if finished.transpose()? == Some(true) {
            self.on_direction_ended(now, id);
        }
        Ok(())
    }

    fn handle_reset(
        &mut self,
        now: Instant,
        id: StreamId,
        final_offset: u64,
        code: ResetCode,
    ) -> Result<(), MuxError> {
        if self.find_stream(id)?.is_none() {
            return self.acknowledge_forgotten(id, final_offset);
        }
        let reset = self.change_receive(now, id, |receive| receive.reset(final_offset, code));
        if let Some(missing) = reset.transpose()?.flatten() {
            if !self.window.skip(missing) {
                return Err(MuxError::FlowControl(
                    "final offset beyond the tunnel window",
                ));
            }
            self.events.push_back(MuxEvent::Reset(id));
            // A RESET needs an answer unless this end has sent FIN or RESET (PROTOCOL 9.4).
            let answered = self
                .streams
                .get(&id)
                .is_some_and(|stream| stream.send.is_end_sent());
            self.discard(now, id);
            if !answered {
                self.end(id, StreamEnd::Reset(ResetCode::Cancelled));
            }
        }
        self.on_direction_ended(now, id);
        Ok(())
    }

    /// Wakes the application at the end of a direction, and schedules its acknowledgement.
    fn on_direction_ended(&mut self, now: Instant, id: StreamId) {
        self.window.bandwidth().interactive().clear(id.0);
        self.wake(id);
        if self.delay_ack(id) {
            self.ack_queue.expire_soon(now);
        }
    }

    /// Acknowledges the end of a stream that is forgotten here. The peer repeats the end if a lane
    /// ended before the first acknowledgement arrived.
    fn acknowledge_forgotten(&mut self, id: StreamId, final_offset: u64) -> Result<(), MuxError> {
        if self.forgotten_ends.len() >= FORGOTTEN_ENDS_MAX {
            return Err(MuxError::Protocol("too many ends of forgotten streams"));
        }
        self.forgotten_ends.push_back((id, final_offset));
        Ok(())
    }

    /// Processes an acknowledgement and new credit for a stream.
    pub(super) fn handle_window(
        &mut self,
        id: StreamId,
        received: u64,
        limit: u64,
    ) -> Result<(), MuxError> {
        let Some(stream) =
            find_stream(&mut self.streams, &self.opened_by_peer, self.next_local, id)?
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
            self.peer_window = limit
                .saturating_sub(self.tunnel_sent)
                .saturating_add(self.send_totals.in_flight());
            while let Some(id) = self.parked.pop_first() {
                if self
                    .streams
                    .get(&id)
                    .is_some_and(|stream| stream.send.unsent() > 0)
                {
                    self.schedule_data(id);
                }
            }
        }
    }
}

impl Mux {
    /// Returns the stream, or `None` if it is forgotten.
    ///
    /// # Errors
    /// If the stream was never opened, or its OPEN was not sent yet.
    fn find_stream(&mut self, id: StreamId) -> Result<Option<&mut StreamState>, MuxError> {
        find_stream(&mut self.streams, &self.opened_by_peer, self.next_local, id)
    }
}

/// Returns the stream, or `None` if it is forgotten.
///
/// # Errors
/// If the stream was never opened, or its OPEN was not sent yet.
fn find_stream<'a>(
    streams: &'a mut Map<StreamId, StreamState>,
    opened_by_peer: &OpenedStreams,
    next_local: u64,
    id: StreamId,
) -> Result<Option<&'a mut StreamState>, MuxError> {
    let is_unopened = if id.0 % 2 == next_local % 2 {
        id.0 >= next_local
    } else {
        opened_by_peer.is_missing(id)
    };
    if is_unopened {
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
