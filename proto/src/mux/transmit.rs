//! The send path: selects the frames of the next message and their order. Small frames come first,
//! then data (see `transmit_data`).

use std::time::Instant;

use bytes::BytesMut;

use super::{
    LaneId, Mux, StreamId, TunnelFrame,
    frame::FRAME_MAX,
    lanes::LaneLoad,
    rtt::FlowProgress,
    stream::{AckState, StreamEnd},
    transmit_data::SendingLane,
};

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
        let has_others = if load.has_control() {
            self.has_small_frames() || self.has_datagrams_for(lane)
        } else {
            self.has_overflow_for(lane)
        };
        has_others || self.has_data_for(SendingLane { id: lane, load })
    }

    /// Returns whether frames wait that only a lane with control carries.
    pub(super) fn has_small_frames(&self) -> bool {
        let opens_or_ends =
            self.resume_state.is_flowing() && !(self.opens.is_empty() && self.ends.is_empty());
        let small = self.pending_pong.is_some()
            || !self.ack_queue.due.is_empty()
            || !self.forgotten_ends.is_empty()
            || self.lanes.is_report_due()
            || self.lane_request.is_due()
            || self.window.is_update_due();
        let of_lanes = !self.lanes.is_single()
            && (self.lane_flows.is_report_due() || self.control_watch.is_probe_due());
        opens_or_ends || small || of_lanes || self.has_flow_frames()
    }

    /// Appends the next message for `lane` to `out`, at most `room` bytes long. Use at least 8 KiB,
    /// and 64 KiB if datagrams of any length are sent. Returns whether there was a message.
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
            self.transmit_frames(now, SendingLane { id: lane, load }, out, end);
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
    fn transmit_frames(&mut self, now: Instant, lane: SendingLane, out: &mut BytesMut, end: usize) {
        if !lane.load.has_control() {
            // An acknowledgement would wait behind the bulk data of its lane.
            self.transmit_overflow(now, lane.id, out, end);
            self.transmit_streams(lane, out, end);
            return;
        }
        let start = out.len();
        let has_first = self.transmit_postponed(now, lane, out, end);
        self.transmit_pings(now, lane, out, end);
        let content = out.len();
        self.transmit_control(now, lane.id, out, end);
        if self.is_turn_of_streams(lane.load) {
            self.transmit_streams(lane, out, end);
            self.transmit_datagrams(now, lane.id, out, end);
        } else {
            self.transmit_datagrams(now, lane.id, out, end);
            self.transmit_streams(lane, out, end);
        }
        let has_reports =
            self.lane_flows.is_report_due() || self.lane_flows.is_datagram_report_due();
        if out.len() > start || has_reports {
            self.transmit_reports(now, out, end);
        }
        if out.len() > start {
            self.piggyback_acks(out, end);
        }
        if lane.load == LaneLoad::Control {
            if out.len() > start {
                self.control_watch.on_message();
            }
            if has_first || out.len() > content {
                self.control_watch.on_content();
            }
            if out.len() > start || self.control_watch.is_probe_due() {
                self.transmit_probe(now, out, end);
            }
        }
    }

    /// Appends PING and PONG.
    fn transmit_pings(&mut self, now: Instant, lane: SendingLane, out: &mut BytesMut, end: usize) {
        // An end that grants credit needs the round trip as much as an end that sends.
        let is_active = !self.ack_queue.due.is_empty()
            || self.window.is_update_due()
            || self.has_datagrams_for(lane.id)
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
    }

    /// Appends a PING after the content of a message, if the control lane must be probed.
    fn transmit_probe(&mut self, now: Instant, out: &mut BytesMut, end: usize) {
        if has_room(out, end) && self.control_watch.should_probe(now) {
            let token = self.rtt.probe(now, self.progress());
            self.control_watch.on_probe(now, token);
            put_frame(out, end, &TunnelFrame::Ping { token });
        }
    }

    /// Appends the small frames: credit, and those that begin and end streams.
    fn transmit_control(&mut self, now: Instant, lane: LaneId, out: &mut BytesMut, end: usize) {
        while has_room(out, end)
            && let Some(lost) = self.lanes.next_report(lane)
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
            self.transmit_flow_frames(out, end);
            self.transmit_opens(lane, out, end);
            self.transmit_ends(lane, out, end);
        }
    }

    /// Appends what has arrived on each of several lanes.
    fn transmit_reports(&mut self, now: Instant, out: &mut BytesMut, end: usize) {
        while !self.lanes.is_single()
            && has_room(out, end)
            && let Some((lane, bytes)) = self.lane_flows.next_report()
        {
            put_frame(out, end, &TunnelFrame::Received { lane, bytes });
        }
        self.transmit_datagram_reports(now, out, end);
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
            datagrams: self.datagrams.moved(),
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
        if !self.lanes.is_single() {
            self.control_watch.on_ack(id);
        }
        let allowance = self
            .credit
            .allowance(&stream.receive, self.window.path_need())
            .min(self.window.loan_max());
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
                let allowance = self
                    .credit
                    .allowance(&stream.receive, 0)
                    .min(self.window.loan_max());
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

    /// Appends the FIN or RESET of a stream, if everything before it was sent. The caller has left
    /// room for it.
    pub(super) fn transmit_end(&mut self, lane: LaneId, out: &mut BytesMut, id: StreamId) {
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
