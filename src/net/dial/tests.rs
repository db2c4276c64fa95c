//! Dials real sockets on the loopback interface: a master's endpoint, and the other services that
//! may listen there.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use bytes::Bytes;
use rcgen::{BasicConstraints, IsCa};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::net::tls::tests::Authority;

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

    /// A master's endpoint behind TLS that sends one message and echoes the next.
    async fn secure(acceptor: TlsAcceptor) -> Self {
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

    fn dialer(&self, scheme: &str, host: &str, ca: Option<PathBuf>) -> Dialer {
        let address = format!("{scheme}://{host}:{}/report?x=1", self.address.port())
            .parse()
            .unwrap();
        Dialer::new(address, parameters(ca)).unwrap()
    }

    async fn dial(&self) -> Result<MessageSocket, DialError> {
        self.dialer("ws", "127.0.0.1", None).dial().await
    }

    /// Returns the text of the error that a dial fails with.
    async fn refusal(&self) -> String {
        self.dial()
            .await
            .map(|_| ())
            .expect_err("not a master")
            .to_string()
    }
}

fn parameters(ca: Option<PathBuf>) -> DialParameters {
    DialParameters {
        tls: TlsParameters::trusting(ca),
        deadline: Duration::from_secs(5),
        ..DialParameters::default()
    }
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

async fn exchange_messages(mut socket: MessageSocket) {
    assert_eq!(socket.receive().await.unwrap().unwrap(), "first");
    socket.feed(Bytes::from_static(b"and back")).await.unwrap();
    socket.flush().await.unwrap();
    assert_eq!(socket.receive().await.unwrap().unwrap(), "and back");
    socket.close(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn dial_reaches_master_and_keeps_its_first_message() {
    let master = TestListener::with(echo).await;
    exchange_messages(master.dial().await.unwrap()).await;
}

#[tokio::test]
async fn request_follows_rfc_6455() {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let server = TestListener::with(move |mut stream| {
        let sender = sender.clone();
        async move { sender.send(read_request(&mut stream).await).await.unwrap() }
    })
    .await;
    assert!(server.dial().await.is_err());
    let request = receiver.recv().await.unwrap();
    assert!(
        request.starts_with("GET /report?x=1 HTTP/1.1\r\n"),
        "{request}"
    );
    for header in [
        &format!("Host: 127.0.0.1:{}", server.address.port()),
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
    ] {
        assert!(
            request.contains(&format!("\r\n{header}\r\n")),
            "{header} in {request}"
        );
    }
    assert_eq!(key(&request).len(), 24);
}

#[tokio::test]
async fn dial_resolves_a_name() {
    let master = TestListener::with(echo).await;
    exchange_messages(master.dialer("ws", "localhost", None).dial().await.unwrap()).await;
}

#[tokio::test]
async fn error_quotes_status_server_and_text_of_another_web_server() {
    let page = "HTTP/1.1 404 Not Found\r\nServer: nginx/1.24.0\r\nContent-Type: text/html\r\n\r\n<html>\r\n<head><title>404 Not Found</title></head>\r\n";
    let message = TestListener::answering(page).await.refusal().await;
    for part in [
        "HTTP status 404 Not Found",
        "\"nginx/1.24.0\"",
        "\"404 Not Found\"",
        "check the path in `master`",
        "ws://127.0.0.1:",
    ] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert!(
        !message.contains('\n') && !message.contains('<'),
        "one line of text: {message}"
    );
}

#[tokio::test]
async fn remedy_depends_on_the_response() {
    for (answer, expected) in [
        (
            "HTTP/1.1 301 Moved\r\nLocation: https://example.com/report\r\n\r\n",
            "write \"wss://example.com/report\"",
        ),
        (
            "HTTP/1.1 400 Bad Request\r\n\r\nThe plain HTTP request was sent to HTTPS port",
            "write wss://",
        ),
        (
            "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
            "the master behind it does not",
        ),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", "refuses"),
        ("HTTP/1.1 200 OK\r\n\r\nwelcome", "another web server"),
        (
            "HTTP/1.1 426 Upgrade Required\r\n\r\n",
            "Upgrade and Connection",
        ),
        ("HTTP/1.0 200 OK\r\n\r\nold", "HTTP/1.0 200 OK"),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
            "no `Upgrade: websocket`",
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
            "no `Connection: Upgrade`",
        ),
        (
            "HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
            "does not match the request",
        ),
        ("SSH-2.0-OpenSSH_9.6\r\n", "\"SSH-2.0-OpenSSH_9.6\""),
        ("\x15\x03\x03\x00\x02\x02\x46", "does not speak HTTP"),
        ("", "closed without an answer"),
        ("HTTP/1.1 404 Not", "HTTP/1.1 404 Not"),
    ] {
        let message = TestListener::answering(answer).await.refusal().await;
        assert!(message.contains(expected), "{expected} in {message}");
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

#[tokio::test]
async fn large_head_is_read_and_too_large_head_is_reported() {
    for (count, length) in [(60, 1024), (250, 20)] {
        let fields = fields(count, length);
        let master = TestListener::with(move |stream| {
            let fields = fields.clone();
            async move { echo_with(&fields, stream).await }
        })
        .await;
        exchange_messages(master.dial().await.unwrap()).await;
        let answer = format!(
            "HTTP/1.1 403 Forbidden\r\n{}\r\nnot here",
            self::fields(count, length)
        );
        let message = TestListener::answering(answer).await.refusal().await;
        assert!(
            message.contains("HTTP status 403") && message.contains("\"not here\""),
            "{message}"
        );
    }
    for (count, length, expected) in [
        (70, 1024, "head is longer than 64 KiB"),
        (300, 20, "head has more than 256 fields"),
    ] {
        for end in ["", "\r\n"] {
            let answer = format!("HTTP/1.1 302 Found\r\n{}{end}", fields(count, length));
            let message = TestListener::answering(answer).await.refusal().await;
            assert!(
                message.contains(expected) && message.contains("\"HTTP/1.1 302 Found\""),
                "{message}"
            );
        }
    }
}

#[tokio::test]
async fn endless_response_is_rejected() {
    let server = TestListener::with(|mut stream| async move {
        while stream.write_all(&[b'x'; 1024]).await.is_ok() {}
    })
    .await;
    assert!(server.refusal().await.contains("does not speak HTTP"));
}

#[tokio::test]
async fn silent_server_exceeds_the_deadline() {
    let server = TestListener::with(|stream| async move {
        let _open = stream;
        std::future::pending().await
    })
    .await;
    let address = format!("ws://{}/", server.address).parse().unwrap();
    let parameters = DialParameters {
        deadline: Duration::from_millis(200),
        ..DialParameters::default()
    };
    let error = Dialer::new(address, parameters)
        .unwrap()
        .dial()
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(
        matches!(
            error,
            DialError::Deadline {
                step: DialStep::Http,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn refused_connection_names_the_address() {
    // The socket is bound so that no other test listens there, but it does not listen itself.
    let bound = tokio::net::TcpSocket::new_v4().unwrap();
    bound.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let gone = bound.local_addr().unwrap();
    let dialer = Dialer::new(format!("ws://{gone}/").parse().unwrap(), parameters(None)).unwrap();
    let error = dialer.dial().await.map(|_| ()).unwrap_err();
    assert!(
        matches!(&error, DialError::Connect { attempts, .. } if attempts.len() == 1),
        "{error}"
    );
    assert!(
        error.to_string().contains(&format!("{gone} (refused)")),
        "{error}"
    );
}

#[tokio::test]
async fn race_tries_the_next_address() {
    let master = TestListener::with(echo).await;
    let dead = TestListener::with(echo).await.address;
    let dialer = master.dialer("ws", "127.0.0.1", None);
    let stream = dialer
        .connector
        .race(
            DialPeer::Master,
            vec![dead, master.address],
            &DialProgress::new(&()),
        )
        .await
        .unwrap();
    assert_eq!(stream.peer_addr().unwrap(), master.address);
    assert!(stream.nodelay().unwrap());
}

#[tokio::test]
async fn missing_bind_address_names_its_field() {
    let master = TestListener::with(echo).await;
    // 192.0.2.1 is reserved for documentation (RFC 5737).
    for bind in [
        Bind::Address([192, 0, 2, 1].into()),
        Bind::Interface("nosuch0".to_owned()),
    ] {
        let url = format!("ws://{}/", master.address).parse().unwrap();
        let parameters = DialParameters {
            proxy: ProxyChoice::Direct,
            bind: Some(bind),
            ..DialParameters::default()
        };
        let message = Dialer::new(url, parameters)
            .unwrap()
            .dial()
            .await
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("no such address or interface")
                && message.ends_with("correct `bind_address`"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn unresolvable_name_is_reported() {
    let address = "ws://no-such-host.invalid/".parse().unwrap();
    let error = Dialer::new(address, parameters(None))
        .unwrap()
        .dial()
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(
        matches!(&error, DialError::Name { host, .. } if host == "no-such-host.invalid"),
        "{error}"
    );
}

/// Dials a TLS master as localhost, trusting `ca`, and returns the TLS problem.
async fn tls_failure(acceptor: TlsAcceptor, ca: &Authority) -> TlsProblem {
    let master = TestListener::secure(acceptor).await;
    match master
        .dialer("wss", "localhost", Some(ca.path("ca.pem")))
        .dial()
        .await
    {
        Err(DialError::Tls { host, problem, .. }) => {
            assert_eq!(host, "localhost");
            problem
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn dial_reaches_tls_master_with_trusted_authority() {
    let authority = Authority::new();
    let master = TestListener::secure(authority.sign("localhost", |_| ()).acceptor()).await;
    exchange_messages(
        master
            .dialer("wss", "localhost", Some(authority.path("ca.pem")))
            .dial()
            .await
            .unwrap(),
    )
    .await;
    let by_address = Authority::new();
    let master = TestListener::secure(by_address.sign("127.0.0.1", |_| ()).acceptor()).await;
    exchange_messages(
        master
            .dialer("wss", "127.0.0.1", Some(by_address.path("ca.pem")))
            .dial()
            .await
            .unwrap(),
    )
    .await;
}

#[tokio::test]
async fn certificate_problems_are_distinguished() {
    let authority = Authority::new();
    let good = authority.sign("localhost", |_| ()).acceptor();
    let unknown = tls_failure(good.clone(), &Authority::named("another authority")).await;
    assert!(
        matches!(&unknown, TlsProblem::UnknownIssuer(Some(_)))
            && unknown.to_string().contains("CN=an authority"),
        "{unknown}"
    );
    let namesake = tls_failure(good, &Authority::new()).await;
    assert!(
        matches!(namesake, TlsProblem::UnknownIssuer(Some(_))),
        "the authority was made anew under its name: {namesake}"
    );
    let wrong = authority.sign("example.com", |_| ()).acceptor();
    let problem = tls_failure(wrong, &authority).await;
    assert!(
        matches!(problem, TlsProblem::WrongName(Some(_)))
            && problem.to_string().contains("it is for \"example.com\""),
        "{problem}"
    );
    let expired = authority
        .sign("localhost", |params| {
            params.not_after = rcgen::date_time_ymd(2001, 1, 1)
        })
        .acceptor();
    let problem = tls_failure(expired, &authority).await;
    let message = problem.to_string();
    assert!(
        matches!(problem, TlsProblem::Expired(Some(_)))
            && message.contains("valid until 2001-01-01"),
        "{message}"
    );
    assert!(message.contains("this machine's time is 2"), "{message}");
    let early = authority
        .sign("localhost", |params| {
            params.not_before = rcgen::date_time_ymd(4000, 1, 1)
        })
        .acceptor();
    assert!(matches!(
        tls_failure(early, &authority).await,
        TlsProblem::NotYetValid(Some(_))
    ));
    let own = authority
        .sign("localhost", |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)
        })
        .acceptor();
    assert!(matches!(
        tls_failure(own, &authority).await,
        TlsProblem::Authority(Some(_))
    ));
}

#[tokio::test]
async fn plain_http_is_distinguished_from_a_bad_certificate() {
    let authority = Authority::new();
    let server = TestListener::with(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        // Close only after the client has read the response: a reset would discard it.
        let _ = stream.read(&mut [0; 1024]).await;
        let _ = stream.read(&mut [0; 1024]).await;
    })
    .await;
    match server
        .dialer("wss", "localhost", Some(authority.path("ca.pem")))
        .dial()
        .await
    {
        Err(DialError::Tls {
            problem: TlsProblem::PlainHttp(received),
            ..
        }) => assert_eq!(received, "HTTP/1.1 400 Bad Request"),
        other => panic!("{other:?}"),
    }
}

/// Returns a dialer for a master that only `proxy` can reach.
fn dialer_through(proxy: &TestListener, scheme: &str, user: &str) -> Dialer {
    let address = format!("{scheme}://{user}127.0.0.1:{}", proxy.address.port())
        .parse()
        .unwrap();
    let parameters = DialParameters {
        proxy: ProxyChoice::Fixed(Box::new(address)),
        ..parameters(None)
    };
    Dialer::new(
        "ws://master.invalid/report?x=1".parse().unwrap(),
        parameters,
    )
    .unwrap()
}

/// A proxy that keeps connections open, requires authentication, and then acts as the master.
async fn authenticating_proxy(mut stream: TcpStream) {
    loop {
        let request = read_request(&mut stream).await;
        if !request.starts_with("CONNECT master.invalid:80 HTTP/1.1\r\n") {
            return;
        }
        if request.contains("\r\nProxy-Authorization: Basic YW5uOnNlc2FtZQ==\r\n") {
            stream
                .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
                .await
                .unwrap();
            return echo(stream).await;
        }
        let answer = b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 5\r\n\r\nwho?\n";
        stream.write_all(answer).await.unwrap();
    }
}

#[tokio::test]
async fn proxy_authentication_reuses_the_connection() {
    let proxy = TestListener::with(authenticating_proxy).await;
    exchange_messages(
        dialer_through(&proxy, "http", "ann:sesame@")
            .dial()
            .await
            .unwrap(),
    )
    .await;
    for (user, expected) in [
        ("", "it offers Basic"),
        ("ann:wrong@", "refuses \"ann\" (tried Basic)"),
    ] {
        let error = dialer_through(&proxy, "http", user)
            .dial()
            .await
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(expected) && error.contains("proxy http://127.0.0.1:"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn proxy_refusal_is_reported_with_a_remedy() {
    for (answer, expected) in [
        (
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 15\r\n\r\n<b>not here</b>",
            "\"not here\"; its rules do not allow that",
        ),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\nContent-Length: 0\r\n\r\n",
            "open it in a browser",
        ),
        (
            "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
            "it cannot reach the master",
        ),
        (
            "HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n",
            "a web server instead of a proxy",
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
        ("", "closed the connection without an answer"),
        (
            &format!(
                "HTTP/1.1 403 No\r\n{}Content-Length: 2\r\n\r\nno",
                fields(250, 20)
            ),
            "HTTP status 403",
        ),
        (
            &format!("HTTP/1.1 403 No\r\n{}\r\n", fields(300, 20)),
            "longer than 64 KiB or has more than 256 fields",
        ),
        (
            &format!("HTTP/1.1 403 No\r\n{}\r\n", fields(200, 1024)),
            "longer than 64 KiB or has more than 256 fields",
        ),
    ] {
        let proxy = TestListener::answering(answer.to_owned()).await;
        let error = dialer_through(&proxy, "http", "")
            .dial()
            .await
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(expected),
            "{:?}: {error}",
            answer.lines().next()
        );
    }
}

#[tokio::test]
async fn closing_proxy_is_reported_whether_or_not_it_read_the_request() {
    for scheme in ["http", "socks5h"] {
        for reads in [true, false] {
            let proxy = TestListener::with(move |mut stream| async move {
                // Wait for data first: closing with unread data resets the connection.
                let _ = stream.peek(&mut [0]).await;
                if reads {
                    let _ = stream.read(&mut [0; 1024]).await;
                }
            })
            .await;
            let error = dialer_through(&proxy, scheme, "")
                .dial()
                .await
                .map(|_| ())
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("closed the connection without an answer"),
                "{scheme}, reads {reads}: {error}"
            );
        }
    }
}

/// Names the events of a dial.
#[derive(Default)]
struct EventNames(std::sync::Mutex<Vec<String>>);

impl DialTrace for EventNames {
    fn record(&self, event: DialEvent<'_>) {
        let name = match event {
            DialEvent::Step(peer, step) => format!("{peer:?} {step}"),
            DialEvent::Resolved(addresses) => format!("{} resolved", addresses.len()),
            DialEvent::Connecting(_) => "connecting".to_owned(),
            DialEvent::Connected(_) => "connected".to_owned(),
            DialEvent::ProxyAnswer { status, scheme } => {
                format!("proxy {} {scheme:?}", status.as_u16())
            }
            DialEvent::TlsHandshake { negotiated, chain } => {
                format!("handshake {} {}", negotiated.is_some(), chain.len())
            }
            DialEvent::HttpAnswer { status, .. } => format!("answer {}", status.as_u16()),
        };
        self.0.lock().unwrap().push(name);
    }
}

/// Returns the names of the events of a dial, whatever its outcome.
async fn events(dialer: &Dialer) -> Vec<String> {
    let trace = EventNames::default();
    drop(dialer.dial_traced(&trace).await);
    trace.0.into_inner().unwrap()
}

#[tokio::test]
async fn trace_receives_every_step_of_a_direct_dial() {
    let authority = Authority::new();
    let master = TestListener::secure(authority.sign("127.0.0.1", |_| ()).acceptor()).await;
    let trusting = master.dialer("wss", "127.0.0.1", Some(authority.path("ca.pem")));
    let connected = [
        "Master name",
        "1 resolved",
        "Master TCP",
        "connecting",
        "connected",
        "Master TLS",
    ];
    assert_eq!(
        events(&trusting).await,
        [
            &connected[..],
            &["handshake true 1", "Master HTTP", "answer 101"]
        ]
        .concat()
    );
    let other = Authority::named("another authority");
    let distrusting = master.dialer("wss", "127.0.0.1", Some(other.path("ca.pem")));
    assert_eq!(
        events(&distrusting).await,
        [&connected[..], &["handshake false 1"]].concat(),
        "the rejected chain is observed too"
    );
}

#[tokio::test]
async fn trace_receives_the_answers_of_a_proxy() {
    let proxy = TestListener::with(authenticating_proxy).await;
    assert_eq!(
        events(&dialer_through(&proxy, "http", "ann:sesame@")).await,
        [
            "Proxy name",
            "1 resolved",
            "Proxy TCP",
            "connecting",
            "connected",
            "Proxy proxy",
            "proxy 407 None",
            "proxy 200 Some(Basic)",
            "Master HTTP",
            "answer 101",
        ]
    );
}
