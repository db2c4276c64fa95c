//! The frames of the peer about flows and datagrams.

use std::time::Instant;

use bytes::Bytes;

use super::{DATAGRAM_MAX, FlowState, UNREAD_DETAILS_MAX, cost};
use crate::mux::{
    DETAILS_MAX, LaneId, Mux, MuxError, MuxEvent, ResetCode, TunnelFrame, TunnelSide, frame::FlowId,
};

/// Datagrams count as one interactive stream, with a number that no stream reaches: what their flow
/// moves must not wait behind bulk data, however much it is.
const INTERACTIVE_STREAM: u64 = u64::MAX;

impl Mux {
    /// Processes a frame about flows or datagrams that arrived on `lane`.
    ///
    /// # Errors
    /// If the peer broke the protocol.
    pub(in crate::mux) fn handle_flow_frame(
        &mut self,
        now: Instant,
        lane: LaneId,
        frame: TunnelFrame,
    ) -> Result<(), MuxError> {
        match frame {
            TunnelFrame::Datagram { flow, sent, bytes } => {
                self.handle_datagram(now, lane, flow, sent, &bytes)
            }
            TunnelFrame::OpenFlow { flow, details } => self.handle_open_flow(flow, &details),
            TunnelFrame::Flow { flow } => self.handle_flow(flow),
            TunnelFrame::EndFlow { flow, code } => self.handle_end_flow(flow, code),
            TunnelFrame::DatagramsReceived { lane, bytes } => {
                let min_rtt = self.window.min_rtt();
                if let Some(window) = self.lane_flows.datagrams_mut(lane) {
                    window.on_report(now, bytes, min_rtt);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn handle_datagram(
        &mut self,
        now: Instant,
        lane: LaneId,
        id: FlowId,
        sent: u64,
        bytes: &[u8],
    ) -> Result<(), MuxError> {
        if bytes.len() > DATAGRAM_MAX {
            return Err(MuxError::Protocol("DATAGRAM too long"));
        }
        self.check_opened(id)?;
        let cost = cost(bytes.len()) as u64;
        if let Some(window) = self.lane_flows.datagrams_mut(lane) {
            window.on_received(now, cost);
        }
        let max_delay = self.parameters.max_delay;
        let datagrams = &mut self.datagrams;
        datagrams.moved = datagrams.moved.saturating_add(cost);
        let arrived = now.saturating_duration_since(datagrams.created);
        let arrived = u64::try_from(arrived.as_millis()).unwrap_or(u64::MAX);
        let is_late = datagrams.lateness.is_late(now, arrived, sent, max_delay);
        let live = datagrams.flows.get_mut(&id);
        let Some(flow) = live.filter(|flow| flow.ended.is_none()) else {
            datagrams.counts.unknown_flow = datagrams.counts.unknown_flow.saturating_add(1);
            self.refuse_datagram(id);
            return Ok(());
        };
        flow.confirm();
        if is_late {
            datagrams.counts.late = datagrams.counts.late.saturating_add(1);
            return Ok(());
        }
        if std::mem::take(&mut flow.wants_read) {
            self.events.push_back(MuxEvent::FlowReadable(id));
        }
        // A slice would retain the whole message until the application reads.
        let bytes = Bytes::copy_from_slice(bytes);
        let dropped = datagrams.received.push(now, id, bytes);
        let counts = &mut datagrams.counts;
        counts.received = counts.received.saturating_add(1);
        counts.dropped_full = counts.dropped_full.saturating_add(dropped);
        let interactive = self.window.bandwidth().interactive();
        interactive.on_activity(now, INTERACTIVE_STREAM);
        Ok(())
    }

    /// Answers a datagram for a flow that this end does not have. A flow whose OPEN_FLOW is still
    /// under way has a larger number than those that are known.
    fn refuse_datagram(&mut self, id: FlowId) {
        let datagrams = &mut self.datagrams;
        if !datagrams.flows.contains_key(&id) && id.0 < datagrams.next {
            let code = datagrams.ended.code(id).unwrap_or(ResetCode::Cancelled);
            datagrams.ended.report(id, code);
        }
    }

    fn handle_open_flow(&mut self, id: FlowId, details: &[u8]) -> Result<(), MuxError> {
        if self.side == TunnelSide::Client {
            return Err(MuxError::Protocol("OPEN_FLOW from a server"));
        }
        if details.len() > DETAILS_MAX {
            return Err(MuxError::Protocol("OPEN_FLOW details too long"));
        }
        let datagrams = &mut self.datagrams;
        datagrams.next = datagrams.next.max(id.0.saturating_add(1));
        if let Some(code) = datagrams.ended.code(id) {
            datagrams.ended.report(id, code);
            return Ok(());
        }
        let is_new = !datagrams.flows.contains_key(&id);
        if is_new {
            let unread_details = datagrams.unread_details.saturating_add(details.len());
            let has_room = datagrams.flows.len() < self.parameters.flows_max
                && unread_details <= UNREAD_DETAILS_MAX;
            if !has_room {
                // Remembered too: the client may repeat OPEN_FLOW before it learns of the end.
                datagrams.ended.remember(id, ResetCode::Limit);
                datagrams.ended.report(id, ResetCode::Limit);
                return Ok(());
            }
            datagrams.unread_details = unread_details;
            let flow = FlowState {
                unread_details: details.len(),
                ..FlowState::new(None)
            };
            datagrams.flows.insert(id, flow);
            self.events.push_back(MuxEvent::FlowOpened {
                flow: id,
                details: Bytes::copy_from_slice(details),
            });
        }
        let flow = datagrams.flows.get(&id);
        if flow.is_some_and(|flow| flow.ended.is_none()) {
            datagrams.answers.insert(id);
        }
        Ok(())
    }

    fn handle_flow(&mut self, id: FlowId) -> Result<(), MuxError> {
        if self.side == TunnelSide::Server {
            return Err(MuxError::Protocol("FLOW from a client"));
        }
        self.check_opened(id)?;
        if let Some(flow) = self.datagrams.flows.get_mut(&id) {
            flow.confirm();
        }
        Ok(())
    }

    fn handle_end_flow(&mut self, id: FlowId, code: ResetCode) -> Result<(), MuxError> {
        self.check_opened(id)?;
        let datagrams = &mut self.datagrams;
        // An OPEN_FLOW that arrives after this frame must not open the flow.
        datagrams.ended.remember(id, code);
        let Some(flow) = datagrams.flows.get_mut(&id) else {
            return Ok(());
        };
        if flow.ended.is_none() {
            flow.ended = Some(code);
            flow.confirm();
            datagrams.stop_sending(id);
            self.events
                .push_back(MuxEvent::FlowEnded { flow: id, code });
        }
        Ok(())
    }

    /// Checks that the client has opened a flow. A server cannot know.
    fn check_opened(&self, id: FlowId) -> Result<(), MuxError> {
        if self.side == TunnelSide::Client && id.0 >= self.datagrams.next {
            return Err(MuxError::Protocol("frame for a flow that was never opened"));
        }
        Ok(())
    }
}
