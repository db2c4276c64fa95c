//! The listener of a port: each local connection becomes a stream of the port's tunnel.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, debug_span, info, info_span, warn};

use super::{
    hold_queue::{HoldQueue, QueuePlace, QueueTurn, wait_abandoned},
    orphans::Orphans,
    port::PortSupervisor,
    socks::{self, SocksProxy},
    udp::DatagramPort,
};
use crate::{
    net::{
        file_limit::{self, ThrottledLog},
        local_listener::{LocalListener, LocalPeer},
        local_stream::LocalStream,
        tcp::is_single_connection_error,
    },
    tunnel::{
        ResetCode, Tunnel, TunnelStreamError,
        reclaim::{ReclaimedConnection, splice_or_reclaim},
        splice::{SpliceError, Spliced},
    },
};

/// Pause after an error of the listener, usually too many open files. The error would repeat at
/// once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The resources that the connections of a port use. A change of the configuration gives later
/// connections another context.
#[derive(Clone)]
pub(super) struct ListenerContext {
    pub port: Arc<PortSupervisor>,
    /// The number of the address in the range of the port.
    pub offset: u16,
    /// The proxy of a port whose applications name their destinations.
    pub proxy: Option<Arc<SocksProxy>>,
    /// The datagrams of the port.
    pub datagrams: Arc<DatagramPort>,
    pub hold_timeout: Duration,
    /// The order of the connections that wait for the tunnel.
    pub queue: HoldQueue,
    pub orphans: Arc<Orphans>,
    /// Logs failures to accept, throttled for all ports of the client together.
    pub descriptor_log: Arc<ThrottledLog>,
    pub streams: TaskTracker,
    pub stop: CancellationToken,
}

/// Accepts connections at the address with the number `offset` until `cancel` or `stop` is cancelled.
/// Each connection uses the context of its time.
pub(super) async fn listen(
    listener: LocalListener,
    offset: u16,
    contexts: watch::Receiver<ListenerContext>,
    cancel: CancellationToken,
) {
    let context = contexts.borrow().clone();
    let name = context.port.parameters.numbered_mark(offset);
    let span = info_span!("port", port = %name);
    info!(parent: &span, address = %listener, "listening");
    context.port.on_listening();
    let (stop, descriptor_log) = (context.stop, context.descriptor_log);
    loop {
        let accepted = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = stop.cancelled() => return,
            accepted = accept(&listener) => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                let context = contexts.borrow().clone();
                let context = ListenerContext { offset, ..context };
                let is_held = context.port.tunnel().now_or_never().is_none();
                // Join in the order of acceptance, before the task runs.
                let (accepted, place) = (Instant::now(), context.queue.join());
                let waiting = WaitingConnection {
                    accepted,
                    is_held,
                    place,
                };
                let incoming = IncomingConnection {
                    socket,
                    peer,
                    waiting,
                };
                let streams = context.streams.clone();
                let serving = serve_connection(context, incoming);
                streams.spawn(serving.instrument(debug_span!(parent: &span, "stream", %peer)));
            }
            Err(error) if is_single_connection_error(&error) => {
                debug!(parent: &span, %error, "connection not accepted")
            }
            Err(error) => {
                span.in_scope(|| descriptor_log.log_accept_error(&error));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Accepts a connection when a descriptor is free. Until then the connection stays in the kernel's
/// backlog, and looks unanswered to the application.
async fn accept(listener: &LocalListener) -> io::Result<(LocalStream, LocalPeer)> {
    file_limit::check_available()?;
    let (socket, peer) = listener.accept().await?;
    // Another listener may have used the free descriptors in the meantime.
    file_limit::check_accepted(&socket).inspect_err(|_| socket.reset_on_close())?;
    Ok((socket, peer))
}

/// A connection that was accepted.
pub(super) struct IncomingConnection {
    pub socket: LocalStream,
    pub peer: LocalPeer,
    pub waiting: WaitingConnection,
}

/// How a connection waits for the tunnel.
pub(super) struct WaitingConnection {
    /// Since when it waits.
    pub accepted: Instant,
    /// No tunnel was attached at that time.
    pub is_held: bool,
    pub place: QueuePlace,
}

/// Why a connection does not enter the tunnel.
pub(super) enum HoldError {
    /// No tunnel was attached in time.
    HeldTooLong,
    /// The application has closed the connection.
    GivenUp,
}

/// Holds a connection until its turn has come and a tunnel is attached. The next connection waits
/// until the returned turn is dropped.
pub(super) async fn hold(
    context: &ListenerContext,
    socket: &LocalStream,
    waiting: WaitingConnection,
) -> Result<(Tunnel, QueueTurn), HoldError> {
    let WaitingConnection {
        accepted,
        mut is_held,
        place,
    } = waiting;
    let entered = async {
        // No timeout here: the connections ahead have earlier deadlines.
        let turn = place.turn().await;
        loop {
            let tunnel = match context.port.tunnel().now_or_never() {
                Some(tunnel) => tunnel,
                None => {
                    is_held = true;
                    let awaited = tokio::time::timeout_at(
                        accepted + context.hold_timeout,
                        context.port.tunnel(),
                    )
                    .await;
                    awaited.map_err(|_| HoldError::HeldTooLong)?
                }
            };
            // A connection that did not wait may enter even if closed: an application may send,
            // close and exit.
            if !std::mem::take(&mut is_held) {
                return Ok((tunnel, turn));
            }
            if context.orphans.has_peer_of(socket, accepted).await {
                return Err(HoldError::GivenUp);
            }
            // The tunnel may have been lost during the check, so look again.
        }
    };
    tokio::select! {
        biased;
        entered = entered => entered,
        () = wait_abandoned(socket, &context.orphans, accepted) => Err(HoldError::GivenUp),
    }
}

async fn serve_connection(context: ListenerContext, incoming: IncomingConnection) {
    // Until a splice has ended gracefully, closing this socket must not look like an end of file.
    incoming.socket.reset_on_close();
    if let Some(proxy) = &context.proxy {
        return socks::serve(&context, proxy, incoming).await;
    }
    let IncomingConnection {
        socket,
        peer,
        waiting,
    } = incoming;
    let entered = tokio::select! {
        entered = hold(&context, &socket, waiting) => entered,
        () = context.stop.cancelled() => return,
    };
    let (mut tunnel, turn) = match entered {
        Ok(entered) => entered,
        Err(HoldError::GivenUp) => return report_given_up(&context, peer),
        Err(HoldError::HeldTooLong) => return report_held_too_long(&context, peer),
    };
    let mut turn = Some(turn);
    let mut connection = ReclaimedConnection {
        socket,
        unsent: Bytes::new(),
    };
    loop {
        let details = context
            .port
            .details(&tunnel, context.offset, peer, &connection.socket);
        let stream = tunnel.open(details);
        // The stream is open, so the order is kept: let the next connection enter.
        turn.take();
        let compress = stream.compress();
        let spliced = tokio::select! {
            spliced = splice_or_reclaim(connection, stream, compress) => spliced,
            () = context.stop.cancelled() => return debug!("connection cut: the client is shutting down"),
        };
        connection = match spliced {
            Ok(spliced) => {
                if spliced.received_bytes == 0 && spliced.error.as_ref().is_some_and(is_refusal) {
                    context.port.on_refusal(&tunnel);
                }
                return log_end(&spliced);
            }
            Err(reclaimed) => reclaimed,
        };
        info!(
            unsent = connection.unsent.len(),
            "tunnel ended before its server saw the connection: the next tunnel carries it"
        );
        let Some(next) = next_tunnel(&context, peer).await else {
            return;
        };
        tunnel = next;
    }
}

/// Waits for the tunnel that carries a reclaimed connection. Returns `None` if no tunnel was
/// attached in time or the client is shutting down.
pub(super) async fn next_tunnel(context: &ListenerContext, peer: LocalPeer) -> Option<Tunnel> {
    let next = tokio::select! {
        next = tokio::time::timeout(context.hold_timeout, context.port.tunnel()) => next,
        () = context.stop.cancelled() => return None,
    };
    if next.is_err() {
        report_held_too_long(context, peer);
    }
    next.ok()
}

/// Returns whether a connection ended because the server could not reach the service.
fn is_refusal(error: &SpliceError) -> bool {
    let SpliceError::Stream(error @ TunnelStreamError::Stream(_)) = error else {
        return false;
    };
    matches!(
        error.reset_code(),
        Some(ResetCode::Refused | ResetCode::Unreachable | ResetCode::Timeout)
    )
}

/// Reports a connection that its application closed while it waited.
pub(super) fn report_given_up(context: &ListenerContext, peer: LocalPeer) {
    let refusals = &context.port.parameters.process_shared.refusals;
    refusals.count("connection", "abandoned");
    info!(%peer, "connection dropped: the application closed it while it waited for a tunnel");
}

/// Reports a connection for which no tunnel was attached in time.
pub(super) fn report_held_too_long(context: &ListenerContext, peer: LocalPeer) {
    let refusals = &context.port.parameters.process_shared.refusals;
    refusals.count("connection", "no_tunnel");
    warn!(
        %peer,
        hold_timeout_s = context.hold_timeout.as_secs_f32(),
        "connection reset: no server for this port key appeared in time"
    );
}

/// Logs how a connection ended.
pub(super) fn log_end(spliced: &Spliced) {
    let Spliced {
        sent_bytes: sent,
        received_bytes: received,
        error,
    } = spliced;
    match error {
        None => debug!(sent, received, "connection ended"),
        Some(error) => info!(sent, received, %error, "connection reset"),
    }
}
