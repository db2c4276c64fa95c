//! Tests of instances with several links at one master.

use super::*;
use report_proto::frame::Code;

fn register() -> [Frame; 1] {
    [Frame::Register(Ports { ports: vec![PORT] })]
}

/// Adds a link in this slot to server 1, which registers the port.
async fn server_link(master: &RunningMaster, slot: u8, epoch: u64) -> TestPeer {
    let name = (1, slot);
    let mut link = master
        .join_slot(Role::Server, name, epoch, &register())
        .await;
    assert!(matches!(link.next().await, Frame::Registered(_)));
    link
}

#[tokio::test]
async fn links_with_different_slots_serve_beside_each_other() {
    let master = start();
    let mut links = Vec::new();
    for slot in 0..3 {
        links.push(server_link(&master, slot, 1 + u64::from(slot)).await);
    }
    let mut client = master.client(2).await;
    for channel in 1..=6 {
        client.attach(channel, PORT).await;
    }
    for link in &mut links {
        assert_eq!([link.answer().await, link.answer().await], [1, 2]);
    }
    for _ in 0..6 {
        assert!(matches!(client.next().await, Frame::Data { .. }));
    }
    links
        .pop()
        .expect("a link")
        .socket
        .close(TEST_TIMEOUT)
        .await;
    for _ in 0..2 {
        let Frame::Close { notice, .. } = client.next().await else {
            panic!("the channels of that link close")
        };
        assert_eq!(notice.code, Code::PeerLost);
    }
    client.expect_alive().await;
    for link in &mut links {
        link.expect_alive().await;
    }
}

#[tokio::test]
async fn newer_link_takes_over_within_its_slot_only() {
    let master = start();
    let (mut first, mut second) = (
        server_link(&master, 0, 1).await,
        server_link(&master, 1, 2).await,
    );
    let mut third = server_link(&master, 1, 3).await;
    second.expect_error(Code::Superseded).await;
    // Another slot does not compare its epoch.
    let mut fourth = server_link(&master, 15, 1).await;
    for link in [&mut first, &mut third, &mut fourth] {
        link.expect_alive().await;
    }
}

#[tokio::test]
async fn links_of_a_client_attach_independently() {
    let master = start();
    let mut server = master.server(1, &[PORT]).await;
    let mut links = Vec::new();
    for slot in 0..8 {
        let mut link = master.join_slot(Role::Client, (2, slot), 1, &[]).await;
        link.attach(7, PORT).await;
        let channel = server.answer().await;
        link.expect_data(7, b"answer").await;
        server.data(channel, &[slot]).await;
        link.expect_data(7, &[slot]).await;
        links.push(link);
    }
    assert_eq!(master.shared.router.registry().links(), 9);
}

#[tokio::test]
async fn hello_with_a_slot_that_does_not_exist_gets_no_answer() {
    let master = start();
    let mut socket = master.upgraded().await;
    with_timeout(socket.receive()).await.expect("a challenge");
    let claims = format!(
        r#"{{"version":1,"role":"client","instance":"{}","slot":16,"epoch":1,"nonce":"{}"}}"#,
        "0".repeat(32),
        "0".repeat(64)
    );
    let hello = Frame::Hello {
        proof: [0; 32],
        claims: claims.into(),
    };
    let mut peer = TestPeer {
        socket,
        terms: Terms {
            version: 1,
            heartbeat_seconds: 0,
            max_channels: 0,
            max_ports: 0,
            retry_within_ms: 0,
        },
    };
    peer.send(hello).await;
    assert!(
        matches!(peer.try_next().await, Ok(None)),
        "closed without ERROR"
    );
}
