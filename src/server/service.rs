//! One tunnel at the server: for each stream that the client opens, the local service is dialled and joined to it; a stream that measures is
//! answered here.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, debug_span, error, info, warn};

use super::{
    ServerPort,
    agent::{Draining, Tunnels},
    proxy_protocol,
    quota::{Permit, Quotas},
};
use crate::{
    bench::{Peer, Request, RequestError},
    frame::{Code, Notice},
    link::{
        connect::{ConnectError, connect},
        files::Trouble,
    },
    tunnel::{
        ResetCode, Tunnel, TunnelStream,
        origin::{Origin, OriginError},
        splice::splice,
    },
};

/// What the streams of a tunnel need.
pub struct Context {
    pub port: Arc<ServerPort>,
    pub connect_timeout: Duration,
    /// The other end of measuring streams, unless they are turned off.
    pub bench: Option<Peer>,
    pub draining: Draining,
    pub quotas: Arc<Quotas>,
    /// Connections that are refused for the sake of others.
    pub refusals: Arc<Trouble>,
    /// Ends what no channel carries when that makes room.
    pub tunnels: Tunnels,
    /// The lack of descriptors, for all tunnels of the server.
    pub trouble: Arc<Trouble>,
    pub streams: TaskTracker,
    pub stop: CancellationToken,
}

/// Why the local service could not be reached.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("it did not take the header of the PROXY protocol within {0:?}")]
    Timeout(Duration),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl DialError {
    /// What the client is told.
    fn wire_code(&self) -> ResetCode {
        let kind = match self {
            DialError::Timeout(_) => io::ErrorKind::TimedOut,
            DialError::Connect(error) => error.kind(),
            DialError::Io(error) => error.kind(),
        };
        match kind {
            io::ErrorKind::TimedOut => ResetCode::Timeout,
            io::ErrorKind::ConnectionRefused => ResetCode::Refused,
            _ => ResetCode::Unreachable,
        }
    }

    /// Logs it. A lack of descriptors is one for all streams, and is not logged for each.
    fn log(&self, context: &Context) {
        match self {
            DialError::Connect(ConnectError::OutOfFiles(out)) => {
                context.trouble.log(|times| {
                    error!(
                        times,
                        "cannot connect to local services: {out}; {}",
                        out.remedy()
                    )
                });
            }
            error => {
                let ServerPort { host, tcp_port, .. } = &*context.port;
                warn!(local_address = %format_args!("{host}:{tcp_port}"), "the local service cannot be reached: {error}");
            }
        }
    }
}

/// What a stream is for, as its details say it.
enum Purpose {
    /// It leads to the service, and comes from there.
    Service(Option<Origin>),
    /// It measures the way here.
    Measure(Request),
}

/// The details of a stream make no sense.
#[derive(Debug, thiserror::Error)]
enum DetailsError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Origin(#[from] OriginError),
}

impl DetailsError {
    /// What the client is told.
    fn wire_code(&self) -> ResetCode {
        match self {
            DetailsError::Request(error) => error.wire_code(),
            DetailsError::Origin(_) => ResetCode::Protocol,
        }
    }
}

impl Purpose {
    /// Where the stream comes from is looked at when somebody wants to know.
    fn read(details: &[u8], wants_origin: bool) -> Result<Self, DetailsError> {
        Ok(match Request::read(details)? {
            Some(request) => Purpose::Measure(request),
            None if wants_origin => Purpose::Service(Origin::read(details)?),
            None => Purpose::Service(None),
        })
    }
}

/// Serves a tunnel until it is over.
pub async fn serve(context: Context, tunnel: Tunnel) {
    let begun = Instant::now();
    let context = Arc::new(context);
    let mut streams = 0_u64;
    let mut is_silence_noted = false;
    loop {
        let accepted = tokio::select! {
            accepted = tunnel.accept() => accepted,
            () = context.stop.cancelled() => None,
        };
        let Some((stream, details)) = accepted else {
            break;
        };
        if context.draining.has_begun() {
            stream.reset(ResetCode::Shutdown);
            continue;
        }
        let permit = match context
            .quotas
            .stream(context.port.port.keys.id, tunnel.id())
        {
            Ok(permit) => permit,
            Err(exhausted) => {
                context
                    .refusals
                    .log(|times| warn!(times, "a connection was refused: {exhausted}"));
                context
                    .tunnels
                    .end_one_without_channel(context.port.port.keys.id);
                stream.reset(ResetCode::Limit);
                continue;
            }
        };
        streams += 1;
        let span = debug_span!("stream", number = stream.id());
        match Purpose::read(&details, context.port.proxy_protocol) {
            Ok(Purpose::Service(origin)) => {
                let is_silent = context.port.proxy_protocol && origin.is_none();
                if is_silent && !std::mem::replace(&mut is_silence_noted, true) {
                    warn!(
                        "the client does not say where its connections come from, so that the service is not told; upgrade it"
                    );
                }
                drop(context.streams.spawn(
                    serve_stream(Arc::clone(&context), stream, origin, permit).instrument(span),
                ));
            }
            Ok(Purpose::Measure(request)) => {
                drop(context.streams.spawn(
                    measure(Arc::clone(&context), stream, request, permit).instrument(span),
                ));
            }
            Err(error) => {
                // Never the service: who meant to measure would send it what it cannot make sense of.
                span.in_scope(|| debug!("refused: {error}"));
                stream.reset(error.wire_code());
            }
        }
    }
    tunnel.end(
        ResetCode::Shutdown,
        Notice::new(Code::Shutdown, "the server ends"),
    );
    let why = tunnel
        .notice()
        .map_or_else(|| "the server ends".to_owned(), |notice| notice.to_string());
    info!(tunnel = %tunnel.id(), lived_s = begun.elapsed().as_secs(), streams, "the tunnel is over: {why}");
}

/// Serves a stream that comes from there, as far as that is known.
async fn serve_stream(
    context: Arc<Context>,
    stream: TunnelStream,
    origin: Option<Origin>,
    _place: Permit,
) {
    let port = &context.port.port;
    let socket = tokio::select! {
        dialled = dial(&context, origin) => match dialled {
            Ok(socket) => socket,
            Err(error) => {
                error.log(&context);
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
async fn measure(context: Arc<Context>, stream: TunnelStream, request: Request, _place: Permit) {
    let Some(peer) = &context.bench else {
        return stream.reset(ResetCode::Refused);
    };
    debug!(?request, "a measuring stream");
    tokio::select! {
        served = peer.serve(&stream, request) => match served {
            Ok(()) => debug!("the measuring stream ended"),
            Err(error) => debug!("the measuring stream was reset: {error}"),
        },
        () = context.stop.cancelled() => stream.reset(ResetCode::Shutdown),
    }
}

/// Dials afresh for each stream: a name may have moved. A service that wants to hear where the connection comes from has been told then, once for the
/// whole life of the stream.
async fn dial(context: &Context, origin: Option<Origin>) -> Result<TcpStream, DialError> {
    let ServerPort {
        host,
        tcp_port,
        proxy_protocol,
        ..
    } = &*context.port;
    let deadline = Instant::now() + context.connect_timeout;
    let mut socket = connect(host, *tcp_port, context.connect_timeout).await?;
    if *proxy_protocol {
        let header = proxy_protocol::header(origin.as_ref());
        let written = timeout_at(deadline, socket.write_all(&header)).await;
        written.map_err(|_| DialError::Timeout(context.connect_timeout))??;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests;
