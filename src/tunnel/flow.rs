//! The handle of one datagram flow of a tunnel: the datagrams of one UDP peer of a service.
//!
//! Datagrams keep their boundaries. They may be lost, and they are never sent again. A datagram that
//! cannot leave within `max_delay` is dropped, so sending never waits.

use std::{sync::Arc, task::Poll, time::Instant};

use bytes::Bytes;

use super::shared::TunnelShared;
use report_proto::frame::Notice;
use report_proto::mux::{FlowError, FlowId, ResetCode};

/// Why an operation on a flow failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatagramFlowError {
    /// The flow alone failed.
    #[error(transparent)]
    Flow(#[from] FlowError),
    /// The tunnel has ended, and all its flows with it.
    #[error("the tunnel ended: {0}")]
    TunnelEnded(Notice),
}

impl DatagramFlowError {
    /// Returns the code with which the peer ended the flow.
    #[must_use]
    pub fn end_code(&self) -> Option<ResetCode> {
        match self {
            DatagramFlowError::Flow(FlowError::Ended(code)) => Some(*code),
            _ => None,
        }
    }

    /// Returns whether the flow can send other datagrams.
    #[must_use]
    pub fn is_about_one_datagram(&self) -> bool {
        matches!(self, DatagramFlowError::Flow(FlowError::TooLong))
    }
}

/// A datagram flow. Dropping it ends it with [`ResetCode::Cancelled`].
pub struct DatagramFlow {
    shared: Arc<TunnelShared>,
    id: FlowId,
}

impl DatagramFlow {
    pub(super) fn new(shared: Arc<TunnelShared>, id: FlowId) -> Self {
        shared.port.counters.datagrams.opened_flows.add(1);
        DatagramFlow { shared, id }
    }

    /// Returns the number of the flow in its tunnel.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id.0
    }

    /// Queues a datagram. It keeps `datagram` as it is, so `datagram` should not be a part of a
    /// larger buffer.
    ///
    /// # Errors
    /// When the peer ended the flow, the datagram is too long, or the tunnel has ended.
    pub fn send(&self, datagram: Bytes) -> Result<(), DatagramFlowError> {
        self.send_all([datagram])
    }

    /// Queues several datagrams at once, as [`DatagramFlow::send`] does.
    ///
    /// # Errors
    /// As [`DatagramFlow::send`]. The others are queued if one is too long.
    pub fn send_all(
        &self,
        datagrams: impl IntoIterator<Item = Bytes>,
    ) -> Result<(), DatagramFlowError> {
        self.shared.update(|core| {
            if let Some(notice) = core.end_notice() {
                return Err(DatagramFlowError::TunnelEnded(notice.clone()));
            }
            Ok(core.send_datagrams(Instant::now(), self.id, datagrams)?)
        })
    }

    /// Waits for the next datagram of the peer.
    ///
    /// # Errors
    /// When the peer ended the flow and everything is read, or the tunnel has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped. Only one task may wait at a time.
    pub async fn recv(&self) -> Result<Bytes, DatagramFlowError> {
        let mut datagrams = Vec::with_capacity(1);
        loop {
            self.recv_all(&mut datagrams, 1).await?;
            if let Some(datagram) = datagrams.pop() {
                return Ok(datagram);
            }
        }
    }

    /// Waits for datagrams of the peer, and appends those that have arrived to `datagrams`: at least
    /// one and at most `most`, which is positive.
    ///
    /// # Errors
    /// As [`DatagramFlow::recv`].
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped. Only one task may wait at a time.
    pub async fn recv_all(
        &self,
        datagrams: &mut Vec<Bytes>,
        most: usize,
    ) -> Result<(), DatagramFlowError> {
        std::future::poll_fn(|context| {
            let mut core = self.shared.core();
            let received = core.poll_receive(self.id, datagrams, most, context.waker());
            // Received datagrams are valid even if the tunnel has ended in the meantime.
            if !matches!(received, Poll::Ready(Ok(())))
                && let Some(notice) = core.end_notice()
            {
                return Poll::Ready(Err(DatagramFlowError::TunnelEnded(notice.clone())));
            }
            received.map_err(DatagramFlowError::from)
        })
        .await
    }

    /// Ends the flow, and tells the peer why.
    pub fn end(self, code: ResetCode) {
        self.shared.update(|core| core.end_flow(self.id, code));
    }
}

impl Drop for DatagramFlow {
    fn drop(&mut self) {
        // Does nothing after `end`.
        self.shared
            .update(|core| core.end_flow(self.id, ResetCode::Cancelled));
    }
}
