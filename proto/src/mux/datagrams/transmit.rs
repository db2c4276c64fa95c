//! The send path of datagrams: which leave in a message, and on which lane.
//!
//! They leave on the lane with control, in front of the data of streams. When they alone have
//! filled a message, streams go first in the next one, so that neither starves the other.
//!
//! The control lane of several has the rate of one connection. The excess of a heavy flow
//! *overflows* to the lanes of bulk data, as far as streams leave them unused. Each lane has as much
//! under way as it delivers in the same time, so that the order of a flow is nearly kept. Other
//! flows remain on the control lane, where their order is kept.

use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};

use super::{
    Datagrams, QUANTUM, cost,
    lane_window::{WindowLimits, most_beside_streams},
};
use crate::mux::{
    FlowId, LaneId, Mux, TunnelFrame, frame,
    lanes::LaneLoad,
    transmit::{has_room, put_frame},
    transmit_data::SendingLane,
};

impl Mux {
    /// Returns whether datagrams may leave on this lane now.
    pub(in crate::mux) fn has_datagrams_for(&self, lane: LaneId) -> bool {
        self.resume_state.is_flowing()
            && self.datagrams.has_datagrams()
            && self
                .lane_flows
                .datagrams(lane)
                .is_some_and(|window| !window.is_full(self.window_limits()))
    }

    /// Returns whether datagrams of heavy flows may leave on this lane of bulk data: the control lane
    /// is full, and this lane has room that streams do not need.
    pub(in crate::mux) fn has_overflow_for(&self, lane: LaneId) -> bool {
        // Asked for each message of bulk data, and nearly always the answer.
        if self.datagrams.heavy.is_empty() {
            return false;
        }
        let limits = self.window_limits();
        let is_full = |lane| {
            let window = self.lane_flows.datagrams(lane);
            window.is_none_or(|window| window.is_full(limits))
        };
        self.resume_state.is_flowing()
            && !self.has_data(LaneLoad::Bulk)
            && self.lane_flows.is_spare(lane)
            && self.lanes.control().is_some_and(is_full)
            && !is_full(lane)
    }

    /// Returns whether frames about flows wait that only a lane with control carries.
    pub(in crate::mux) fn has_flow_frames(&self) -> bool {
        let has_reports = self.lane_flows.is_datagram_report_due();
        has_reports || self.resume_state.is_flowing() && self.datagrams.has_small_frames()
    }

    /// Begins a message on a lane with control. A datagram that had no room behind other frames goes
    /// first. Returns whether there was one.
    pub(in crate::mux) fn transmit_postponed(
        &mut self,
        now: Instant,
        lane: SendingLane,
        out: &mut BytesMut,
        end: usize,
    ) -> bool {
        self.datagrams.messages = self.datagrams.messages.saturating_add(1);
        self.datagrams.is_in_message = false;
        self.datagrams.is_postponed
            && !self.is_turn_of_streams(lane.load)
            && self.transmit_datagram(now, lane.id, out, end)
    }

    /// Returns whether the data of streams goes before datagrams in this message.
    pub(in crate::mux) fn is_turn_of_streams(&self, load: LaneLoad) -> bool {
        self.datagrams.has_filled && self.has_data(load)
    }

    /// Appends datagrams until the message or the lane is full.
    pub(in crate::mux) fn transmit_datagrams(
        &mut self,
        now: Instant,
        lane: LaneId,
        out: &mut BytesMut,
        end: usize,
    ) {
        while self.transmit_datagram(now, lane, out, end) {}
        self.datagrams.has_filled = self.datagrams.is_postponed && self.datagrams.is_in_message;
    }

    /// Appends datagrams of heavy flows on a lane of bulk data, until the message or the lane is full.
    pub(in crate::mux) fn transmit_overflow(
        &mut self,
        now: Instant,
        lane: LaneId,
        out: &mut BytesMut,
        end: usize,
    ) {
        while self.has_overflow_for(lane) {
            let limits = self.window_limits();
            let waiting = self.datagrams.unsent_bytes();
            let window = self.lane_flows.datagrams(lane);
            let age_max = window.map_or(limits.max_delay, |window| window.age_max(limits, waiting));
            let Some(cost) = self.datagrams.put_next_heavy(now, age_max, out, end) else {
                return;
            };
            if let Some(window) = self.lane_flows.datagrams_mut(lane) {
                window.on_sent(cost, limits);
            }
        }
    }

    /// Appends the small frames about flows.
    pub(in crate::mux) fn transmit_flow_frames(&mut self, out: &mut BytesMut, end: usize) {
        while has_room(out, end)
            && let Some((flow, code)) = self.datagrams.ended.next_report()
        {
            put_frame(out, end, &TunnelFrame::EndFlow { flow, code });
        }
        while has_room(out, end)
            && let Some(flow) = self.datagrams.answers.pop_first()
        {
            put_frame(out, end, &TunnelFrame::Flow { flow });
        }
    }

    /// Appends what has arrived of datagrams on each lane.
    pub(in crate::mux) fn transmit_datagram_reports(
        &mut self,
        now: Instant,
        out: &mut BytesMut,
        end: usize,
    ) {
        while has_room(out, end)
            && let Some((lane, bytes)) = self.lane_flows.next_datagram_report(now)
        {
            put_frame(out, end, &TunnelFrame::DatagramsReceived { lane, bytes });
        }
    }

    /// Appends the next datagram, if there is one that has room. Returns whether that is the case.
    fn transmit_datagram(
        &mut self,
        now: Instant,
        lane: LaneId,
        out: &mut BytesMut,
        end: usize,
    ) -> bool {
        let limits = self.window_limits();
        let waiting = self.datagrams.unsent_bytes();
        let window = self.lane_flows.datagrams(lane);
        let Some(window) = window.filter(|_| self.has_datagrams_for(lane)) else {
            self.datagrams.is_postponed = false;
            return false;
        };
        let age_max = window.age_max(limits, waiting);
        let Some(cost) = self.datagrams.put_next(now, lane, age_max, out, end) else {
            return false;
        };
        if let Some(window) = self.lane_flows.datagrams_mut(lane) {
            window.on_sent(cost, limits);
        }
        true
    }

    fn window_limits(&self) -> WindowLimits {
        let totals = &self.send_totals;
        let under_way = totals.retained.saturating_sub(totals.unsent);
        let credit = self.tunnel_limit.saturating_sub(self.tunnel_sent);
        WindowLimits {
            min_rtt: self.window.min_rtt(),
            max_delay: self.parameters.max_delay,
            most: most_beside_streams(credit.saturating_add(under_way)),
        }
    }
}

impl Datagrams {
    /// Appends the datagram whose turn it is, and OPEN_FLOW before it if the peer may not know its
    /// flow. Drops those that have waited for `age_max`. Returns what the datagram counts on its
    /// lane. `None`: there is none, or it has no room.
    fn put_next(
        &mut self,
        now: Instant,
        lane: LaneId,
        age_max: Duration,
        out: &mut BytesMut,
        end: usize,
    ) -> Option<u64> {
        self.is_postponed = false;
        loop {
            let id = self.round.next(QUANTUM)?.key;
            self.expire_of(id, now, age_max);
            if self.sending.front(id).is_none() {
                self.round.skip();
                continue;
            }
            let sent = if self.put_open_flow(id, lane, out, end) {
                self.put_datagram(id, out, end)
            } else {
                None
            };
            let Some(cost) = sent else {
                self.postpone(id, lane);
                return None;
            };
            let has_more = self.sending.front(id).is_some();
            self.round.sent(cost, has_more);
            self.is_in_message = true;
            return Some(cost as u64);
        }
    }

    /// Lets the datagram of a flow begin the next message, because it had no room in this one. An
    /// OPEN_FLOW before it counts for that message too.
    fn postpone(&mut self, id: FlowId, lane: LaneId) {
        self.is_postponed = true;
        let next = self.messages.saturating_add(1);
        if let Some(flow) = self.flows.get_mut(&id)
            && flow.announced_in == Some((lane, self.messages))
        {
            flow.announced_in = Some((lane, next));
        }
    }

    /// Appends the datagram of a heavy flow whose turn it is. Drops those that have waited for
    /// `age_max`. Returns what the datagram counts on its lane. `None`: no flow is heavy any more, or
    /// the datagram has no room.
    fn put_next_heavy(
        &mut self,
        now: Instant,
        age_max: Duration,
        out: &mut BytesMut,
        end: usize,
    ) -> Option<u64> {
        loop {
            let id = self.heavy.next(QUANTUM)?.key;
            self.expire_of(id, now, age_max);
            if !self.is_heavy(id) {
                self.heavy.skip();
                continue;
            }
            let cost = self.put_datagram(id, out, end)?;
            let is_heavy = self.is_heavy(id);
            self.heavy.sent(cost, is_heavy);
            return Some(cost as u64);
        }
    }

    /// Drops the datagrams of a flow that have waited for `age_max`.
    fn expire_of(&mut self, id: FlowId, now: Instant, age_max: Duration) {
        let expired = self.sending.expire_of(id, now, age_max);
        self.counts.expired = self.counts.expired.saturating_add(expired);
    }

    /// Appends OPEN_FLOW if the peer may not know the flow. Returns whether there was room for it.
    fn put_open_flow(&mut self, id: FlowId, lane: LaneId, out: &mut BytesMut, end: usize) -> bool {
        let Some(flow) = self.flows.get_mut(&id) else {
            return true;
        };
        let Some(details) = flow.announcement(lane, self.messages).cloned() else {
            return true;
        };
        if !has_room(out, end.saturating_sub(details.len())) {
            return false;
        }
        TunnelFrame::OpenFlow { flow: id, details }.encode(out);
        flow.announced_in = Some((lane, self.messages));
        true
    }

    /// Appends the oldest datagram of a flow, if it has room. Returns what it counts on its lane.
    fn put_datagram(&mut self, id: FlowId, out: &mut BytesMut, end: usize) -> Option<usize> {
        let datagram = self.sending.front(id)?;
        let waited_since = datagram.since.saturating_duration_since(self.created);
        let sent = u64::try_from(waited_since.as_millis()).unwrap_or(u64::MAX);
        let length = datagram.bytes.len();
        let header = frame::datagram_header_length(id, sent, length);
        if end.saturating_sub(out.len()) < header.saturating_add(length) {
            return None;
        }
        frame::datagram_header(out, id, sent, length);
        out.put_slice(&datagram.bytes);
        self.sending.pop(id);
        self.counts.sent = self.counts.sent.saturating_add(1);
        self.moved = self.moved.saturating_add(cost(length) as u64);
        Some(cost(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mux::{datagrams::DATAGRAM_MAX, frame::FRAME_MAX};

    #[test]
    fn largest_datagram_fills_one_message_with_any_header() {
        const MESSAGE: usize = 65_536;
        let largest = frame::FlowId(u64::MAX >> 2);
        let header = frame::datagram_header_length(largest, u64::MAX >> 2, DATAGRAM_MAX);
        assert!(header + DATAGRAM_MAX <= MESSAGE);
        assert!(header <= FRAME_MAX);
        let mut out = BytesMut::new();
        frame::datagram_header(&mut out, largest, u64::MAX >> 2, DATAGRAM_MAX);
        assert_eq!(out.len(), header);
    }
}
