//! A port's listener: every local connection becomes a stream of the port's tunnel.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, debug_span, info, info_span, warn};

use super::port::Port;
use crate::{
    link::{
        files::{self, Trouble},
        tcp::is_of_one_connection,
    },
    tunnel::splice::{reset_on_close, splice},
};

/// After an error of the listener (too many open files, most of the time) it pauses for this long: the error would come again at once.
const ACCEPT_REST: Duration = Duration::from_millis(200);

/// What the connections of a port need.
#[derive(Clone)]
pub struct Context {
    pub port: Arc<Port>,
    pub hold_timeout: Duration,
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
                let visit = visit(context.clone(), socket, address);
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

async fn visit(context: Context, socket: TcpStream, address: SocketAddr) {
    let parameters = &context.port.parameters;
    // Until a splice has ended in order, whatever ends this is no end of file.
    reset_on_close(&socket);
    let tunnel = tokio::select! {
        tunnel = tokio::time::timeout(context.hold_timeout, context.port.tunnel()) => tunnel,
        () = context.stop.cancelled() => return,
    };
    let Ok(tunnel) = tunnel else {
        warn!(
            %address,
            hold_timeout_s = context.hold_timeout.as_secs_f32(),
            "no server for this port key appeared in time: the connection is reset"
        );
        return;
    };
    let stream = tunnel.open(context.port.details(&tunnel, address, &socket));
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
