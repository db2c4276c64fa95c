//! The operations of applications on flows. Each call changes the state of one flow and queues the
//! resulting frames. Nothing is sent here.

use std::time::Instant;

use bytes::Bytes;

use super::{DATAGRAM_MAX, DatagramCounts, FlowError, FlowState, QUANTUM};
use crate::mux::{DETAILS_MAX, Mux, ResetCode, frame::FlowId};

impl Mux {
    /// Opens a flow, which only a client does. The server learns of it with the first datagram.
    /// `details` beyond 4 KiB are truncated.
    pub fn open_flow(&mut self, mut details: Bytes) -> FlowId {
        let datagrams = &mut self.datagrams;
        let id = FlowId(datagrams.next);
        datagrams.next = datagrams.next.saturating_add(1);
        details.truncate(DETAILS_MAX);
        datagrams.flows.insert(id, FlowState::new(Some(details)));
        self.update_budget();
        id
    }

    /// Queues a datagram. It leaves within `max_delay`, or is dropped. If too many wait, the oldest
    /// of the flow with the most is dropped. Keeps `bytes` as they are until then, so they should
    /// not be a part of a larger buffer.
    ///
    /// # Errors
    /// If the flow does not exist, if the peer has ended it, or if the datagram is too long.
    pub fn send_datagram(
        &mut self,
        now: Instant,
        id: FlowId,
        bytes: Bytes,
    ) -> Result<(), FlowError> {
        let max_delay = self.parameters.max_delay;
        let datagrams = &mut self.datagrams;
        let flow = datagrams.flows.get(&id).ok_or(FlowError::Unknown)?;
        if let Some(code) = flow.ended {
            return Err(FlowError::Ended(code));
        }
        if bytes.len() > DATAGRAM_MAX {
            return Err(FlowError::TooLong);
        }
        if !datagrams.has_datagrams() {
            datagrams.check_at = now.checked_add(max_delay);
        }
        let dropped = datagrams.sending.push(now, id, bytes);
        datagrams.counts.dropped_full = datagrams.counts.dropped_full.saturating_add(dropped);
        datagrams.round.add(id, QUANTUM);
        if !self.lanes.is_single() && datagrams.is_heavy(id) {
            datagrams.heavy.add(id, QUANTUM);
        }
        self.watch_waiting(now);
        self.update_budget();
        Ok(())
    }

    /// Returns the next datagram of the peer. `None`: there is none now, and a
    /// [`MuxEvent::FlowReadable`](crate::mux::MuxEvent::FlowReadable) will follow.
    ///
    /// # Errors
    /// If the flow does not exist, or if the peer has ended it and everything is read.
    pub fn read_datagram(&mut self, id: FlowId) -> Result<Option<Bytes>, FlowError> {
        let datagrams = &mut self.datagrams;
        let flow = datagrams.flows.get_mut(&id).ok_or(FlowError::Unknown)?;
        let details = std::mem::take(&mut flow.unread_details);
        datagrams.unread_details = datagrams.unread_details.saturating_sub(details);
        let datagram = datagrams.received.pop(id);
        if let (None, Some(code)) = (&datagram, flow.ended) {
            return Err(FlowError::Ended(code));
        }
        flow.wants_read = datagram.is_none();
        self.update_budget();
        Ok(datagram.map(|datagram| datagram.bytes))
    }

    /// Ends and forgets a flow. Datagrams that wait in either direction are dropped. Does nothing if
    /// the flow does not exist.
    pub fn end_flow(&mut self, id: FlowId, code: ResetCode) {
        let Some(flow) = self.datagrams.remove(id) else {
            return;
        };
        self.datagrams.ended.remember(id, code);
        // A peer that has never been sent anything about the flow does not know it.
        let is_known = flow.unconfirmed.is_none() || flow.announced_in.is_some();
        if flow.ended.is_none() && is_known {
            self.datagrams.ended.report(id, code);
        }
        self.update_budget();
    }

    /// Returns the number of flows, including those that the peer has ended and the application
    /// has not.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.datagrams.flows.len()
    }

    /// Returns what happened to the datagrams of this tunnel so far.
    #[must_use]
    pub fn datagram_counts(&self) -> DatagramCounts {
        self.datagrams.counts
    }
}
