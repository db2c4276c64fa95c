//! Reads the datagrams of one socket, and passes them to the flows of their sources.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use smallvec::SmallVec;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use super::{
    DatagramPort,
    flow_table::{FlowKey, FlowRefusal},
    held_datagrams::HeldDatagrams,
};
use crate::{
    client::listener::ListenerContext,
    net::udp::{DatagramFault, DatagramSocket, ReceivedDatagram},
    tunnel::{DropReason, Tunnel},
};

/// Pause after an error of the socket, which may repeat at once.
const ERROR_PAUSE: Duration = Duration::from_millis(200);

/// The datagrams of one source that arrive together.
type Batch = SmallVec<[Bytes; 8]>;

/// The reader of one socket.
struct Receiver {
    port: Arc<DatagramPort>,
    /// The present port of the socket.
    contexts: watch::Receiver<ListenerContext>,
    /// The number of the address in the range of the port.
    offset: u16,
    socket: Arc<DatagramSocket>,
    /// Datagrams that wait for a tunnel.
    held: HeldDatagrams,
    /// The client drains: flows continue, and no others open.
    is_draining: bool,
}

/// Carries the datagrams of a socket until the client stops. Sources that appear after `cancel` is
/// cancelled get no flow.
pub(in crate::client) async fn receive(
    socket: DatagramSocket,
    offset: u16,
    contexts: watch::Receiver<ListenerContext>,
    cancel: CancellationToken,
) {
    let port = Arc::clone(&contexts.borrow().datagrams);
    let parameters = &port.port.parameters;
    let span = info_span!("port", port = %parameters.numbered_mark(offset));
    info!(parent: &span, address = %socket.local_addr(), "listening for datagrams");
    port.port.on_listening();
    let receiver = Receiver {
        held: HeldDatagrams::new(parameters.max_delay),
        contexts,
        port,
        offset,
        socket: Arc::new(socket),
        is_draining: false,
    };
    receiver.run(cancel).instrument(span).await;
}

impl Receiver {
    async fn run(mut self, cancel: CancellationToken) {
        let mut arrived = Vec::new();
        loop {
            let deadline = self.held.deadline();
            let expired = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.port.stop.cancelled() => if !self.follow_change() {
                    return;
                },
                () = cancel.cancelled(), if !self.is_draining => self.is_draining = true,
                received = self.socket.recv(&mut arrived) => match received {
                    Ok(()) => self.pass_all(&mut arrived),
                    Err(error) => self.on_error(&error).await,
                },
                tunnel = self.port.port.tunnel(), if !self.held.is_empty() => {
                    let mut held = self.held.take_all();
                    self.pass_to(Some(&tunnel), &mut held);
                }
                () = expired => {
                    let expired = self.held.expire(std::time::Instant::now());
                    self.count(DropReason::NoTunnel, expired);
                }
            }
        }
    }

    /// Continues with the datagrams of the changed port. Returns whether there are others.
    fn follow_change(&mut self) -> bool {
        let present = Arc::clone(&self.contexts.borrow().datagrams);
        let has_changed = !Arc::ptr_eq(&present, &self.port);
        self.port = present;
        has_changed
    }

    /// Passes datagrams to the flows of their sources.
    fn pass_all(&mut self, arrived: &mut Vec<ReceivedDatagram>) {
        let tunnel = self.port.port.tunnel().now_or_never();
        self.pass_to(tunnel.as_ref(), arrived);
    }

    /// Passes datagrams to the flows of their sources. New flows open in `tunnel`; without one their
    /// datagrams wait.
    fn pass_to(&mut self, tunnel: Option<&Tunnel>, arrived: &mut Vec<ReceivedDatagram>) {
        let mut arrived = arrived.drain(..).peekable();
        while let Some(first) = arrived.next() {
            let key = self.key(&first);
            let mut batch = Batch::from_iter([first.bytes]);
            while let Some(next) = arrived.next_if(|next| self.key(next) == key) {
                batch.push(next.bytes);
            }
            let flow = match (self.port.flow(&key), tunnel) {
                (Some(flow), _) => Ok(flow),
                (None, _) if self.is_draining => {
                    self.count(DropReason::NoTunnel, batch.len() as u64);
                    continue;
                }
                (None, Some(tunnel)) => self.port.open(key, tunnel.clone(), &self.socket),
                (None, None) => {
                    self.hold(key, batch);
                    continue;
                }
            };
            let count = batch.len() as u64;
            match flow.map(|flow| flow.send_all(batch)) {
                Ok(Ok(())) => {}
                // IPv6 carries longer datagrams than IPv4 and a tunnel do.
                Ok(Err(error)) if error.is_about_one_datagram() => {
                    self.count(DropReason::Socket, 1);
                }
                // The flow has just ended. Its task removes it.
                Ok(Err(_)) => self.count(DropReason::FlowEnded, count),
                Err(refusal) => self.refuse(key, refusal, count),
            }
        }
    }

    fn key(&self, datagram: &ReceivedDatagram) -> FlowKey {
        FlowKey {
            offset: self.offset,
            source: datagram.source,
            local_ip: datagram.local_ip,
        }
    }

    fn hold(&mut self, key: FlowKey, batch: Batch) {
        let now = std::time::Instant::now();
        let mut dropped: u64 = 0;
        for bytes in batch {
            let datagram = ReceivedDatagram {
                source: key.source,
                local_ip: key.local_ip,
                bytes,
            };
            dropped = dropped.saturating_add(self.held.push(now, datagram));
        }
        self.count(DropReason::NoTunnel, dropped);
    }

    fn refuse(&self, key: FlowKey, refusal: FlowRefusal, datagrams: u64) {
        self.count(DropReason::FlowLimit, datagrams);
        self.port.refusal_log.log(
            |times| warn!(times, source = %key.source, "datagrams of new sources dropped: {refusal}"),
        );
    }

    /// Handles an error of the socket. That of a single peer has no effect on the others.
    async fn on_error(&self, error: &io::Error) {
        if DatagramFault::of(error).is_about_peer() {
            return;
        }
        self.port
            .socket_log
            .log(|times| warn!(times, "cannot receive datagrams: {error}"));
        tokio::time::sleep(ERROR_PAUSE).await;
    }

    fn count(&self, reason: DropReason, datagrams: u64) {
        if datagrams > 0 {
            self.port.counters().drop_some(reason, datagrams);
        }
    }
}
