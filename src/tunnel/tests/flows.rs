//! Tests of datagram flows between two ends.

use super::*;

fn udp_port() -> PortParameters {
    PortParameters {
        protocol: ServiceProtocol::Udp,
        ..port(EncryptMethod::Aes128Gcm, CompressMethod::Null)
    }
}

fn datagram(number: u32, length: usize) -> Bytes {
    let mut bytes = BytesMut::zeroed(length.max(4));
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes.freeze()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .expect("in time")
}

#[tokio::test]
async fn datagrams_of_a_flow_arrive_in_both_directions() {
    let bed = TunnelTestbed::new();
    let (client, server) = bed.tunnels_of(udp_port()).await;
    let sent = client.open_flow(Bytes::from_static(b"details"));
    sent.send(Bytes::from_static(b"")).unwrap();
    sent.send_all([datagram(1, 1200), datagram(2, DATAGRAM_MAX)])
        .unwrap();
    let (received, details) = within(server.accept_flow()).await.unwrap();
    assert_eq!((details, received.id()), ("details".into(), sent.id()));
    assert_eq!(within(received.recv()).await.unwrap(), "");
    let mut rest = Vec::new();
    while rest.len() < 2 {
        within(received.recv_all(&mut rest, 8)).await.unwrap();
    }
    assert_eq!(rest, [datagram(1, 1200), datagram(2, DATAGRAM_MAX)]);
    received.send(datagram(3, 100)).unwrap();
    assert_eq!(within(sent.recv()).await.unwrap(), datagram(3, 100));
    assert_eq!((client.flows(), server.flows()), (1, 1));
    let too_long = Bytes::from(vec![0; DATAGRAM_MAX + 1]);
    let error = sent.send(too_long).unwrap_err();
    assert!(error.is_about_one_datagram(), "{error}");
    // The others of the batch are sent.
    let too_long = Bytes::from(vec![0; DATAGRAM_MAX + 1]);
    let batch = [datagram(4, 10), too_long, datagram(5, 20)];
    let error = sent.send_all(batch).unwrap_err();
    assert!(error.is_about_one_datagram(), "{error}");
    assert_eq!(within(received.recv()).await.unwrap(), datagram(4, 10));
    assert_eq!(within(received.recv()).await.unwrap(), datagram(5, 20));
    drop((sent, received, client, server));
    bed.end().await;
}

#[tokio::test]
async fn the_end_of_a_flow_wakes_the_peer_with_its_code() {
    let bed = TunnelTestbed::new();
    let (client, server) = bed.tunnels_of(udp_port()).await;
    for code in [Some(ResetCode::Refused), None] {
        let sent = client.open_flow(Bytes::new());
        sent.send(datagram(1, 10)).unwrap();
        let (received, _) = within(server.accept_flow()).await.unwrap();
        let expected = code.unwrap_or(ResetCode::Cancelled);
        let ended = async {
            match code {
                Some(code) => received.end(code),
                None => drop(received),
            }
            sent.recv().await
        };
        let error = within(ended).await.unwrap_err();
        assert_eq!(error.end_code(), Some(expected));
        let error = sent.send(datagram(2, 10)).unwrap_err();
        assert_eq!(error.end_code(), Some(expected));
    }
    eventually(|| client.flows() + server.flows() == 0).await;
    bed.end().await;
}

#[tokio::test]
async fn flows_end_with_their_tunnel() {
    let bed = TunnelTestbed::new();
    let (client, server) = bed.tunnels_of(udp_port()).await;
    let sent = client.open_flow(Bytes::new());
    let accepted = async {
        tokio::join!(server.accept_flow(), sent.recv(), async {
            client.end(ResetCode::Shutdown, Notice::new(Code::Shutdown, "over"));
        })
    };
    let (accepted, received, ()) = within(accepted).await;
    assert!(accepted.is_none());
    assert!(matches!(received, Err(DatagramFlowError::TunnelEnded(_))));
    let sent = sent.send(datagram(1, 10));
    assert!(matches!(sent, Err(DatagramFlowError::TunnelEnded(_))));
    bed.end().await;
}

#[tokio::test]
async fn a_tunnel_of_connections_accepts_no_flow() {
    let bed = TunnelTestbed::new();
    let (client, server) = bed.tunnels_of(plain_port()).await;
    let sent = client.open_flow(Bytes::new());
    sent.send(datagram(1, 10)).unwrap();
    let error = within(sent.recv()).await.unwrap_err();
    assert_eq!(error.end_code(), Some(ResetCode::Limit));
    assert_eq!(server.flows(), 0);
    bed.end().await;
}

#[tokio::test]
async fn what_happened_to_datagrams_reaches_the_counters_of_the_port() {
    let bed = TunnelTestbed::new();
    let port = udp_port();
    let counters = Arc::clone(&port.counters);
    let (client, server) = bed.tunnels_of(port).await;
    let sent = client.open_flow(Bytes::new());
    sent.send_all((0..10).map(|number| datagram(number, 100)))
        .unwrap();
    let (received, _) = within(server.accept_flow()).await.unwrap();
    for number in 0..10 {
        assert_eq!(
            within(received.recv()).await.unwrap(),
            datagram(number, 100)
        );
    }
    for tunnel in [&client, &client, &server] {
        tunnel.shared.publish_datagrams();
    }
    // Both ends share the counters in this test.
    assert_eq!(counters.datagrams.sent.get(), 10);
    assert_eq!(counters.datagrams.received.get(), 10);
    assert_eq!(counters.datagrams.opened_flows.get(), 2);
    drop((sent, received, client, server));
    bed.end().await;
}
