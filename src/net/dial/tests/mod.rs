//! Dials real sockets on the loopback interface: a master's endpoint, and the other services that
//! may listen there.

mod certificates;
mod connections;
mod proxies;
mod responses;
mod traces;

use std::net::Ipv4Addr;

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};

use super::*;
use crate::net::tls::{ReloadingCertificate, tests::Authority};

/// A listener that stops when dropped.
struct TestListener {
    address: SocketAddr,
    _task: JoinSet<()>,
}

impl TestListener {
    /// Serves each connection with `serve`, one at a time.
    async fn with<F: Future<Output = ()> + Send>(
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream).await;
            }
        });
        TestListener {
            address,
            _task: task,
        }
    }

    /// A master's endpoint that sends one message and echoes the next.
    async fn master() -> Self {
        TestListener::with(echo).await
    }

    /// A master's endpoint behind TLS.
    async fn secure(certificate: Arc<ReloadingCertificate>) -> Self {
        let acceptor = certificate.acceptor();
        TestListener::with(move |stream| {
            let acceptor = acceptor.clone();
            async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    echo(stream).await;
                }
            }
        })
        .await
    }

    /// Answers each request with the same bytes, then closes.
    async fn answering(answer: impl Into<Bytes>) -> Self {
        let answer = answer.into();
        TestListener::with(move |mut stream| {
            let answer = answer.clone();
            async move {
                read_request(&mut stream).await;
                let _ = stream.write_all(&answer).await;
            }
        })
        .await
    }

    fn url(&self, scheme: &str, host: &str) -> String {
        format!("{scheme}://{host}:{}/report?x=1", self.address.port())
    }

    /// Returns a dialer for a master without TLS here.
    fn dialer(&self) -> Dialer {
        dialer(&self.url("ws", "127.0.0.1"), parameters())
    }

    /// Returns a dialer for the TLS master `host` here, trusting only `authority`.
    fn tls_dialer(&self, host: &str, authority: &Authority) -> Dialer {
        let parameters = DialParameters {
            tls: TlsParameters::trusting(Some(authority.path("ca.pem"))),
            ..parameters()
        };
        dialer(&self.url("wss", host), parameters)
    }

    /// Returns the text of the error that a dial without TLS fails with.
    async fn refusal(&self) -> String {
        failure(&self.dialer()).await.to_string()
    }
}

fn parameters() -> DialParameters {
    DialParameters {
        deadline: Duration::from_secs(5),
        ..DialParameters::default()
    }
}

fn dialer(url: &str, parameters: DialParameters) -> Dialer {
    Dialer::new(url.parse().unwrap(), parameters).unwrap()
}

/// Returns the error that a dial fails with.
async fn failure(dialer: &Dialer) -> DialError {
    dialer.dial().await.expect_err("not a master")
}

/// Dials a master, and exchanges messages with it.
async fn exchange_messages(dialer: &Dialer) {
    let mut socket = dialer.dial().await.unwrap();
    assert_eq!(socket.receive().await.unwrap().unwrap(), "first");
    socket.feed(Bytes::from_static(b"and back")).await.unwrap();
    socket.flush().await.unwrap();
    assert_eq!(socket.receive().await.unwrap().unwrap(), "and back");
    socket.close(Duration::from_secs(1)).await;
}

async fn read_request(stream: &mut (impl ByteStream + ?Sized)) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n")
        && stream
            .read_buf(&mut request)
            .await
            .is_ok_and(|count| count > 0)
    {}
    String::from_utf8(request).unwrap()
}

fn key(request: &str) -> &str {
    request
        .lines()
        .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))
        .unwrap_or_default()
}

async fn echo(stream: impl ByteStream) {
    echo_with("", stream).await;
}

/// Like `echo`, with additional fields in the response.
async fn echo_with(fields: &str, mut stream: impl ByteStream) {
    let request = read_request(&mut stream).await;
    let accept = crate::net::upgrade::derive_accept_key(key(&request).as_bytes());
    // A token list and lower-case names, as some proxies send them. The first message arrives with
    // the response.
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nconnection: keep-alive, Upgrade\r\nsec-websocket-accept: {accept}\r\n{fields}\r\n"
    );
    let mut answer = answer.into_bytes();
    answer.extend_from_slice(b"\x82\x05first");
    stream.write_all(&answer).await.unwrap();
    stream.flush().await.unwrap();
    let mut socket = crate::net::upgrade::upgraded(stream, Bytes::new());
    while let Ok(Some(message)) = socket.receive().await {
        socket.feed(message.freeze()).await.unwrap();
        socket.flush().await.unwrap();
    }
}

/// Returns `count` header fields of `length` bytes each.
fn fields(count: usize, length: usize) -> String {
    format!(
        "X-Field: {}\r\n",
        "x".repeat(length - "X-Field: \r\n".len())
    )
    .repeat(count)
}
