//! A port's listener: every local connection becomes a stream of the port's tunnel.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, debug_span, info, info_span, warn};

use super::{
    held::{Place, Queue, Turn, given_up},
    orphans::Orphans,
    port::Port,
    refused::is_refusal,
};
use crate::{
    link::{
        files::{self, Trouble},
        tcp::is_of_one_connection,
    },
    tunnel::{
        Tunnel,
        splice::{Spliced, reset_on_close},
        take_back::{TakenBack, splice_or_take_back},
    },
};

/// After an error of the listener (too many open files, most of the time) it pauses for this long: the error would come again at once.
const ACCEPT_REST: Duration = Duration::from_millis(200);

/// What the connections of a port need.
#[derive(Clone)]
pub struct Context {
    pub port: Arc<Port>,
    pub hold_timeout: Duration,
    /// The order of the connections that wait for the tunnel.
    pub queue: Queue,
    pub orphans: Arc<Orphans>,
    /// What keeps the listeners from accepting, for all ports of the client.
    pub trouble: Arc<Trouble>,
    pub streams: TaskTracker,
    pub stop: CancellationToken,
}

/// Accepts connections until `cancel` is cancelled, or everything is to stop.
pub async fn listen(listener: TcpListener, context: Context, cancel: CancellationToken) {
    let span = info_span!("port", port = %context.port.parameters.mark);
    if let Ok(address) = listener.local_addr() {
        info!(parent: &span, %address, "listening");
    }
    loop {
        let accepted = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = context.stop.cancelled() => return,
            accepted = accept(&listener) => accepted,
        };
        match accepted {
            Ok((socket, address)) => {
                let is_held = context.port.tunnel().now_or_never().is_none();
                let (accepted, place) = (Instant::now(), context.queue.join());
                let arrival = Arrival {
                    socket,
                    address,
                    accepted,
                    is_held,
                    place,
                };
                let visit = visit(context.clone(), arrival);
                context
                    .streams
                    .spawn(visit.instrument(debug_span!(parent: &span, "stream", %address)));
            }
            Err(error) if is_of_one_connection(&error) => {
                debug!(parent: &span, %error, "a connection was not accepted")
            }
            Err(error) => {
                span.in_scope(|| context.trouble.cannot_accept(&error));
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// Accepts a connection when there is room for it. What waits in the system's queue until then is a connection that is not answered yet, to the application.
async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    files::room()?;
    let (socket, address) = listener.accept().await?;
    // There may be other listeners, which have taken the room meanwhile.
    files::stays(&socket).inspect_err(|_| reset_on_close(&socket))?;
    Ok((socket, address))
}

/// A connection that was accepted.
struct Arrival {
    socket: TcpStream,
    address: SocketAddr,
    accepted: Instant,
    /// Nothing carried the tunnel then.
    is_held: bool,
    place: Place,
}

/// Why a connection does not enter the tunnel.
enum Refusal {
    /// There was none in time.
    HeldTooLong,
    /// Its application has closed it while it was held.
    GivenUp,
}

/// Holds a connection until it is its turn and something carries the tunnel. The next one's turn begins when this one's is dropped.
async fn hold(context: &Context, arrival: Arrival) -> Result<(TcpStream, Tunnel, Turn), Refusal> {
    let Arrival {
        socket,
        accepted,
        mut is_held,
        place,
        ..
    } = arrival;
    let entered = async {
        // Those before it have earlier deadlines.
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
                    awaited.map_err(|_| Refusal::HeldTooLong)?
                }
            };
            // An application that was not made to wait may send, close and go.
            if !std::mem::take(&mut is_held) {
                return Ok((tunnel, turn));
            }
            if context.orphans.has_peer_of(&socket, accepted).await {
                return Err(Refusal::GivenUp);
            }
            // The tunnel may have lost its link meanwhile.
        }
    };
    let (tunnel, turn) = tokio::select! {
        biased;
        entered = entered => entered?,
        () = given_up(&socket, &context.orphans, accepted) => return Err(Refusal::GivenUp),
    };
    Ok((socket, tunnel, turn))
}

async fn visit(context: Context, arrival: Arrival) {
    let (address, parameters) = (arrival.address, &context.port.parameters);
    // Until a splice has ended in order, whatever ends this is no end of file.
    reset_on_close(&arrival.socket);
    let entered = tokio::select! {
        entered = hold(&context, arrival) => entered,
        () = context.stop.cancelled() => return,
    };
    let (socket, mut tunnel, turn) = match entered {
        Ok(entered) => entered,
        Err(Refusal::GivenUp) => {
            return info!(%address, "dropped: the application closed the connection while it was held");
        }
        Err(Refusal::HeldTooLong) => return log_held_too_long(&context, address),
    };
    let mut turn = Some(turn);
    let mut connection = TakenBack {
        socket,
        unsent: Bytes::new(),
    };
    loop {
        let stream = tunnel.open(context.port.details(&tunnel, address, &connection.socket));
        // The next one's turn.
        turn.take();
        let spliced = tokio::select! {
            spliced = splice_or_take_back(connection, stream, parameters.compress) => spliced,
            () = context.stop.cancelled() => return debug!("the connection was cut: the client ends"),
        };
        connection = match spliced {
            Ok(spliced) => {
                if spliced.received_bytes == 0 && spliced.error.as_ref().is_some_and(is_refusal) {
                    context.port.refused(&tunnel);
                }
                return log_end(&spliced);
            }
            Err(taken_back) => taken_back,
        };
        info!(
            unsent = connection.unsent.len(),
            "the tunnel ended before its server saw the connection: the next tunnel takes it"
        );
        let next = tokio::select! {
            next = tokio::time::timeout(context.hold_timeout, context.port.tunnel()) => next,
            () = context.stop.cancelled() => return,
        };
        tunnel = match next {
            Ok(tunnel) => tunnel,
            Err(_) => return log_held_too_long(&context, address),
        };
    }
}

fn log_held_too_long(context: &Context, address: SocketAddr) {
    warn!(
        %address,
        hold_timeout_s = context.hold_timeout.as_secs_f32(),
        "no server for this port key appeared in time: the connection is reset"
    );
}

fn log_end(spliced: &Spliced) {
    let Spliced {
        sent_bytes: sent,
        received_bytes: received,
        error,
    } = spliced;
    match error {
        None => debug!(sent, received, "the connection ended"),
        Some(error) => info!(sent, received, "the connection was reset: {error}"),
    }
}
