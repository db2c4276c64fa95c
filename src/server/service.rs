//! One tunnel at the server: for each stream that the client opens, the local service is dialled and joined to it; a stream that measures is
//! answered here.

use std::{io, sync::Arc, time::Duration};

use tokio::{net::TcpStream, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, debug_span, info, warn};

use super::{ServerPort, agent::Draining};
use crate::{
    bench::{Peer, Request},
    frame::{Code, Notice},
    tunnel::{ResetCode, Tunnel, TunnelStream, splice::splice},
};

/// What the streams of a tunnel need.
pub struct Context {
    pub port: Arc<ServerPort>,
    pub connect_timeout: Duration,
    /// The other end of measuring streams, unless they are turned off.
    pub bench: Option<Peer>,
    pub draining: Draining,
    pub streams: TaskTracker,
    pub stop: CancellationToken,
}

/// Why the local service could not be reached.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("it did not answer within {0:?}")]
    Timeout(Duration),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl DialError {
    /// What the client is told.
    fn wire_code(&self) -> ResetCode {
        match self {
            DialError::Timeout(_) => ResetCode::Timeout,
            DialError::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => ResetCode::Refused,
            DialError::Io(_) => ResetCode::Unreachable,
        }
    }
}

/// Serves a tunnel until it is over.
pub async fn serve(context: Context, tunnel: Tunnel) {
    let begun = Instant::now();
    let context = Arc::new(context);
    let mut streams = 0_u64;
    loop {
        let accepted = tokio::select! {
            accepted = tunnel.accept() => accepted,
            () = context.stop.cancelled() => None,
        };
        let Some((stream, details)) = accepted else { break };
        if context.draining.has_begun() {
            stream.reset(ResetCode::Shutdown);
            continue;
        }
        streams += 1;
        let span = debug_span!("stream", number = stream.id());
        match Request::read(&details) {
            Ok(None) => drop(context.streams.spawn(serve_stream(Arc::clone(&context), stream).instrument(span))),
            Ok(Some(request)) => drop(context.streams.spawn(measure(Arc::clone(&context), stream, request).instrument(span))),
            Err(error) => {
                // Never the service: who meant to measure would send it what it cannot make sense of.
                span.in_scope(|| debug!("refused: {error}"));
                stream.reset(error.wire_code());
            }
        }
    }
    tunnel.end(ResetCode::Shutdown, Notice::new(Code::Shutdown, "the server ends"));
    let why = tunnel.notice().map_or_else(|| "the server ends".to_owned(), |notice| notice.to_string());
    info!(tunnel = %tunnel.id(), lived_s = begun.elapsed().as_secs(), streams, "the tunnel is over: {why}");
}

async fn serve_stream(context: Arc<Context>, stream: TunnelStream) {
    let ServerPort { port, host, tcp_port } = &*context.port;
    let socket = tokio::select! {
        dialled = dial(host, *tcp_port, context.connect_timeout) => match dialled {
            Ok(socket) => socket,
            Err(error) => {
                warn!(local_address = %format_args!("{host}:{tcp_port}"), "the local service cannot be reached: {error}");
                return stream.reset(error.wire_code());
            }
        },
        error = stream.failed() => return debug!("given up before the local service answered: {error}"),
        () = context.stop.cancelled() => return stream.reset(ResetCode::Shutdown),
    };
    tokio::select! {
        spliced = splice(socket, stream, port.compress) => {
            let error = spliced.error.map(|error| error.to_string());
            debug!(to_service = spliced.received_bytes, from_service = spliced.sent_bytes, error, "the stream ended");
        }
        () = context.stop.cancelled() => debug!("the stream was cut: the server ends"),
    }
}

/// Serves a stream that measures the way here: the local service hears nothing of it.
async fn measure(context: Arc<Context>, stream: TunnelStream, request: Request) {
    let Some(peer) = &context.bench else { return stream.reset(ResetCode::Refused) };
    debug!(?request, "a measuring stream");
    tokio::select! {
        served = peer.serve(&stream, request) => match served {
            Ok(()) => debug!("the measuring stream ended"),
            Err(error) => debug!("the measuring stream was reset: {error}"),
        },
        () = context.stop.cancelled() => stream.reset(ResetCode::Shutdown),
    }
}

/// Dials afresh for each stream: a name may have moved.
async fn dial(host: &str, port: u16, timeout: Duration) -> Result<TcpStream, DialError> {
    let dialled = tokio::time::timeout(timeout, TcpStream::connect((host, port))).await;
    Ok(dialled.map_err(|_| DialError::Timeout(timeout))??)
}
