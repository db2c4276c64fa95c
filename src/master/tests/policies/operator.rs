//! Tests of the operator of a master, who lists, ends and blocks.

use super::*;

#[tokio::test]
async fn operator_lists_ends_and_blocks() {
    let master = start_deciding(policies(Admission::Open), |changes| {
        changes.keys.push(ServiceKey::new(PORT, "service"));
    });
    let (mut server, _) = master.server_with(2, PORT).await;
    let mut client = master.client_with(13).await;
    let mut operator_events = Administrator(Arc::clone(&master.shared)).events();
    splice(&mut client, 1, &mut server).await;
    splice(&mut client, 2, &mut server).await;
    client.data(1, b"12345").await;
    server.expect_data(1, b"12345").await;
    let operator = Administrator(Arc::clone(&master.shared));
    let links = operator.links();
    assert_eq!(links.len(), 2);
    assert_eq!(
        (links[0].keys.as_slice(), links[0].channels),
        ([PORT].as_slice(), 2)
    );
    assert_eq!(links[1].account, Some(AccountId(3)));
    let tunnels = operator.tunnels();
    assert_eq!(tunnels.len(), 1);
    assert_eq!(tunnels[0].label.as_deref(), Some("service"));
    assert_eq!(
        (tunnels[0].owner, tunnels[0].channels),
        (Some(AccountId(2)), 2)
    );
    assert_eq!((tunnels[0].up_bytes, tunnels[0].down_bytes), (5, 12));
    let event = operator_events.recv().await.expect("an event");
    assert!(
        matches!(event.kind, EventKind::TunnelUp { tunnel, .. } if tunnel == tunnels[0].number),
        "{event:?}"
    );
    let limits = operator.limits();
    let of_key = limits
        .iter()
        .find(|limits| limits.kind == "key")
        .expect("the key");
    assert_eq!((of_key.links, of_key.tunnels), (1, 1));
    assert_eq!(of_key.name.as_deref(), Some("service"));

    assert!(!operator.end_tunnel(4711));
    let block = operator.block_tunnel(tunnels[0].number, Duration::from_secs(60));
    let block = block.expect("a block");
    client.expect_close(1, Code::Denied).await;
    client.expect_close(2, Code::Denied).await;
    client.attach(3, PORT).await;
    client.expect_close(3, Code::Denied).await;
    assert_eq!(operator.blocks(), std::slice::from_ref(&block));
    assert!(operator.unblock(block.number) && !operator.unblock(block.number));
    for _ in 0..2 {
        assert!(matches!(server.next().await, Frame::Close { .. }));
    }
    splice(&mut client, 4, &mut server).await;
    let client_link = links[1].number;
    assert!(
        operator
            .block_link(client_link, Duration::from_secs(60))
            .is_some()
    );
    client.expect_error(Code::Denied).await;
    assert_eq!(
        master.denied(13, Role::Client, 30).await,
        Denied::Blocked.to_string()
    );
    assert!(operator.end_link(links[0].number));
}

/// Joins as another process of a client with the credential.
async fn second_process(master: &RunningMaster, byte: u8) -> TestPeer {
    let key = secret(byte);
    let joined = master.join_with_key(&key, Role::Client, byte + 20, 1, &[]);
    joined.await.expect("joined")
}

#[tokio::test]
async fn a_blocked_client_loses_its_other_links_and_other_tunnels_to_the_key() {
    let master = start_deciding(policies(Admission::Open), |_| {});
    let (mut server, _) = master.server_with(2, PORT).await;
    let mut clients = [
        master.client_with(13).await,
        second_process(&master, 13).await,
        master.client_with(12).await,
    ];
    let mut channels = Vec::new();
    for client in &mut clients {
        channels.push(splice(client, 1, &mut server).await);
    }
    let operator = Administrator(Arc::clone(&master.shared));
    let tunnel = operator.tunnels()[0].number;
    let block = operator.block_tunnel(tunnel, Duration::from_secs(60));
    let block = block.expect("a block");
    let [first, second, other] = &mut clients;
    for client in [&mut *first, &mut *second] {
        client.expect_close(1, Code::Denied).await;
        assert!(matches!(server.next().await, Frame::Close { .. }));
    }
    other.data(1, b"unaffected").await;
    server.expect_data(channels[2], b"unaffected").await;

    assert!(operator.unblock(block.number));
    let link = operator.links()[1].number;
    let block = operator.block_link(link, Duration::from_secs(60));
    assert!(block.is_some());
    first.expect_error(Code::Denied).await;
    second.expect_error(Code::Denied).await;
    other.expect_alive().await;
}
