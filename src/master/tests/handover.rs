//! Tests of instances that hand over to a new link, and of instances that reconnect after a loss.

use super::*;
use crate::master::channel_queue::CHANNEL_HIGH_WATER;
use report_proto::frame::Code;

const INSTANCE: Option<Id> = Some(Id([1; 16]));

fn register() -> [Frame; 1] {
    [Frame::Register(Ports { ports: vec![PORT] })]
}

#[tokio::test]
async fn server_handover_keeps_channels_and_opens_new_ones_on_the_new_link() {
    let master = start();
    let (mut client, mut old) = connected_pair(&master).await;
    let mut new = master.join_moving(Role::Server, 1, 2, &register()).await;
    assert!(matches!(new.next().await, Frame::Registered(_)));
    client.data(1, b"continues").await;
    old.expect_data(1, b"continues").await;
    client.send(attach(2, PORT, INSTANCE, b"moves")).await;
    assert_eq!(new.next().await, attach(1, PORT, INSTANCE, b"moves"));
    client.attach(3, PORT).await;
    assert!(matches!(new.next().await, Frame::Attach { channel: 2, .. }));
    old.expect_alive().await;
    old.socket.close(TEST_TIMEOUT).await;
    client.expect_close(1, Code::PeerLost).await;
    new.data(1, b"still here").await;
    client.expect_data(2, b"still here").await;
}

#[tokio::test]
async fn client_handover_keeps_channels() {
    let master = start();
    let (mut old, mut server) = connected_pair(&master).await;
    let mut new = master
        .join_moving(Role::Client, 2, 2, &[attach(1, PORT, INSTANCE, b"moves")])
        .await;
    assert_eq!(server.answer().await, 2);
    new.expect_data(1, b"answer").await;
    old.data(1, b"the last").await;
    server.expect_data(1, b"the last").await;
}

#[tokio::test]
async fn third_link_of_an_instance_ends_the_first() {
    let master = start();
    let mut first = master.server(1, &[PORT]).await;
    let mut second = master.join_moving(Role::Server, 1, 2, &[]).await;
    let mut third = master.join_moving(Role::Server, 1, 3, &[]).await;
    first.expect_error(Code::Superseded).await;
    second.expect_alive().await;
    third.expect_alive().await;
}

#[tokio::test]
async fn move_that_failed_at_the_role_only_ends_before_the_link_in_use() {
    let master = start();
    let (mut client, mut server) = connected_pair(&master).await;
    for (role, instance) in [(Role::Server, 1), (Role::Client, 2)] {
        // The role never read its WELCOME, and the master does not know that yet.
        let mut failed = master.join_moving(role, instance, 2, &[]).await;
        let mut retry = master.join_moving(role, instance, 3, &[]).await;
        failed.expect_error(Code::Superseded).await;
        retry.expect_alive().await;
        client.data(1, b"continues").await;
        server.expect_data(1, b"continues").await;
    }
}

#[tokio::test]
async fn first_flight_of_a_move_that_failed_at_the_client_does_not_put_it_in_use() {
    let master = start();
    let (mut client, mut server) = connected_pair(&master).await;
    client.data(1, b"in use").await;
    server.expect_data(1, b"in use").await;
    let first_flight = [attach(1, PORT, INSTANCE, b"moves")];
    let mut failed = master.join_moving(Role::Client, 2, 2, &first_flight).await;
    assert_eq!(server.answer().await, 2);
    failed.expect_data(1, b"answer").await;
    let mut retry = master.join_moving(Role::Client, 2, 3, &first_flight).await;
    failed.expect_error(Code::Superseded).await;
    server.data(1, b"continues").await;
    client.expect_data(1, b"continues").await;
    retry.expect_alive().await;
}

#[tokio::test]
async fn reconnected_instance_takes_over_and_old_channels_end() {
    let master = start();
    let (mut client, mut old) = connected_pair(&master).await;
    let mut new = master
        .join(Role::Server, 1, 2, &register())
        .await
        .expect("joined");
    old.expect_error(Code::Superseded).await;
    client.expect_close(1, Code::PeerLost).await;
    assert!(matches!(new.next().await, Frame::Registered(_)));
}

#[tokio::test]
async fn attach_for_an_absent_instance_waits_while_others_serve_the_key() {
    let master = start();
    let (mut other, mut client) = (master.server(5, &[PORT]).await, master.client(2).await);
    client.send(attach(1, PORT, INSTANCE, b"resumes")).await;
    client.attach(2, PORT).await;
    assert_eq!(
        other.next().await,
        attach(1, PORT, None, b"first"),
        "only the request without an instance"
    );
    let mut back = master
        .join(Role::Server, 1, 7, &register())
        .await
        .expect("joined");
    let frames = [back.next().await, back.next().await];
    assert!(
        frames.contains(&attach(1, PORT, INSTANCE, b"resumes")),
        "{frames:?}"
    );
    other.expect_alive().await;
}

/// Sends data from `from` while `to` does not read, so that the master must queue most of it.
async fn fill(from: &mut TestPeer, payload: &[u8]) -> usize {
    let mut sent = 0;
    while sent + payload.len() < CHANNEL_HIGH_WATER {
        from.data(1, payload).await;
        sent += payload.len();
    }
    from.expect_alive().await;
    sent
}

async fn take_all(to: &mut TestPeer, mut bytes: usize) {
    while bytes > 0 {
        match to.next().await {
            Frame::Data {
                channel: 1,
                payload,
            } => bytes -= payload.len(),
            other => panic!("DATA was expected, {bytes} bytes are missing: {other:?}"),
        }
    }
}

#[tokio::test]
async fn close_follows_queued_data_in_both_directions() {
    for from_client in [true, false] {
        let master = start();
        let (mut client, mut server) = connected_pair(&master).await;
        let (from, to) = if from_client {
            (&mut client, &mut server)
        } else {
            (&mut server, &mut client)
        };
        to.send(Frame::Pause(1)).await;
        to.expect_alive().await;
        let sent = fill(from, &[7; 16 * 1024]).await;
        from.close(1).await;
        from.expect_alive().await;
        to.send(Frame::Resume(1)).await;
        take_all(to, sent).await;
        to.expect_close(1, Code::Cancelled).await;
    }
}

#[tokio::test]
async fn data_sent_before_a_link_end_precedes_the_close_in_both_directions() {
    for from_client in [true, false] {
        let master = start();
        let (client, server) = connected_pair(&master).await;
        let (mut from, mut to) = if from_client {
            (client, server)
        } else {
            (server, client)
        };
        to.send(Frame::Pause(1)).await;
        to.expect_alive().await;
        let sent = fill(&mut from, &[7; 16 * 1024]).await;
        from.socket.close(TEST_TIMEOUT).await;
        to.send(Frame::Resume(1)).await;
        take_all(&mut to, sent).await;
        to.expect_close(1, Code::PeerLost).await;
    }
}
