//! Serves one tunnel at the server: dials the local service for each stream that the client opens
//! and splices the two. Benchmark streams are answered here.

#[cfg(test)]
mod tests;

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    time::{Instant, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, debug_span, error, info, warn};

use super::{
    destination::{DestinationError, DestinationFault, connect_named},
    draining::Draining,
    port::{OfferedPorts, ServerPort, Service},
    quota::{Quotas, StreamPermit},
    settings::SharedSettings,
    tunnels::Tunnels,
    udp,
};
use crate::{
    bench::{BenchRequest, BenchRequestError, BenchResponder},
    diagnosis::DiagnosisCode,
    net::{
        connect::ConnectError, file_limit::ThrottledLog, local_stream::LocalStream, proxy_protocol,
        resolve::NameError,
    },
    tunnel::{
        ResetCode, Tunnel, TunnelStream,
        confirmation::confirm,
        details::{OpenDetails, OpenDetailsError, WantedDetails},
        origin::Origin,
        splice::splice,
    },
};
use report_proto::frame::{Code, Notice};

/// The resources that the streams of a tunnel use.
#[derive(Clone)]
pub(super) struct ServiceContext {
    /// The port as it was when the stream was opened.
    pub port: Arc<ServerPort>,
    /// Whether the server has asked for the addresses of connections when the tunnel began.
    pub wants_origin: bool,
    /// The present ports.
    pub offered: OfferedPorts,
    pub settings: SharedSettings,
    /// Serves benchmark streams, unless they are disabled.
    pub bench: Option<Arc<BenchResponder>>,
    pub draining: Draining,
    pub quotas: Arc<Quotas>,
    /// Logs connections that the quotas or the rules for destinations refuse, throttled.
    pub refusals: Arc<ThrottledLog>,
    /// Logs named destinations that cannot be reached, and flows of datagrams whose service fails,
    /// throttled: each request and each datagram may cause another one.
    pub flow_failures: Arc<ThrottledLog>,
    /// Ends a detached tunnel when that makes room.
    pub tunnels: Tunnels,
    /// Logs a lack of descriptors, throttled for all tunnels of the server together.
    pub descriptor_log: Arc<ThrottledLog>,
    pub streams: TaskTracker,
    pub stop: CancellationToken,
}

impl ServiceContext {
    /// Returns the context with the port as it is now. `None`: the port was removed, or carries
    /// something else, so the tunnel accepts no more streams and flows.
    pub(super) fn present(context: &Arc<Self>) -> Option<Arc<Self>> {
        let before = &context.port;
        let port = context.offered.get(before.port.keys.id)?;
        if Arc::ptr_eq(&port, before) {
            return Some(Arc::clone(context));
        }
        let carries = |port: &ServerPort| (port.port.protocol, port.port.range);
        let is_same_kind = carries(&port) == carries(before);
        is_same_kind.then(|| {
            Arc::new(ServiceContext {
                port,
                ..(**context).clone()
            })
        })
    }

    /// Reserves a stream of the tunnel before dialling: a refused stream must not reach the service.
    pub(super) fn permit(&self, tunnel: &Tunnel) -> Option<StreamPermit> {
        let port = self.port.port.keys.id;
        match self.quotas.stream(port, tunnel.id()) {
            Ok(permit) => Some(permit),
            Err(error) => {
                self.count_refusal(error.reason());
                self.refusals
                    .log(|times| warn!(times, "connection refused: {error}"));
                self.tunnels.end_one_detached(port);
                None
            }
        }
    }

    /// Counts a stream or a flow that is refused.
    pub(super) fn count_refusal(&self, reason: &'static str) {
        let refusals = &self.port.port.process_shared.refusals;
        refusals.count("stream", reason);
    }
}

/// Why the local service, or a destination, cannot be reached.
#[derive(Debug, thiserror::Error)]
enum ServiceDialError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Destination(#[from] DestinationError),
    #[error("it did not accept the PROXY protocol header within {0:?}")]
    Timeout(Duration),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl ServiceDialError {
    /// Returns the code with which the client's stream is reset.
    fn wire_code(&self) -> ResetCode {
        if let ServiceDialError::Destination(error) = self {
            return error.wire_code();
        }
        if let ServiceDialError::Connect(ConnectError::Name {
            source: NameError::TimedOut,
            ..
        }) = self
        {
            return ResetCode::Timeout;
        }
        match self.code() {
            DiagnosisCode::ServiceTimeout => ResetCode::Timeout,
            DiagnosisCode::ServiceRefused => ResetCode::Refused,
            _ => ResetCode::Unreachable,
        }
    }

    /// Returns the code of the failure.
    fn code(&self) -> DiagnosisCode {
        match self {
            ServiceDialError::Timeout(_) => DiagnosisCode::ServiceTimeout,
            ServiceDialError::Connect(error) => error.code(),
            ServiceDialError::Destination(error) => error.code(),
            ServiceDialError::Io(error) => match error.kind() {
                io::ErrorKind::TimedOut => DiagnosisCode::ServiceTimeout,
                io::ErrorKind::ConnectionRefused => DiagnosisCode::ServiceRefused,
                _ => DiagnosisCode::ServiceUnreachable,
            },
        }
    }

    /// Logs the error. A lack of descriptors affects all streams and is not logged for each of
    /// them, nor are failures of named destinations, which an application can cause at will.
    fn log(&self, context: &ServiceContext) {
        match self {
            ServiceDialError::Connect(ConnectError::OutOfFiles(out))
            | ServiceDialError::Destination(DestinationError {
                fault: DestinationFault::Connect(ConnectError::OutOfFiles(out)),
                ..
            }) => {
                context.descriptor_log.log(|times| {
                    error!(
                        times,
                        code = %DiagnosisCode::OutOfFiles,
                        "cannot connect to local services: {out}; {}",
                        out.remedy()
                    )
                });
            }
            ServiceDialError::Destination(error) => match error.fault {
                DestinationFault::Denied(_) => context
                    .refusals
                    .log(|times| warn!(times, "destination refused: {error}")),
                DestinationFault::Connect(_) => context.flow_failures.log(|times| {
                    info!(times, code = %error.code(), "cannot reach the destination: {error}");
                }),
            },
            error => {
                let service = match &context.port.service {
                    Service::Targets(targets) => targets.to_string(),
                    Service::Destinations(_) => String::new(),
                };
                warn!(local_address = %service, code = %error.code(), "cannot reach the local service: {error}");
            }
        }
    }
}

/// The purpose of a stream, as its details state it.
enum Purpose {
    /// A connection to the service.
    Service(OpenDetails),
    /// A measurement of the path to this server.
    Measure(BenchRequest),
}

/// The details of a stream are invalid.
#[derive(Debug, thiserror::Error)]
enum DetailsError {
    #[error(transparent)]
    Request(#[from] BenchRequestError),
    #[error(transparent)]
    Service(#[from] OpenDetailsError),
}

impl DetailsError {
    /// Returns the code with which the client's stream is reset.
    fn wire_code(&self) -> ResetCode {
        match self {
            DetailsError::Request(error) => error.reset_code(),
            DetailsError::Service(error) => error.reset_code(),
        }
    }
}

impl Purpose {
    /// Parses the details of a stream.
    fn read(details: &[u8], wanted: WantedDetails) -> Result<Self, DetailsError> {
        Ok(match BenchRequest::read(details)? {
            Some(request) => Purpose::Measure(request),
            None => Purpose::Service(OpenDetails::read(details, wanted)?),
        })
    }
}

/// Serves a tunnel until it has ended.
pub(super) async fn serve(context: ServiceContext, tunnel: Tunnel) {
    let started = Instant::now();
    let context = Arc::new(context);
    let streams = serve_streams(&context, &tunnel);
    let flows = udp::serve_flows(&context, &tunnel);
    let (streams, flows) = tokio::join!(streams, flows);
    end(&tunnel, started, streams, flows);
}

/// Serves the streams of a tunnel until it has ended. Returns their number.
async fn serve_streams(context: &Arc<ServiceContext>, tunnel: &Tunnel) -> u64 {
    let mut context = Arc::clone(context);
    let mut streams = 0_u64;
    let mut origin_warned = false;
    loop {
        let accepted = tokio::select! {
            accepted = tunnel.accept() => accepted,
            () = context.stop.cancelled() => None,
        };
        let Some((stream, details)) = accepted else {
            return streams;
        };
        if context.draining.has_started() {
            context.count_refusal("draining");
            stream.reset(ResetCode::Shutdown);
            continue;
        }
        let Some(present) = ServiceContext::present(&context) else {
            context.count_refusal("removed");
            stream.reset(ResetCode::Shutdown);
            continue;
        };
        context = present;
        let Some(permit) = context.permit(tunnel) else {
            stream.reset(ResetCode::Limit);
            continue;
        };
        streams += 1;
        let span = debug_span!("stream", number = stream.id());
        let wanted = WantedDetails::of(&context.port.port, context.wants_origin);
        match Purpose::read(&details, wanted) {
            Ok(Purpose::Service(details)) => {
                let origin_missing = context.port.proxy_protocol && details.origin.is_none();
                if origin_missing && !std::mem::replace(&mut origin_warned, true) {
                    warn!(
                        "a connection has no source that the service could receive (it was made to a unix socket of the client)"
                    );
                }
                drop(context.streams.spawn(
                    serve_stream(Arc::clone(&context), stream, details, permit).instrument(span),
                ));
            }
            Ok(Purpose::Measure(request)) => {
                drop(context.streams.spawn(
                    measure(Arc::clone(&context), stream, request, permit).instrument(span),
                ));
            }
            Err(error) => {
                // Never pass such a stream to the service: a client that meant to measure would
                // send it benchmark data.
                span.in_scope(|| debug!(%error, "stream refused"));
                context.count_refusal("invalid_details");
                stream.reset(error.wire_code());
            }
        }
    }
}

/// Ends a tunnel that is served no longer, and logs why.
fn end(tunnel: &Tunnel, started: Instant, streams: u64, flows: u64) {
    tunnel.end(
        ResetCode::Shutdown,
        Notice::new(Code::Shutdown, "the server is shutting down"),
    );
    let why = tunnel.notice().map_or_else(
        || "the server is shutting down".to_owned(),
        |notice| notice.to_string(),
    );
    info!(tunnel = %tunnel.id(), lived_s = started.elapsed().as_secs(), streams, flows, reason = %why, "tunnel ended");
}

/// Serves a stream to the local service.
async fn serve_stream(
    context: Arc<ServiceContext>,
    stream: TunnelStream,
    details: OpenDetails,
    _permit: StreamPermit,
) {
    let socket = tokio::select! {
        dialled = dial(&context, &details) => match dialled {
            Ok(socket) => socket,
            Err(error) => {
                context.count_refusal(error.code().name());
                error.log(&context);
                return stream.reset(error.wire_code());
            }
        },
        error = stream.failed() => return debug!(%error, "stream failed before the local service answered"),
        () = context.stop.cancelled() => return stream.reset(ResetCode::Shutdown),
    };
    if let Service::Destinations(_) = &context.port.service {
        let confirmed = tokio::select! {
            confirmed = confirm(&stream) => confirmed,
            () = context.stop.cancelled() => return stream.reset(ResetCode::Shutdown),
        };
        if let Err(error) = confirmed {
            return debug!(%error, "stream failed before its confirmation");
        }
    }
    let compress = stream.compress();
    tokio::select! {
        spliced = splice(socket, stream, compress) => {
            let error = spliced.error.map(|error| error.to_string());
            debug!(to_service = spliced.received_bytes, from_service = spliced.sent_bytes, error, "stream ended");
        }
        () = context.stop.cancelled() => debug!("stream cut: the server is shutting down"),
    }
}

/// Serves a benchmark stream. The local service is not involved.
async fn measure(
    context: Arc<ServiceContext>,
    stream: TunnelStream,
    request: BenchRequest,
    _permit: StreamPermit,
) {
    let Some(peer) = &context.bench else {
        return stream.reset(ResetCode::Refused);
    };
    debug!(?request, "benchmark stream opened");
    tokio::select! {
        served = peer.serve(&stream, request) => match served {
            Ok(()) => debug!("benchmark stream ended"),
            Err(error) => debug!(%error, "benchmark stream reset"),
        },
        () = context.stop.cancelled() => stream.reset(ResetCode::Shutdown),
    }
}

/// Connects to the service, or to the destination that the application named. Resolves a name for
/// each stream, because it may have moved. Sends the PROXY protocol header if the service asks for
/// it.
async fn dial(
    context: &ServiceContext,
    details: &OpenDetails,
) -> Result<LocalStream, ServiceDialError> {
    let (port, limit) = (&context.port, context.settings.get().connect_timeout);
    let deadline = Instant::now() + limit;
    let mut socket = match (&port.service, &details.target) {
        (Service::Targets(targets), _) => targets.connect(details.offset, limit).await?,
        (Service::Destinations(rules), Some(target)) => connect_named(rules, target, limit).await?,
        (Service::Destinations(_), None) => return Err(DestinationError::unnamed().into()),
    };
    if port.proxy_protocol {
        let header = proxy_header(details.origin.as_ref());
        let written = timeout_at(deadline, socket.write_all(&header)).await;
        written.map_err(|_| ServiceDialError::Timeout(limit))??;
    }
    Ok(socket)
}

/// Encodes the header that a service receives before the first byte of a connection, if it asks for
/// it: PROXY protocol version 2, with the two ends of the application's connection to the client.
/// Without an origin it is LOCAL: the service then uses the addresses of the connection itself.
fn proxy_header(origin: Option<&Origin>) -> Vec<u8> {
    proxy_protocol::encode(origin.map(|origin| (origin.source(), origin.destination())))
}
