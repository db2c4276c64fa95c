//! Tests of what a service receives: the origin of a connection, and nothing from a client with
//! invalid details.

use std::{collections::HashMap, net::SocketAddr};

use bytes::Bytes;
use tokio::{io::AsyncReadExt, net::TcpListener};

use super::*;
use crate::{
    config::Target,
    server::{
        AllowList, QuotaLimits, ServiceTargets, server_role::ServerRole, settings::ServerSettings,
    },
    supervisor::drain::Drain,
    tunnel::{
        PortParameters, ServiceProtocol, TunnelStreamError,
        confirmation::{ConfirmationError, confirmed},
        details::NamedTarget,
        tests::TunnelTestbed,
    },
};
use report_proto::{compress::CompressMethod, crypto::EncryptMethod, id::Id};

/// A server with one service, played by the test, and the client's end of a tunnel to it.
struct ServiceTestbed {
    bed: TunnelTestbed,
    client: Tunnel,
    listener: TcpListener,
    drain: Drain,
    offered: OfferedPorts,
}

impl ServiceTestbed {
    async fn new(proxy_protocol: bool) -> ServiceTestbed {
        ServiceTestbed::limited(proxy_protocol, QuotaLimits::default()).await
    }

    async fn limited(proxy_protocol: bool, limits: QuotaLimits) -> ServiceTestbed {
        let offer = |port: PortParameters, service: SocketAddr| ServerPort {
            port,
            service: service.to_string().parse::<Target>().unwrap().into(),
            proxy_protocol,
        };
        ServiceTestbed::offering(offer, limits).await
    }

    /// Offers a range of two ports. The service has the second one.
    async fn ranged() -> ServiceTestbed {
        let offer = |port: PortParameters, service: SocketAddr| {
            let last = service.port();
            let range = format!("127.0.0.1:{}-{last}", last - 1);
            ServerPort {
                port: PortParameters { range: 2, ..port },
                service: ServiceTargets::at(&range.parse().unwrap()).into(),
                proxy_protocol: false,
            }
        };
        ServiceTestbed::offering(offer, QuotaLimits::default()).await
    }

    /// Offers the host in `rule` to applications that name their destinations.
    async fn of_destinations(rule: &str) -> ServiceTestbed {
        let offer = |port: PortParameters, service: SocketAddr| {
            let rule = format!("{rule}:{}", service.port()).parse().unwrap();
            ServerPort {
                port: PortParameters {
                    protocol: ServiceProtocol::Socks5,
                    ..port
                },
                service: Service::Destinations(AllowList::new(vec![rule])),
                proxy_protocol: false,
            }
        };
        ServiceTestbed::offering(offer, QuotaLimits::default()).await
    }

    async fn offering(
        offer: impl FnOnce(PortParameters, SocketAddr) -> ServerPort,
        limits: QuotaLimits,
    ) -> ServiceTestbed {
        let bed = TunnelTestbed::new();
        let (client, server) = bed
            .tunnels(EncryptMethod::Plain, CompressMethod::Null)
            .await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let drain = Drain::default();
        let settings = ServerSettings {
            connect_timeout: Duration::from_secs(5),
            bench: true,
        };
        let role = ServerRole::new(Id([7; 16]), HashMap::new(), settings, limits, &drain);
        let port = Arc::new(offer(server.port().clone(), address));
        let offered = OfferedPorts::new(HashMap::from([(port.port.keys.id, Arc::clone(&port))]));
        let context = ServiceContext {
            wants_origin: port.proxy_protocol,
            offered: offered.clone(),
            settings: SharedSettings::new(settings),
            port,
            bench: Some(Arc::new(BenchResponder::new(CompressMethod::Null))),
            draining: role.draining(),
            descriptor_log: Arc::default(),
            quotas: Quotas::new(limits, 1),
            refusals: Arc::default(),
            flow_failures: Arc::default(),
            tunnels: role.tunnels(),
            streams: drain.streams.clone(),
            stop: drain.stop.clone(),
        };
        drain.tasks.spawn(serve(context, server));
        ServiceTestbed {
            bed,
            client,
            listener,
            drain,
            offered,
        }
    }

    /// Opens a stream that sends `hello` and finishes.
    fn open(&self, details: &[u8]) -> TunnelStream {
        let stream = self.client.open(Bytes::copy_from_slice(details));
        stream.write(Bytes::from_static(b"hello")).unwrap();
        stream.finish();
        stream
    }

    /// Returns everything that the next connection delivers to the service.
    async fn received(&self) -> Vec<u8> {
        let (mut socket, _) = self.listener.accept().await.unwrap();
        let mut received = Vec::new();
        socket.read_to_end(&mut received).await.unwrap();
        received
    }

    async fn end(self) {
        self.drain.stop.cancel();
        self.drain.tasks.close();
        self.drain.tasks.wait().await;
        self.bed.end().await;
    }
}

#[tokio::test]
async fn streams_beyond_the_limit_are_reset_until_others_have_ended() {
    let testbed = ServiceTestbed::limited(
        false,
        QuotaLimits {
            streams_per_tunnel: 2,
            ..QuotaLimits::default()
        },
    )
    .await;
    let streams: Vec<_> = (0..3).map(|_| testbed.client.open(Bytes::new())).collect();
    let accepted = [
        testbed.listener.accept().await.unwrap(),
        testbed.listener.accept().await.unwrap(),
    ];
    let error = streams[2].failed().await;
    assert_eq!(error.reset_code(), Some(ResetCode::Limit), "{error}");
    drop((streams, accepted));
    loop {
        let stream = testbed.client.open(Bytes::new());
        tokio::select! {
            accepted = testbed.listener.accept() => break drop(accepted),
            error = stream.failed() => assert_eq!(error.reset_code(), Some(ResetCode::Limit), "{error}"),
        }
    }
    testbed.end().await;
}

#[tokio::test]
async fn the_offset_of_a_stream_selects_the_port_of_the_service() {
    let testbed = ServiceTestbed::ranged().await;
    let _stream = testbed.open(br#"{"offset": 1}"#);
    assert_eq!(testbed.received().await, b"hello");
    for (details, code) in [
        (r#"{"offset": 2}"#, ResetCode::Refused),
        (r#"{"offset": 65535}"#, ResetCode::Refused),
        (r#"{"offset": 65536}"#, ResetCode::Protocol),
        (r#"{"offset": -1}"#, ResetCode::Protocol),
        (r#"{"offset": "1"}"#, ResetCode::Protocol),
        ("[1]", ResetCode::Protocol),
    ] {
        let error = testbed.open(details.as_bytes()).failed().await;
        assert_eq!(error.reset_code(), Some(code), "{details}: {error}");
    }
    testbed.end().await;
}

fn origin(source: &str, destination: &str) -> Origin {
    let read = |text: &str| text.parse::<SocketAddr>().unwrap();
    Origin::new(read(source), read(destination)).unwrap()
}

/// Encodes the details of a stream with this origin.
fn details_of(origin: Origin) -> Bytes {
    let details = OpenDetails {
        origin: Some(origin),
        ..OpenDetails::default()
    };
    details.encode()
}

#[tokio::test]
async fn a_service_that_asks_receives_the_origin_before_the_first_byte() {
    let testbed = ServiceTestbed::new(true).await;
    for origin in [
        origin("203.0.113.9:40312", "192.0.2.7:13389"),
        origin("[2001:db8::9]:1", "[2001:db8::1]:2"),
    ] {
        let _stream = testbed.open(&details_of(origin));
        let header = proxy_header(Some(&origin));
        assert_eq!(testbed.received().await, [&header[..], b"hello"].concat());
    }
    testbed.end().await;
}

#[tokio::test]
async fn a_service_that_asks_receives_local_without_an_origin() {
    let testbed = ServiceTestbed::new(true).await;
    for details in ["", "{}", r#"{"later": 1}"#] {
        let _stream = testbed.open(details.as_bytes());
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
        assert_eq!(
            testbed.received().await,
            [&local[..], b"hello"].concat(),
            "{details}"
        );
    }
    testbed.end().await;
}

#[tokio::test]
async fn invalid_details_reset_the_stream_and_do_not_reach_the_service() {
    let testbed = ServiceTestbed::new(true).await;
    for details in [
        r#"{"source": "203.0.113.9:4"}"#,
        r#"{"source": "203.0.113.9:4", "destination": "[2001:db8::1]:5"}"#,
        r#"{"source": "PROXY TCP4 1.2.3.4", "destination": "192.0.2.7:5"}"#,
        r#"{"source": {"bench": "echo"}, "destination": "192.0.2.7:5"}"#,
        r#"["203.0.113.9:4", "192.0.2.7:5"]"#,
        "\u{0}",
    ] {
        let error = testbed.open(details.as_bytes()).failed().await;
        assert_eq!(error.reset_code(), Some(ResetCode::Protocol), "{details}");
        assert!(
            !matches!(error, TunnelStreamError::TunnelEnded(_)),
            "other streams continue"
        );
    }
    let honest = origin("203.0.113.9:4", "192.0.2.7:5");
    let _stream = testbed.open(&details_of(honest));
    let header = proxy_header(Some(&honest));
    assert_eq!(
        testbed.received().await,
        [&header[..], b"hello"].concat(),
        "the first that the service sees"
    );
    testbed.end().await;
}

#[tokio::test]
async fn a_service_that_does_not_ask_receives_no_header() {
    let testbed = ServiceTestbed::new(false).await;
    for details in [
        &details_of(origin("203.0.113.9:4", "192.0.2.7:5"))[..],
        br#"{"source": 1}"#,
        b"",
    ] {
        let _stream = testbed.open(details);
        assert_eq!(testbed.received().await, b"hello");
    }
    testbed.end().await;
}

#[tokio::test]
async fn a_benchmark_stream_does_not_reach_a_service_that_asks_for_addresses() {
    let testbed = ServiceTestbed::new(true).await;
    let echo = testbed.open(&BenchRequest::Echo.details());
    let echoed = echo.read().await.unwrap();
    assert_eq!(echoed.as_deref(), Some(&b"hello"[..]));
    let _stream = testbed.open(b"");
    assert_eq!(
        testbed.received().await.len(),
        16 + 5,
        "the first that the service sees"
    );
    testbed.end().await;
}

/// Encodes the details of a stream to this destination.
fn details_to(host: &str, port: u16) -> Bytes {
    let details = OpenDetails {
        target: Some(NamedTarget::new(host.to_owned(), port).unwrap()),
        ..OpenDetails::default()
    };
    details.encode()
}

#[tokio::test]
async fn an_allowed_destination_is_confirmed_before_its_data() {
    let testbed = ServiceTestbed::of_destinations("127.0.0.1").await;
    let port = testbed.listener.local_addr().unwrap().port();
    let stream = testbed.open(&details_to("127.0.0.1", port));
    let (mut socket, _) = testbed.listener.accept().await.unwrap();
    assert_eq!(confirmed(&stream).await, Ok(Bytes::new()));
    socket.write_all(b"banner").await.unwrap();
    let banner = stream.read().await.unwrap();
    assert_eq!(banner.as_deref(), Some(&b"banner"[..]));
    let mut received = Vec::new();
    socket.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, b"hello");
    drop(stream);
    testbed.end().await;
}

#[tokio::test]
async fn a_destination_without_a_connection_is_a_reset_with_its_reason() {
    let testbed = ServiceTestbed::of_destinations("127.0.0.1").await;
    let port = testbed.listener.local_addr().unwrap().port();
    for (details, code) in [
        (details_to("127.0.0.1", 9), ResetCode::Denied),
        (details_to("localhost.invalid", port), ResetCode::NotFound),
        (details_to("127.1", port), ResetCode::Denied),
        (Bytes::new(), ResetCode::Protocol),
        (Bytes::from_static(b"{\"target\": 1}"), ResetCode::Protocol),
    ] {
        let outcome = confirmed(&testbed.open(&details)).await;
        let Err(ConfirmationError::Stream(error)) = outcome else {
            panic!("{details:?}: {outcome:?}");
        };
        assert_eq!(error.reset_code(), Some(code), "{details:?}");
    }
    let accepted = tokio::time::timeout(Duration::ZERO, testbed.listener.accept()).await;
    assert!(accepted.is_err(), "no connection reached the service");
    testbed.end().await;
}

#[derive(serde::Deserialize)]
struct OriginVectors {
    origins: Vec<OriginVector>,
}

#[derive(serde::Deserialize)]
struct OriginVector {
    details: String,
    header: String,
}

#[test]
fn headers_match_the_vectors() {
    let vectors: OriginVectors =
        serde_json::from_str(include_str!("../../../tests/vectors/details.json")).unwrap();
    for OriginVector {
        details,
        header: expected,
    } in vectors.origins
    {
        let origin = Origin::read(details.as_bytes()).unwrap();
        let written: String = proxy_header(origin.as_ref())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(written, expected, "{details}");
    }
}

#[tokio::test]
async fn later_streams_of_a_tunnel_reach_the_changed_service_and_none_a_removed_one() {
    let testbed = ServiceTestbed::new(false).await;
    let before = testbed.client.open(Bytes::new());
    let _first = testbed.listener.accept().await.unwrap();
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target: Target = other.local_addr().unwrap().to_string().parse().unwrap();
    let present = testbed.offered.all();
    let (id, port) = present.iter().next().expect("one port");
    let changed = ServerPort {
        port: port.port.clone(),
        service: target.into(),
        proxy_protocol: false,
    };
    let changed = HashMap::from([(*id, Arc::new(changed))]);
    testbed.offered.replace(changed);
    let _after = testbed.client.open(Bytes::new());
    let _second = other.accept().await.unwrap();
    testbed.offered.replace(HashMap::new());
    let refused = testbed.client.open(Bytes::new());
    let error = refused.failed().await;
    assert_eq!(error.reset_code(), Some(ResetCode::Shutdown), "{error}");
    before.write(Bytes::from_static(b"alive")).unwrap();
    testbed.end().await;
}
