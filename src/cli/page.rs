//! The built-in web page of a quickstart without a service. It is a single page without external
//! links, and knows nothing of tunnels.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::telemetry::timestamp;

const PAGE: &str = include_str!("page.html");

/// How long a connection may wait for its next request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the last response may take during shutdown.
const LAST_RESPONSE_TIMEOUT: Duration = Duration::from_millis(500);

/// The pause after a failed `accept`. The usual cause is a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener that is ready to serve the page.
pub(super) struct Page {
    listener: TcpListener,
    address: SocketAddr,
}

/// Listens at an address. Port 0 lets the system choose.
///
/// # Errors
/// Fails when the port is taken.
pub(super) async fn listen(address: SocketAddr) -> anyhow::Result<Page> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("cannot serve the page at {address}"))?;
    let address = listener.local_addr()?;
    Ok(Page { listener, address })
}

impl Page {
    /// The local address of the listener.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `cancel` is cancelled. Then it finishes current requests, closes idle
    /// connections and returns.
    ///
    /// # Errors
    /// Never fails at present.
    ///
    /// # Cancel safety
    /// Dropping the future leaves connections running. Cancel `cancel` instead.
    pub(super) async fn serve(self, cancel: CancellationToken) -> anyhow::Result<()> {
        let connections = TaskTracker::new();
        let accepted = Arc::new(AtomicU64::new(0));
        loop {
            let stream = tokio::select! {
                () = cancel.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match stream {
                Ok((stream, _)) => drop(connections.spawn(serve_connection(
                    stream,
                    accepted.clone(),
                    cancel.clone(),
                ))),
                Err(error) => {
                    tracing::warn!(%error, "page cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        connections.close();
        connections.wait().await;
        Ok(())
    }
}

/// Serves one connection until it closes.
async fn serve_connection(stream: TcpStream, accepted: Arc<AtomicU64>, cancel: CancellationToken) {
    let opened = timestamp();
    accepted.fetch_add(1, Ordering::Relaxed);
    let service = service_fn(|request| {
        let answer = answer(&request, &opened, accepted.load(Ordering::Relaxed));
        async { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        // A client that disconnects is not an error.
        _ = connection.as_mut() => {}
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // The timeout ends a connection that never sent a request.
            let _ = timeout(LAST_RESPONSE_TIMEOUT, connection).await;
        }
    }
}

fn answer(request: &Request<Incoming>, opened: &str, number: u64) -> Response<Full<Bytes>> {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let (status, kind, body) = match request.uri().path() {
        _ if !reads => (
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain",
            "only GET and HEAD\n".to_owned(),
        ),
        "/" => (
            StatusCode::OK,
            "text/html; charset=utf-8",
            page(opened, number),
        ),
        "/ping" => (StatusCode::OK, "text/plain", "pong\n".to_owned()),
        _ => (
            StatusCode::NOT_FOUND,
            "text/plain",
            "not found, the only page is /\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn page(opened: &str, number: u64) -> String {
    PAGE.replace("{opened}", opened)
        .replace("{number}", &number.to_string())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Sends a request and returns its answer. The server closes the connection after it.
    async fn ask(address: SocketAddr, request_line: &str) -> String {
        let request = format!("{request_line} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(request.as_bytes()).await.expect("asks");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .await
            .expect("is answered");
        answer
    }

    /// Opens a connection that stays open and idle after its first answer.
    async fn idle_connection(address: SocketAddr) -> TcpStream {
        let mut idle = TcpStream::connect(address).await.expect("connects");
        idle.write_all(b"GET /ping HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .expect("asks");
        let mut first = [0; 12];
        idle.read_exact(&mut first).await.expect("is answered");
        assert_eq!(&first, b"HTTP/1.1 200");
        idle
    }

    #[test]
    fn the_page_is_served_and_idle_connections_do_not_delay_shutdown() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let page = listen((Ipv4Addr::LOCALHOST, 0).into())
                .await
                .expect("listens");
            let (address, cancel) = (page.address(), CancellationToken::new());
            let visit = async {
                let answer = ask(address, "GET /").await;
                assert!(
                    answer.starts_with("HTTP/1.1 200 ")
                        && answer.contains("came through the tunnel"),
                    "{answer}"
                );
                assert!(
                    answer.contains("<dd>1</dd>") && !answer.contains("{opened}"),
                    "{answer}"
                );
                for (request_line, status) in
                    [("GET /other", "404"), ("POST /", "405"), ("HEAD /", "200")]
                {
                    let answer = ask(address, request_line).await;
                    assert!(
                        answer.starts_with(&format!("HTTP/1.1 {status} ")),
                        "{answer}"
                    );
                }
                let mut idle = idle_connection(address).await;
                cancel.cancel();
                let mut rest = Vec::new();
                idle.read_to_end(&mut rest)
                    .await
                    .expect("the page closes it");
            };
            let (served, ()) = tokio::join!(page.serve(cancel.clone()), visit);
            served.expect("ends");
        });
    }
}
