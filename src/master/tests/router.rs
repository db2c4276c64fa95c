//! Tests of the router: splicing, ordering, flow control, and the effects when one side stops.

use std::num::NonZeroUsize;

use super::*;
use report_proto::frame::{Code, MAX_DATA};

#[tokio::test]
async fn channel_relays_in_both_directions_with_translated_numbers() {
    let master = start();
    let (mut server, mut client) = (master.server(1, &[PORT]).await, master.client(2).await);
    let instance = Some(Id([1; 16]));
    client.send(attach(70_000, PORT, instance, b"first")).await;
    assert_eq!(
        server.next().await,
        attach(1, PORT, instance, b"first"),
        "header and message are unchanged"
    );
    server.data(1, b"second").await;
    client.expect_data(70_000, b"second").await;
    client.data(70_000, b"third").await;
    server.expect_data(1, b"third").await;
}

#[tokio::test]
async fn links_on_different_threads_are_spliced() {
    let master = start_with(|parameters| parameters.threads = NonZeroUsize::new(3).expect("three"));
    let mut server = master.server(1, &[PORT]).await;
    // More than three groups of links: the first clients share the server's thread, the last ones
    // do not.
    let mut clients = Vec::new();
    for instance in 2..60 {
        let mut client = master.client(instance).await;
        client.attach(u32::from(instance), PORT).await;
        let channel = server.answer().await;
        clients.push((client, u32::from(instance), channel));
    }
    for (client, own, channel) in &mut clients {
        client.expect_data(*own, b"answer").await;
        client.data(*own, &[*own as u8; 50_000]).await;
        server.expect_data(*channel, &[*own as u8; 50_000]).await;
        server.data(*channel, b"back").await;
        client.expect_data(*own, b"back").await;
    }
    drop(clients);
    until("the memory is given back", || {
        master.shared.router.used_bytes() == 0
    })
    .await;
}

#[tokio::test]
async fn attach_waits_for_a_server_and_is_matched_on_register() {
    let master = start();
    let mut client = master.client(2).await;
    client.attach(5, PORT).await;
    client.attach(6, OTHER_PORT).await;
    client.expect_alive().await;
    let mut server = master.join(Role::Server, 1, 1, &[]).await.expect("joined");
    server
        .send(Frame::Register(Ports { ports: vec![PORT] }))
        .await;
    let frames = [server.next().await, server.next().await];
    assert!(
        frames.contains(&attach(1, PORT, None, b"first")),
        "{frames:?}"
    );
    assert!(
        frames.contains(&Frame::Registered(Registered::new(vec![PORT]))),
        "{frames:?}"
    );
    server.data(1, b"here").await;
    client.expect_data(5, b"here").await;
    server
        .send(Frame::Register(Ports {
            ports: vec![OTHER_PORT],
        }))
        .await;
    let frames = [server.next().await, server.next().await];
    assert!(
        frames.contains(&attach(2, OTHER_PORT, None, b"first")),
        "{frames:?}"
    );
}

#[tokio::test]
async fn cancelled_attach_is_not_matched() {
    let master = start();
    let mut client = master.client(2).await;
    client.attach(5, PORT).await;
    client.close(5).await;
    client.expect_alive().await;
    let mut server = master.server(1, &[PORT]).await;
    server.expect_alive().await;
}

#[tokio::test]
async fn servers_of_one_key_share_the_channels() {
    let master = start();
    let (mut first, mut second) = (
        master.server(1, &[PORT]).await,
        master.server(2, &[PORT]).await,
    );
    let mut client = master.client(3).await;
    for channel in 1..=4 {
        client.attach(channel, PORT).await;
    }
    for server in [&mut first, &mut second] {
        assert_eq!((server.answer().await, server.answer().await), (1, 2));
        server.expect_alive().await;
    }
    client
        .send(attach(5, PORT, Some(Id([2; 16])), b"resumes"))
        .await;
    assert_eq!(
        second.next().await,
        attach(3, PORT, Some(Id([2; 16])), b"resumes")
    );
}

#[tokio::test]
async fn close_follows_earlier_data() {
    let master = start();
    let (mut client, mut server) = connected_pair(&master).await;
    let large = vec![9; MAX_DATA];
    for _ in 0..10 {
        server.data(1, &large).await;
    }
    server.data(1, b"the last").await;
    server.close(1).await;
    for _ in 0..10 {
        client.expect_data(1, &large).await;
    }
    client.expect_data(1, b"the last").await;
    client.expect_close(1, Code::Cancelled).await;
    client.data(1, b"crossed the close").await;
    client.expect_alive().await;
    until("the memory is given back", || {
        master.shared.router.used_bytes() == 0
    })
    .await;
}

#[tokio::test]
async fn unregister_keeps_open_channels() {
    let master = start();
    let (mut client, mut server) = connected_pair(&master).await;
    server
        .send(Frame::Unregister(Ports { ports: vec![PORT] }))
        .await;
    client.data(1, b"still").await;
    server.expect_data(1, b"still").await;
    client.attach(2, PORT).await;
    client.expect_alive().await;
    server.expect_alive().await;
}

#[tokio::test]
async fn ended_link_closes_its_channels_with_peer_lost() {
    let master = start();
    let (mut client, server) = connected_pair(&master).await;
    drop(server);
    client.expect_close(1, Code::PeerLost).await;

    let mut server = master.server(3, &[PORT]).await;
    client.attach(2, PORT).await;
    let channel = server.answer().await;
    drop(client);
    server.expect_close(channel, Code::PeerLost).await;
    until("both links are removed", || {
        master.shared.router.used_bytes() == 0 && master.shared.router.registry().links() == 1
    })
    .await;
}
