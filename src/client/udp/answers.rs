//! Carries what a flow receives from the server to the source of the flow.

use std::{io, sync::Arc};

use bytes::Bytes;
use tracing::{debug, warn};

use super::{DatagramPort, FlowKey};
use crate::{
    net::udp::{DatagramSocket, SendSummary},
    tunnel::{DatagramFlow, DropReason, ResetCode, Tunnel},
};

/// The most datagrams that are sent at once.
const BATCH_MAX: usize = 64;

/// The answers of one flow.
pub(super) struct Answers {
    pub(super) port: Arc<DatagramPort>,
    pub(super) tunnel: Tunnel,
    pub(super) flow: Arc<DatagramFlow>,
    pub(super) socket: Arc<DatagramSocket>,
    pub(super) key: FlowKey,
    /// The number of the flow in the table of the port.
    pub(super) number: u64,
}

impl Answers {
    /// Carries answers until the flow or the tunnel has ended, or the client stops.
    pub(super) async fn carry(self) {
        let (mut datagrams, mut answered) = (Vec::new(), 0_u64);
        let error = loop {
            let received = tokio::select! {
                received = self.flow.recv_all(&mut datagrams, BATCH_MAX) => received,
                () = self.port.stop.cancelled() => return,
            };
            if let Err(error) = received {
                break error;
            }
            answered = answered.saturating_add(datagrams.len() as u64);
            self.send(&datagrams).await;
            datagrams.clear();
            self.port.on_answer(&self.key, self.number);
        };
        debug!(answered, reason = %error, "flow ended");
        let is_refusal = matches!(
            error.end_code(),
            Some(ResetCode::Refused | ResetCode::Unreachable | ResetCode::Timeout)
        );
        if answered == 0 && is_refusal {
            self.port.port.on_refusal(&self.tunnel);
        }
        self.port.remove(&self.key, self.number);
    }

    async fn send(&self, datagrams: &[Bytes]) {
        let FlowKey {
            source, local_ip, ..
        } = self.key;
        let SendSummary { dropped, error } = self.socket.send_to(source, local_ip, datagrams).await;
        if dropped > 0 {
            self.port.counters().drop_some(DropReason::Socket, dropped);
        }
        if let Some(error) = error {
            self.log(&error);
        }
    }

    fn log(&self, error: &io::Error) {
        let source = self.key.source;
        self.port
            .socket_log
            .log(|times| warn!(times, %source, "cannot send datagrams to a source: {error}"));
    }
}
