//! One connection to the admin address: one request and its answer.

#![cfg_attr(
    not(feature = "store"),
    allow(
        dead_code,
        reason = "only the API asks for the connection of a request"
    )
)]

use std::{
    net::IpAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, http::Request};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::write_deadline::WriteDeadline;
use crate::net::websocket::ByteStream;

/// The timeout for the TLS handshake, and for the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The lifetime of a connection, which carries one request.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);

/// The lifetime of a stream of events, whose client then connects again. The connection of a client
/// that reads nothing ends as soon as a write waits for too long ([`WriteDeadline`]).
pub(super) const STREAM_LIFETIME: Duration = Duration::from_secs(3_600);

/// The longest head of a request, in bytes: the minimum of hyper's buffer.
pub(super) const HEADER_BYTES: usize = 8 * 1024;

/// The place that a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The unix socket, which only the user of the process and root can open.
    #[cfg(unix)]
    UnixSocket,
    /// A TCP connection.
    Address(IpAddr),
}

/// The connection of a request. Each request has it as an extension. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct AdminConnection {
    origin: Origin,
    carries_events: Arc<AtomicBool>,
}

impl AdminConnection {
    /// Creates a connection that carries one request and its answer.
    pub(super) fn new(origin: Origin) -> Self {
        AdminConnection {
            origin,
            carries_events: Arc::default(),
        }
    }

    /// Returns the place that the connection comes from.
    pub(super) fn origin(&self) -> Origin {
        self.origin
    }

    /// Extends the deadline, because the answer is a stream of events.
    pub(super) fn carry_events(&self) {
        self.carries_events.store(true, Relaxed);
    }

    fn carries_events(&self) -> bool {
        self.carries_events.load(Relaxed)
    }
}

/// Serves one request over TCP, behind the TLS handshake if configured.
pub(super) async fn serve_tcp(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    routes: Router,
    origin: Origin,
) {
    let stream = WriteDeadline::new(stream);
    let Some(acceptor) = tls else {
        return serve(stream, routes, origin).await;
    };
    match timeout(HEADER_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => serve(stream, routes, origin).await,
        Ok(Err(error)) => debug!(%error, "admin connection: TLS handshake failed"),
        Err(_) => debug!("admin connection: TLS handshake timed out"),
    }
}

/// Serves one request at the unix socket.
#[cfg(unix)]
pub(super) async fn serve_unix(stream: impl ByteStream, routes: Router) {
    serve(WriteDeadline::new(stream), routes, Origin::UnixSocket).await;
}

/// Serves one request.
async fn serve(stream: impl ByteStream, routes: Router, origin: Origin) {
    let connection = AdminConnection::new(origin);
    let of_requests = connection.clone();
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(of_requests.clone());
        routes.call(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    let mut ended = timeout(CONNECTION_TIMEOUT, served.as_mut()).await;
    if ended.is_err() && connection.carries_events() {
        ended = timeout(STREAM_LIFETIME, served).await;
    }
    // Errors concern this peer only: it left, or sent no valid request in time.
    if let Ok(Err(error)) = ended {
        debug!(%error, "admin connection failed");
    }
}

#[cfg(test)]
mod tests {
    use axum::{Extension, body::Body, response::Response, routing::get};
    use bytes::Bytes;
    use futures_util::stream;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
        time::{Instant, sleep},
    };

    use super::{super::write_deadline::WRITE_TIMEOUT, *};

    /// The interval of the events.
    const EVENT: Duration = Duration::from_secs(1);

    /// An answer with an event each second, without end.
    async fn events(Extension(connection): Extension<AdminConnection>) -> Response {
        connection.carry_events();
        let events = stream::unfold((), |()| async {
            sleep(EVENT).await;
            let event = Bytes::from_static(b"data: 0123456789\n\n");
            Some((Ok::<_, std::io::Error>(event), ()))
        });
        Response::new(Body::from_stream(events))
    }

    /// Serves a request for events over a connection with a small buffer.
    async fn requested() -> (DuplexStream, impl Future<Output = ()>) {
        let (near, mut far) = duplex(1_024);
        let routes = Router::new().route("/", get(events));
        let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
        far.write_all(request).await.expect("room for the request");
        let origin = Origin::Address(std::net::Ipv4Addr::LOCALHOST.into());
        (far, serve(WriteDeadline::new(near), routes, origin))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_no_events_loses_its_connection() {
        let (_far, served) = requested().await;
        let start = Instant::now();
        served.await;
        let lasted = start.elapsed();
        // The buffers of the connection and of hyper take some events before.
        assert!(lasted > WRITE_TIMEOUT, "{lasted:?}");
        assert!(lasted < STREAM_LIFETIME / 2, "{lasted:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_events_keeps_its_connection() {
        let (mut far, served) = requested().await;
        let start = Instant::now();
        let read = async {
            let mut bytes = Vec::new();
            far.read_to_end(&mut bytes).await.expect("a stream");
            bytes.len()
        };
        let ((), read) = tokio::join!(served, read);
        assert!(start.elapsed() >= STREAM_LIFETIME);
        assert!(read > 3_000 * 18, "{read}");
    }
}
