//! What a service hears of where a connection comes from, and what becomes of a client that says nonsense about it.

use std::{collections::HashMap, net::SocketAddr};

use bytes::Bytes;
use tokio::{io::AsyncReadExt, net::TcpListener};

use super::*;
use crate::{
    compress::CompressMethod,
    crypto::EncryptMethod,
    id::Id,
    link::drain::Drain,
    server::{ServerLimits, agent::Agent},
    tunnel::{TunnelStreamError, tests::Bed},
};

/// A server of one service, which the test plays, and the client's end of a tunnel to it.
struct Stage {
    bed: Bed,
    client: Tunnel,
    listener: TcpListener,
    drain: Drain,
}

impl Stage {
    async fn new(proxy_protocol: bool) -> Stage {
        Stage::limited(proxy_protocol, ServerLimits::default()).await
    }

    async fn limited(proxy_protocol: bool, limits: ServerLimits) -> Stage {
        let bed = Bed::new();
        let (client, server) = bed
            .tunnels(EncryptMethod::Plain, CompressMethod::Null)
            .await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let drain = Drain::default();
        let agent = Agent::new(
            Id([7; 16]),
            HashMap::new(),
            Duration::from_secs(5),
            limits,
            true,
            &drain,
        );
        let port = server.port().clone();
        let port = ServerPort {
            port,
            host: address.ip().to_string(),
            tcp_port: address.port(),
            proxy_protocol,
        };
        let context = Context {
            port: Arc::new(port),
            connect_timeout: Duration::from_secs(5),
            bench: Some(Peer::new(CompressMethod::Null)),
            draining: agent.draining(),
            trouble: Arc::default(),
            quotas: Quotas::new(limits, 1),
            refusals: Arc::default(),
            tunnels: agent.tunnels(),
            streams: drain.streams.clone(),
            stop: drain.stop.clone(),
        };
        drain.tasks.spawn(serve(context, server));
        Stage {
            bed,
            client,
            listener,
            drain,
        }
    }

    /// Opens a stream that says `hello` and no more.
    fn open(&self, details: &[u8]) -> TunnelStream {
        let stream = self.client.open(Bytes::copy_from_slice(details));
        stream.write(Bytes::from_static(b"hello")).unwrap();
        stream.finish();
        stream
    }

    /// All that the next connection brings to the service.
    async fn heard(&self) -> Vec<u8> {
        let (mut socket, _) = self.listener.accept().await.unwrap();
        let mut heard = Vec::new();
        socket.read_to_end(&mut heard).await.unwrap();
        heard
    }

    async fn end(self) {
        self.drain.stop.cancel();
        self.drain.tasks.close();
        self.drain.tasks.wait().await;
        self.bed.end().await;
    }
}

#[tokio::test]
async fn streams_beyond_the_limit_are_reset_and_find_room_when_others_have_ended() {
    let stage = Stage::limited(
        false,
        ServerLimits {
            streams_per_tunnel: 2,
            ..ServerLimits::default()
        },
    )
    .await;
    let streams: Vec<_> = (0..3).map(|_| stage.client.open(Bytes::new())).collect();
    let accepted = [
        stage.listener.accept().await.unwrap(),
        stage.listener.accept().await.unwrap(),
    ];
    let error = streams[2].failed().await;
    assert_eq!(error.reset_code(), Some(ResetCode::Limit), "{error}");
    drop((streams, accepted));
    loop {
        let stream = stage.client.open(Bytes::new());
        tokio::select! {
            accepted = stage.listener.accept() => break drop(accepted),
            error = stream.failed() => assert_eq!(error.reset_code(), Some(ResetCode::Limit), "{error}"),
        }
    }
    stage.end().await;
}

fn origin(source: &str, destination: &str) -> Origin {
    let read = |text: &str| text.parse::<SocketAddr>().unwrap();
    Origin::new(read(source), read(destination)).unwrap()
}

#[tokio::test]
async fn a_service_that_asks_hears_where_a_connection_comes_from_before_its_first_byte() {
    let stage = Stage::new(true).await;
    for origin in [
        origin("203.0.113.9:40312", "192.0.2.7:13389"),
        origin("[2001:db8::9]:1", "[2001:db8::1]:2"),
    ] {
        let _stream = stage.open(&origin.details());
        let header = proxy_protocol::header(Some(&origin));
        assert_eq!(stage.heard().await, [&header[..], b"hello"].concat());
    }
    stage.end().await;
}

#[tokio::test]
async fn a_service_that_asks_is_told_local_when_the_client_says_nothing() {
    let stage = Stage::new(true).await;
    for details in ["", "{}", r#"{"later": 1}"#] {
        let _stream = stage.open(details.as_bytes());
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
        assert_eq!(
            stage.heard().await,
            [&local[..], b"hello"].concat(),
            "{details}"
        );
    }
    stage.end().await;
}

#[tokio::test]
async fn a_client_that_says_nonsense_of_its_address_is_reset_and_does_not_reach_the_service() {
    let stage = Stage::new(true).await;
    for details in [
        r#"{"source": "203.0.113.9:4"}"#,
        r#"{"source": "203.0.113.9:4", "destination": "[2001:db8::1]:5"}"#,
        r#"{"source": "PROXY TCP4 1.2.3.4", "destination": "192.0.2.7:5"}"#,
        r#"{"source": {"bench": "echo"}, "destination": "192.0.2.7:5"}"#,
        r#"["203.0.113.9:4", "192.0.2.7:5"]"#,
        "\u{0}",
    ] {
        let error = stage.open(details.as_bytes()).failed().await;
        assert_eq!(error.reset_code(), Some(ResetCode::Protocol), "{details}");
        assert!(
            !matches!(error, TunnelStreamError::TunnelOver(_)),
            "the others go on"
        );
    }
    let honest = origin("203.0.113.9:4", "192.0.2.7:5");
    let _stream = stage.open(&honest.details());
    let header = proxy_protocol::header(Some(&honest));
    assert_eq!(
        stage.heard().await,
        [&header[..], b"hello"].concat(),
        "the first that the service sees"
    );
    stage.end().await;
}

#[tokio::test]
async fn a_service_that_does_not_ask_hears_the_application_alone() {
    let stage = Stage::new(false).await;
    for details in [
        &origin("203.0.113.9:4", "192.0.2.7:5").details()[..],
        br#"{"source": 1}"#,
        b"",
    ] {
        let _stream = stage.open(details);
        assert_eq!(stage.heard().await, b"hello");
    }
    stage.end().await;
}

#[tokio::test]
async fn a_measuring_stream_does_not_reach_a_service_that_asks_for_addresses() {
    let stage = Stage::new(true).await;
    let echo = stage.open(&Request::Echo.details());
    let echoed = echo.read().await.unwrap();
    assert_eq!(echoed.as_deref(), Some(&b"hello"[..]));
    let _stream = stage.open(b"");
    assert_eq!(
        stage.heard().await.len(),
        16 + 5,
        "the first that the service sees"
    );
    stage.end().await;
}
