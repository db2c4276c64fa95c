//! Tests of authentication: accepted and refused links, and isolation between them.

use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role as WebSocketRole},
};

use super::*;
use crate::{link::KeepAliveTiming, throttle::THROTTLE_BURST};
use report_proto::{
    crypto::LinkKey,
    frame::{Code, MAX_MESSAGE, VERSION},
};

#[tokio::test]
async fn wrong_key_is_refused_and_other_links_continue() {
    let master = start();
    let (mut client, mut server) = connected_pair(&master).await;
    let wrong = LinkSecret::from(LinkKey::derive(Some("another")));
    let refused = master
        .join_with_key(
            &wrong,
            Role::Server,
            9,
            1,
            &[Frame::Register(Ports { ports: vec![PORT] })],
        )
        .await;
    assert!(
        matches!(refused, Err(JoinError::Unauthorized(_))),
        "{:?}",
        refused.err()
    );
    let refused_client_key = master
        .join_with_key(&LinkKey::derive(None).into(), Role::Server, 9, 1, &[])
        .await;
    assert!(
        matches!(refused_client_key, Err(JoinError::Unauthorized(_))),
        "a client's key is no master key"
    );
    client.data(1, b"unaffected").await;
    server.expect_data(1, b"unaffected").await;
}

#[tokio::test]
async fn wrong_keys_throttle_new_servers_but_not_clients_or_known_servers() {
    let master = start();
    drop(master.server(1, &[PORT]).await);
    let wrong = LinkSecret::from(LinkKey::derive(Some("another")));
    for _ in 0..THROTTLE_BURST {
        let refused = master.join_with_key(&wrong, Role::Server, 9, 1, &[]).await;
        assert!(
            matches!(refused, Err(JoinError::Unauthorized(_))),
            "{:?}",
            refused.err()
        );
    }
    let throttled = master.join_with_key(&wrong, Role::Server, 9, 1, &[]).await;
    assert!(
        matches!(throttled, Err(JoinError::Throttled(_))),
        "{:?}",
        throttled.err()
    );
    let unknown = master.join(Role::Server, 8, 1, &[]).await;
    assert!(
        matches!(unknown, Err(JoinError::Throttled(_))),
        "the master does not verify its proof: {:?}",
        unknown.err()
    );
    assert!(master.join(Role::Server, 1, 2, &[]).await.is_ok());
    assert!(master.join(Role::Client, 7, 1, &[]).await.is_ok());
}

#[tokio::test]
async fn throttle_behind_a_trusted_proxy_applies_to_the_visitor() {
    let master = start_with(|parameters| parameters.trusted_proxies = trusting("127.0.0.0/8"));
    let join_from = async |visitor: &str, key: &LinkSecret| {
        let addresses = format!("10.0.0.1, {visitor}");
        let (_, mut socket) = master.requested_for(&addresses).await;
        let introduction = identity(Role::Server, 9, 1);
        authenticate::join(&mut socket, key, &introduction, &[]).await
    };
    let wrong = LinkSecret::from(LinkKey::derive(Some("another")));
    for _ in 0..THROTTLE_BURST {
        assert!(matches!(
            join_from("192.0.2.1", &wrong).await,
            Err(JoinError::Unauthorized(_))
        ));
    }
    assert!(matches!(
        join_from("192.0.2.1", &key_of(Role::Server)).await,
        Err(JoinError::Throttled(_))
    ));
    assert!(join_from("192.0.2.2", &key_of(Role::Server)).await.is_ok());
}

#[tokio::test]
async fn newer_link_of_an_instance_takes_over_its_ports_and_the_old_one_gets_an_error() {
    let master = start();
    let mut old = master.server(1, &[PORT]).await;
    let mut client = master.client(2).await;
    client.attach(1, PORT).await;
    old.answer().await;
    client.expect_data(1, b"answer").await;
    let mut new = master
        .join(
            Role::Server,
            1,
            2,
            &[Frame::Register(Ports { ports: vec![PORT] })],
        )
        .await
        .expect("joined");
    assert_eq!(
        new.next().await,
        Frame::Registered(Registered::new(vec![PORT]))
    );
    old.expect_error(Code::Superseded).await;
    client.expect_close(1, Code::PeerLost).await;
    client.attach(2, PORT).await;
    new.answer().await;
    client.expect_data(2, b"answer").await;
    for epoch in [1, 2] {
        let late = master.join(Role::Server, 1, epoch, &[]).await;
        assert!(
            matches!(late, Err(JoinError::Superseded(_))),
            "{:?}",
            late.err()
        );
    }
    new.expect_alive().await;
}

#[tokio::test]
async fn version_mismatch_names_both_versions() {
    let master = start();
    let mut socket = master.upgraded().await;
    with_timeout(socket.receive())
        .await
        .expect("up")
        .expect("a challenge");
    let claims = format!(
        r#"{{"version":{},"role":"client","instance":"{}","epoch":1,"nonce":"{}"}}"#,
        VERSION + 1,
        Id([1; 16]),
        "00".repeat(32)
    );
    let mut peer = peer(socket);
    peer.send(Frame::Hello {
        proof: [0; 32],
        claims: claims.into(),
    })
    .await;
    match peer.next().await {
        Frame::Error(notice) => {
            assert_eq!(notice.code, Code::Version);
            assert!(
                notice.reason.contains(&format!("version {}", VERSION + 1)),
                "{notice}"
            );
            assert!(
                notice.reason.contains(&format!("version {VERSION}")),
                "{notice}"
            );
        }
        other => panic!("ERROR was expected, not {other:?}"),
    }
}

fn peer(socket: MessageSocket) -> TestPeer {
    TestPeer {
        socket,
        terms: Terms {
            version: VERSION,
            heartbeat_seconds: 0,
            max_channels: 0,
            max_ports: 0,
            retry_within_ms: 0,
        },
    }
}

/// Opens a WebSocket that can send arbitrary messages.
async fn raw_websocket(master: &RunningMaster) -> WebSocketStream<TcpStream> {
    let mut stream = master.connect().await;
    stream
        .write_all(request("/").as_bytes())
        .await
        .expect("sent");
    let (_, rest) = head(&mut stream).await;
    WebSocketStream::from_partially_read(stream, rest.to_vec(), WebSocketRole::Client, None).await
}

/// Reads until the connection ends, and returns the binary messages behind the challenge.
async fn read_to_end(mut socket: WebSocketStream<TcpStream>) -> Vec<Bytes> {
    use futures_util::StreamExt;
    let mut messages = Vec::new();
    while let Some(Ok(message)) = with_timeout(socket.next()).await {
        if let Message::Binary(message) = message {
            messages.push(message);
        }
    }
    messages.split_off(1)
}

#[tokio::test]
async fn invalid_peer_receives_only_the_challenge() {
    use futures_util::SinkExt;
    let master = start();
    let (mut client, mut server) = connected_pair(&master).await;
    let invalid_messages = [
        Message::text("hello"),
        Message::binary(b"garbage".to_vec()),
        Message::binary(Vec::new()),
        Message::binary(vec![1; MAX_MESSAGE + 1]),
        Message::binary(vec![0x01; 20]),
        Message::binary([&[0x01; 33], &b"{\"version\":1}"[..]].concat()),
    ];
    for message in invalid_messages {
        let mut socket = raw_websocket(&master).await;
        // The master may close before the whole message is sent.
        let _ = with_timeout(socket.send(message.clone())).await;
        assert_eq!(
            read_to_end(socket).await,
            Vec::<Bytes>::new(),
            "after {:?} of {} bytes",
            message.is_text(),
            message.len()
        );
    }
    // A frame that is truncated by the end of the connection.
    let mut stream = master.connect().await;
    stream
        .write_all(request("/").as_bytes())
        .await
        .expect("sent");
    stream.write_all(&[0x82, 0xfe, 0x10]).await.expect("sent");
    drop(stream);
    client.data(1, b"unaffected").await;
    server.expect_data(1, b"unaffected").await;
    until("the invalid peers are gone", || {
        master.shared.tasks.len() == 2
    })
    .await;
}

#[tokio::test]
async fn frame_before_hello_is_treated_like_garbage() {
    let master = start();
    let mut socket = master.upgraded().await;
    with_timeout(socket.receive())
        .await
        .expect("up")
        .expect("a challenge");
    let mut peer = peer(socket);
    peer.send(Frame::Register(Ports { ports: vec![PORT] }))
        .await;
    assert!(
        matches!(peer.try_next().await, Ok(None)),
        "a close without a frame"
    );
}

#[tokio::test]
async fn malformed_frame_ends_an_authenticated_link_with_an_error() {
    let master = start();
    let (mut client, mut server) = connected_pair(&master).await;
    let bad: [&[u8]; 7] = [
        b"",
        b"\x7f",
        b"\x08\0\0",
        b"\x10\0\0\0\x01",
        b"\x06\0\0\0\x01\0\x09{}",
        b"\x03{",
        &[0x10; MAX_MESSAGE + 1],
    ];
    for (instance, message) in (10..).zip(bad) {
        let mut peer = master.server(instance, &[OTHER_PORT]).await;
        peer.send_raw(Bytes::copy_from_slice(message)).await;
        peer.expect_error(Code::Protocol).await;
    }
    client.data(1, b"unaffected").await;
    server.expect_data(1, b"unaffected").await;
}

#[tokio::test]
async fn silent_peers_time_out_at_each_step() {
    let master = start_with(|parameters| {
        parameters.timing.authentication = Duration::from_millis(200);
        parameters.timing.keep_alive = KeepAliveTiming {
            interval: Duration::from_millis(100),
            timeout: Duration::from_millis(400),
            ..KeepAliveTiming::default()
        };
    });
    let before_hello = raw_websocket(&master).await;
    assert_eq!(read_to_end(before_hello).await, Vec::<Bytes>::new());
    let mut linked = master.client(1).await;
    linked.attach(1, PORT).await;
    loop {
        match linked.try_next().await {
            Ok(Some(Frame::Ping(_))) => {}
            Ok(None) | Err(_) => break,
            Ok(Some(other)) => panic!("PING or the end was expected, not {other:?}"),
        }
    }
    until("links and memory are released", || {
        master.shared.router.registry().links() == 0 && master.shared.router.used_bytes() == 0
    })
    .await;
}
