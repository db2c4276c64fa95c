//! The datagram flows of a tunnel: which task waits for which.

use std::{
    task::{Poll, Waker},
    time::Instant,
};

use bytes::Bytes;

use super::state::TunnelCore;
use report_proto::mux::{DatagramCounts, FlowError, FlowId, ResetCode};

impl TunnelCore {
    /// Returns the next flow that the peer has opened, with its details; `None` after the tunnel
    /// has ended. Otherwise `waker` waits for one.
    pub(in crate::tunnel) fn poll_accept_flow(
        &mut self,
        waker: &Waker,
    ) -> Poll<Option<(FlowId, Bytes)>> {
        if let Some(opened) = self.opened_flows.pop_front() {
            return Poll::Ready(Some(opened));
        }
        if self.end_notice.is_some() {
            return Poll::Ready(None);
        }
        self.waiting.set_flow_acceptor(waker);
        Poll::Pending
    }

    /// Moves the datagrams of a flow that have arrived to `datagrams`, `most` of them at most.
    /// Otherwise `waker` waits for one.
    ///
    /// # Errors
    /// If the peer has ended the flow and everything is read.
    pub(in crate::tunnel) fn poll_receive(
        &mut self,
        flow: FlowId,
        datagrams: &mut Vec<Bytes>,
        most: usize,
        waker: &Waker,
    ) -> Poll<Result<(), FlowError>> {
        let mut received: usize = 0;
        while received < most {
            match self.mux.read_datagram(flow) {
                Ok(Some(datagram)) => datagrams.push(datagram),
                Ok(None) if received == 0 => {
                    self.waiting.set_flow_reader(flow, waker);
                    return Poll::Pending;
                }
                Err(error) if received == 0 => return Poll::Ready(Err(error)),
                Ok(None) | Err(_) => break,
            }
            received = received.saturating_add(1);
        }
        Poll::Ready(Ok(()))
    }

    /// Ends a flow that no task uses any more.
    pub(in crate::tunnel) fn end_flow(&mut self, flow: FlowId, code: ResetCode) {
        self.waiting.take_flow_reader(flow);
        self.mux.end_flow(flow, code);
    }

    /// Queues datagrams on a flow.
    ///
    /// # Errors
    /// If the peer has ended the flow, or if a datagram is too long. The others are queued then.
    pub(in crate::tunnel) fn send_datagrams(
        &mut self,
        now: Instant,
        flow: FlowId,
        datagrams: impl IntoIterator<Item = Bytes>,
    ) -> Result<(), FlowError> {
        let mut outcome = Ok(());
        for datagram in datagrams {
            match self.mux.send_datagram(now, flow, datagram) {
                Err(FlowError::TooLong) => outcome = Err(FlowError::TooLong),
                sent => sent?,
            }
        }
        outcome
    }

    /// Returns what happened to datagrams since the last call.
    pub(in crate::tunnel) fn take_datagram_counts(&mut self) -> DatagramCounts {
        let now = self.mux.datagram_counts();
        let before = std::mem::replace(&mut self.published_datagrams, now);
        DatagramCounts {
            sent: now.sent.saturating_sub(before.sent),
            received: now.received.saturating_sub(before.received),
            expired: now.expired.saturating_sub(before.expired),
            dropped_full: now.dropped_full.saturating_sub(before.dropped_full),
            late: now.late.saturating_sub(before.late),
            unknown_flow: now.unknown_flow.saturating_sub(before.unknown_flow),
            ended: now.ended.saturating_sub(before.ended),
        }
    }
}
