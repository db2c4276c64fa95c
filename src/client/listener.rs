//! A port's listener: every local connection becomes a stream of the port's tunnel.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

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
};
use crate::{
    link::{
        files::{self, Trouble},
        tcp::is_of_one_connection,
    },
    tunnel::{
        Tunnel,
        splice::{reset_on_close, splice},
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
                let arrival = Arrival { socket, address, accepted, is_held, place };
                let visit = visit(context.clone(), arrival);
                context.streams.spawn(visit.instrument(debug_span!(parent: &span, "stream", %address)));
            }
            Err(error) if is_of_one_connection(&error) => debug!(parent: &span, %error, "a connection was not accepted"),
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
    let Arrival { socket, accepted, mut is_held, place, .. } = arrival;
    let entered = async {
        // Those before it have earlier deadlines.
        let turn = place.turn().await;
        loop {
            let tunnel = match context.port.tunnel().now_or_never() {
                Some(tunnel) => tunnel,
                None => {
                    is_held = true;
                    let awaited = tokio::time::timeout_at(accepted + context.hold_timeout, context.port.tunnel()).await;
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
    let (socket, tunnel, turn) = match entered {
        Ok(entered) => entered,
        Err(Refusal::GivenUp) => return info!(%address, "dropped: the application closed the connection while it was held"),
        Err(Refusal::HeldTooLong) => {
            return warn!(
                %address,
                hold_timeout_s = context.hold_timeout.as_secs_f32(),
                "no server for this port key appeared in time: the connection is reset"
            );
        }
    };
    let stream = tunnel.open(context.port.details(&tunnel, address, &socket));
    drop(turn);
    tokio::select! {
        spliced = splice(socket, stream, parameters.compress) => match spliced.error {
            None => debug!(sent = spliced.sent_bytes, received = spliced.received_bytes, "the connection ended"),
            Some(error) => info!(
                sent = spliced.sent_bytes,
                received = spliced.received_bytes,
                "the connection was reset: {error}"
            ),
        },
        () = context.stop.cancelled() => debug!("the connection was cut: the client ends"),
    }
}
