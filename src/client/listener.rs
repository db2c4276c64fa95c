//! A port's listener: every local connection becomes a stream of the port's tunnel.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, debug_span, error, info, info_span, warn};

use super::{port::Port, refused::is_refusal};
use crate::tunnel::{
    splice::{Spliced, reset_on_close},
    take_back::{TakenBack, splice_or_take_back},
};

/// After an error of the listener (too many open files, most of the time) it rests this long: the error would come again at once.
const ACCEPT_REST: Duration = Duration::from_millis(200);

/// What the connections of a port need.
#[derive(Clone)]
pub struct Context {
    pub port: Arc<Port>,
    pub hold_timeout: Duration,
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
            accepted = listener.accept() => accepted,
            () = cancel.cancelled() => return,
            () = context.stop.cancelled() => return,
        };
        match accepted {
            Ok((socket, address)) => {
                let visit = visit(context.clone(), socket, address);
                context.streams.spawn(visit.instrument(debug_span!(parent: &span, "stream", %address)));
            }
            Err(error) => {
                error!(parent: &span, "cannot accept a connection: {error}{}", remedy(&error));
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    // EMFILE and ENFILE have no kind of their own.
    if matches!(error.raw_os_error(), Some(23 | 24)) { "; raise the limit of open files (ulimit -n)" } else { "" }
}

async fn visit(context: Context, socket: TcpStream, address: SocketAddr) {
    let parameters = &context.port.parameters;
    // Until a splice has ended in order, whatever ends this is no end of file.
    reset_on_close(&socket);
    let mut connection = TakenBack { socket, unsent: Bytes::new() };
    loop {
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
        let stream = tunnel.open(context.port.details(&tunnel, address, &connection.socket));
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
    }
}

fn log_end(spliced: &Spliced) {
    let Spliced { sent_bytes: sent, received_bytes: received, error } = spliced;
    match error {
        None => debug!(sent, received, "the connection ended"),
        Some(error) => info!(sent, received, "the connection was reset: {error}"),
    }
}
