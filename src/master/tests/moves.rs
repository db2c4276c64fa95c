//! Instances that move from one link to the next, and those that were cut off and come back.

use super::*;
use crate::master::queue::CHANNEL_HIGH_WATER;

const INSTANCE: Option<Id> = Some(Id([1; 16]));

fn register() -> [Frame; 1] {
    [Frame::Register(Ports { ports: vec![PORT] })]
}

#[tokio::test]
async fn a_server_that_moves_keeps_its_channels_and_gets_new_ones_on_its_newest_link() {
    let master = start();
    let (mut client, mut old) = talking(&master).await;
    let mut new = master.join_moving(Role::Server, 1, 2, &register()).await;
    assert!(matches!(new.next().await, Frame::Registered(_)));
    client.data(1, b"goes on").await;
    old.expect_data(1, b"goes on").await;
    client.send(attach(2, PORT, INSTANCE, b"moves")).await;
    assert_eq!(new.next().await, attach(1, PORT, INSTANCE, b"moves"));
    client.attach(3, PORT).await;
    assert!(matches!(new.next().await, Frame::Attach { channel: 2, .. }));
    old.expect_alive().await;
    old.socket.close(SOON).await;
    client.expect_close(1, Code::PeerLost).await;
    new.data(1, b"still here").await;
    client.expect_data(2, b"still here").await;
}

#[tokio::test]
async fn a_client_that_moves_keeps_its_channels() {
    let master = start();
    let (mut old, mut server) = talking(&master).await;
    let mut new = master
        .join_moving(Role::Client, 2, 2, &[attach(1, PORT, INSTANCE, b"moves")])
        .await;
    assert_eq!(server.answer().await, 2);
    new.expect_data(1, b"answer").await;
    old.data(1, b"the last").await;
    server.expect_data(1, b"the last").await;
}

#[tokio::test]
async fn a_third_link_of_an_instance_ends_the_first() {
    let master = start();
    let mut first = master.server(1, &[PORT]).await;
    let mut second = master.join_moving(Role::Server, 1, 2, &[]).await;
    let mut third = master.join_moving(Role::Server, 1, 3, &[]).await;
    first.expect_error(Code::Superseded).await;
    second.expect_alive().await;
    third.expect_alive().await;
}

#[tokio::test]
async fn an_instance_that_was_cut_off_takes_over_and_its_old_channels_end() {
    let master = start();
    let (mut client, mut old) = talking(&master).await;
    let mut new = master
        .join(Role::Server, 1, 2, &register())
        .await
        .expect("joined");
    old.expect_error(Code::Superseded).await;
    client.expect_close(1, Code::PeerLost).await;
    assert!(matches!(new.next().await, Frame::Registered(_)));
}

#[tokio::test]
async fn a_call_for_an_instance_that_is_away_waits_for_it_while_others_serve_the_key() {
    let master = start();
    let (mut other, mut client) = (master.server(5, &[PORT]).await, master.client(2).await);
    client.send(attach(1, PORT, INSTANCE, b"resumes")).await;
    client.attach(2, PORT).await;
    assert_eq!(
        other.next().await,
        attach(1, PORT, None, b"first"),
        "nothing but the call that names nobody"
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

/// Leaves so much on the way from `from` to `to`, who does not read, that the master has to keep most of it.
async fn fill(from: &mut Peer, payload: &[u8]) -> usize {
    let mut sent = 0;
    while sent + payload.len() < CHANNEL_HIGH_WATER {
        from.data(1, payload).await;
        sent += payload.len();
    }
    from.expect_alive().await;
    sent
}

async fn take_all(to: &mut Peer, mut bytes: usize) {
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
async fn a_close_comes_behind_what_the_master_holds_in_either_direction() {
    for from_client in [true, false] {
        let master = start();
        let (mut client, mut server) = talking(&master).await;
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
async fn what_a_link_had_sent_before_its_end_comes_before_the_close_in_either_direction() {
    for from_client in [true, false] {
        let master = start();
        let (client, server) = talking(&master).await;
        let (mut from, mut to) = if from_client {
            (client, server)
        } else {
            (server, client)
        };
        to.send(Frame::Pause(1)).await;
        to.expect_alive().await;
        let sent = fill(&mut from, &[7; 16 * 1024]).await;
        from.socket.close(SOON).await;
        to.send(Frame::Resume(1)).await;
        take_all(&mut to, sent).await;
        to.expect_close(1, Code::PeerLost).await;
    }
}
