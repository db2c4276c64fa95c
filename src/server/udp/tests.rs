//! Tests of flows between a client and a service that the test plays.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::net::UdpSocket;

use crate::{
    config::Target,
    net::proxy_protocol,
    server::{
        AllowList, QuotaLimits, ServiceTargets,
        port::{OfferedPorts, ServerPort, Service},
        server_role::ServerRole,
        service::{ServiceContext, serve},
        settings::{ServerSettings, SharedSettings},
    },
    supervisor::drain::Drain,
    tunnel::{
        DatagramFlow, DropReason, PortParameters, ResetCode, ServiceProtocol, Tunnel,
        details::{NamedTarget, OpenDetails},
        origin::Origin,
        tests::{TunnelTestbed, eventually, plain_port},
    },
};
use report_proto::id::Id;

/// A server and the client's end of a tunnel to it.
struct FlowTestbed {
    bed: TunnelTestbed,
    client: Tunnel,
    drain: Drain,
    port: PortParameters,
}

impl FlowTestbed {
    /// Offers `service` with the parameters that `change` sets.
    async fn new(
        service: Service,
        proxy_protocol: bool,
        change: impl FnOnce(&mut PortParameters),
    ) -> Self {
        let mut port = PortParameters {
            protocol: ServiceProtocol::Udp,
            ..plain_port()
        };
        change(&mut port);
        let bed = TunnelTestbed::new();
        let (client, server) = bed.tunnels_of(port.clone()).await;
        let drain = Drain::default();
        let limits = QuotaLimits::default();
        let settings = ServerSettings {
            connect_timeout: Duration::from_secs(5),
            bench: true,
        };
        let role = ServerRole::new(Id([7; 16]), HashMap::new(), settings, limits, &drain);
        let offered = Arc::new(ServerPort {
            port: port.clone(),
            service,
            proxy_protocol,
        });
        let ports = HashMap::from([(port.keys.id, Arc::clone(&offered))]);
        let context = ServiceContext {
            wants_origin: offered.proxy_protocol,
            offered: OfferedPorts::new(ports),
            settings: SharedSettings::new(settings),
            port: offered,
            bench: None,
            draining: role.draining(),
            quotas: crate::server::quota::Quotas::new(limits, 1),
            refusals: Arc::default(),
            flow_failures: Arc::default(),
            tunnels: role.tunnels(),
            descriptor_log: Arc::default(),
            streams: drain.streams.clone(),
            stop: drain.stop.clone(),
        };
        drain.tasks.spawn(serve(context, server));
        FlowTestbed {
            bed,
            client,
            drain,
            port,
        }
    }

    /// Opens a flow and sends its first datagram.
    fn open(&self, details: &OpenDetails, content: &'static str) -> DatagramFlow {
        let flow = self.client.open_flow(details.encode());
        flow.send(content.into()).unwrap();
        flow
    }

    async fn end(self) {
        self.drain.stop.cancel();
        self.drain.tasks.close();
        self.drain.tasks.wait().await;
        drop(self.client);
        self.bed.end().await;
    }
}

async fn service() -> (UdpSocket, Target) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let target = socket.local_addr().unwrap().to_string().parse().unwrap();
    (socket, target)
}

/// Returns an address that no program has.
async fn closed() -> SocketAddr {
    let (socket, _) = service().await;
    socket.local_addr().unwrap()
}

async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let received = tokio::time::timeout(Duration::from_secs(10), socket.recv_from(&mut buffer));
    let (length, source) = received.await.expect("in time").unwrap();
    buffer.truncate(length);
    (buffer, source)
}

async fn answer(flow: &DatagramFlow) -> Bytes {
    let received = tokio::time::timeout(Duration::from_secs(10), flow.recv());
    received.await.expect("in time").expect("an answer")
}

/// Waits for the end of a flow.
async fn end_code(flow: &DatagramFlow) -> Option<ResetCode> {
    let ended = async {
        loop {
            if let Err(error) = flow.recv().await {
                return error.end_code();
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended)
        .await
        .expect("in time")
}

#[tokio::test]
async fn each_flow_has_its_own_socket() {
    let (socket, target) = service().await;
    let bed = FlowTestbed::new(target.into(), false, |_| {}).await;
    let flows = ["one", "two"].map(|content| bed.open(&OpenDetails::default(), content));
    let mut sources = Vec::new();
    for _ in 0..2 {
        let (content, source) = receive(&socket).await;
        socket.send_to(&content, source).await.unwrap();
        sources.push(source);
    }
    assert_ne!(sources[0], sources[1]);
    assert_eq!(answer(&flows[0]).await, "one");
    assert_eq!(answer(&flows[1]).await, "two");
    // A datagram from another source than the service is not an answer.
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    stranger.send_to(b"forged", sources[0]).await.unwrap();
    socket.send_to(b"real", sources[0]).await.unwrap();
    let answered = answer(&flows[0]).await;
    assert_eq!(answered, "real");
    drop(flows);
    bed.end().await;
}

#[tokio::test]
async fn the_first_datagram_has_the_source_and_the_others_have_not() {
    let (socket, target) = service().await;
    let bed = FlowTestbed::new(target.into(), true, |_| {}).await;
    let (source, destination) = ("192.0.2.1:7", "198.51.100.2:9");
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    let details = OpenDetails {
        origin: Origin::new(source, destination),
        ..OpenDetails::default()
    };
    let flow = bed.open(&details, "first");
    let header = proxy_protocol::encode_for_datagrams(Some((source, destination)));
    // PROXY, IPv4 and UDP.
    assert_eq!(header[12..14], [0x21, 0x12]);
    let expected = [header, b"first".to_vec()].concat();
    assert_eq!(receive(&socket).await.0, expected);
    flow.send("second".into()).unwrap();
    assert_eq!(receive(&socket).await.0, b"second");
    drop(flow);
    bed.end().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_closed_port_ends_the_flow_as_refused() {
    let target: Target = closed().await.to_string().parse().unwrap();
    let bed = FlowTestbed::new(target.into(), false, |_| {}).await;
    let flow = bed.open(&OpenDetails::default(), "lost");
    assert_eq!(end_code(&flow).await, Some(ResetCode::Refused));
    drop(flow);
    bed.end().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_next_target_gets_what_a_closed_one_refused() {
    let (socket, target) = service().await;
    let closed = closed().await;
    let first = closed.to_string().parse().unwrap();
    let targets = ServiceTargets::any_of(vec![first, target], Default::default(), None);
    let bed = FlowTestbed::new(targets.into(), false, |_| {}).await;
    let flow = bed.open(&OpenDetails::default(), "question");
    let (content, source) = receive(&socket).await;
    assert_eq!(content, b"question");
    socket.send_to(b"answer", source).await.unwrap();
    assert_eq!(answer(&flow).await, "answer");
    // The next flow begins at the target that answers, although the first one is open again.
    let opened = UdpSocket::bind(closed).await.unwrap();
    let next = bed.open(&OpenDetails::default(), "next question");
    assert_eq!(receive(&socket).await.0, b"next question");
    drop((flow, next, opened));
    bed.end().await;
}

#[tokio::test]
async fn a_flow_reaches_the_numbered_port_and_no_other() {
    let (socket, target) = service().await;
    let last = socket.local_addr().unwrap().port();
    let range = format!("127.0.0.1:{}-{last}", last - 1).parse().unwrap();
    let service = ServiceTargets::at(&range).into();
    let bed = FlowTestbed::new(service, false, |port| port.range = 2).await;
    let numbered = |offset| OpenDetails {
        offset,
        ..OpenDetails::default()
    };
    let flow = bed.open(&numbered(1), "second port");
    assert_eq!(receive(&socket).await.0, b"second port");
    let outside = bed.open(&numbered(2), "no port");
    assert_eq!(end_code(&outside).await, Some(ResetCode::Refused));
    let invalid = bed.client.open_flow(Bytes::from_static(b"[1]"));
    invalid.send("x".into()).unwrap();
    assert_eq!(end_code(&invalid).await, Some(ResetCode::Protocol));
    drop((flow, outside, invalid, target));
    bed.end().await;
}

#[tokio::test]
async fn a_flow_to_a_named_destination_needs_a_rule() {
    let (socket, _) = service().await;
    let port = socket.local_addr().unwrap().port();
    let rule = format!("127.0.0.1:{port}").parse().unwrap();
    let service = Service::Destinations(AllowList::new(vec![rule]));
    let set = |port: &mut PortParameters| port.protocol = ServiceProtocol::Socks5;
    let bed = FlowTestbed::new(service, false, set).await;
    let named = |host: &str, port| OpenDetails {
        target: Some(NamedTarget::new(host.to_owned(), port).unwrap()),
        ..OpenDetails::default()
    };
    let allowed = bed.open(&named("127.0.0.1", port), "allowed");
    assert_eq!(receive(&socket).await.0, b"allowed");
    let denied = bed.open(&named("127.0.0.2", port), "denied");
    assert_eq!(end_code(&denied).await, Some(ResetCode::Denied));
    drop((allowed, denied));
    bed.end().await;
}

#[tokio::test]
async fn idle_flows_end_and_make_room() {
    let (socket, target) = service().await;
    let idle = Some(Duration::from_millis(200));
    let set = |port: &mut PortParameters| port.udp_idle_timeout = idle;
    let bed = FlowTestbed::new(target.into(), false, set).await;
    let flow = bed.open(&OpenDetails::default(), "question");
    receive(&socket).await;
    assert_eq!(end_code(&flow).await, Some(ResetCode::Cancelled));
    drop(flow);
    eventually(|| bed.client.flows() == 0).await;
    bed.end().await;
}

#[tokio::test]
async fn a_port_accepts_its_flows_and_no_more() {
    let (socket, target) = service().await;
    let bed = FlowTestbed::new(target.into(), false, |port| port.max_flows = 8).await;
    let most = bed.port.flows_with_ending();
    let flows: Vec<_> = (0..most)
        .map(|_| bed.open(&OpenDetails::default(), "x"))
        .collect();
    for _ in 0..most {
        receive(&socket).await;
    }
    let refused = bed.open(&OpenDetails::default(), "x");
    assert_eq!(end_code(&refused).await, Some(ResetCode::Limit));
    drop((flows, refused));
    // The sockets of ended flows are closed.
    let again = async {
        loop {
            let flow = bed.open(&OpenDetails::default(), "again");
            if tokio::time::timeout(Duration::from_millis(200), receive_text(&socket, b"again"))
                .await
                .is_ok()
            {
                break flow;
            }
        }
    };
    let again = tokio::time::timeout(Duration::from_secs(10), again);
    drop(again.await.expect("in time"));
    let dropped = bed.port.counters.datagrams.dropped(DropReason::Socket);
    assert_eq!(dropped, 0);
    bed.end().await;
}

async fn receive_text(socket: &UdpSocket, text: &[u8]) {
    while receive(socket).await.0 != text {}
}
