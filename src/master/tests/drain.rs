//! The end of a master, and links that it asks to go for another reason.

use super::*;
use crate::frame::CHANNELS_RENEWED;

/// Waits for the end of the master and says how long it took.
async fn ended(master: &mut Running) -> Duration {
    let since = tokio::time::Instant::now();
    soon(master.task.join_next())
        .await
        .expect("it ran")
        .expect("it ended in order");
    since.elapsed()
}

#[tokio::test]
async fn a_drain_asks_links_to_go_and_ends_with_the_last_of_them() {
    let mut master = start_with_grace(Duration::from_secs(30), |_| {});
    let (mut client, mut server) = talking(&master).await;
    let idle = master.connect().await;
    master.cancel.cancel();
    for peer in [&mut client, &mut server] {
        assert!(
            matches!(peer.next().await, Frame::GoAway(notice) if notice.code == Code::Shutdown)
        );
    }
    client.data(1, b"the last").await;
    server.expect_data(1, b"the last").await;
    assert!(
        TcpStream::connect(master.address).await.is_err(),
        "nobody is let in any more"
    );
    client.socket.close(SOON).await;
    server.expect_close(1, Code::PeerLost).await;
    server.socket.close(SOON).await;
    assert!(ended(&mut master).await < Duration::from_secs(10));
    drop(idle);
}

#[tokio::test]
async fn links_that_stay_are_ended_with_shutdown_after_the_grace_period() {
    let mut master = start_with_grace(Duration::from_millis(300), |_| {});
    let mut client = master.client(1).await;
    master.cancel.cancel();
    assert!(matches!(client.next().await, Frame::GoAway(_)));
    client.expect_error(Code::Shutdown).await;
    drop(client);
    ended(&mut master).await;
}

#[tokio::test]
async fn a_link_that_does_not_even_read_its_end_is_cut() {
    let mut master = start_with_grace(Duration::from_millis(100), |_| {});
    let client = master.client(1).await;
    master.cancel.cancel();
    assert!(ended(&mut master).await < GOODBYE + Duration::from_secs(2));
    drop(client);
}

#[tokio::test]
async fn a_master_whose_future_is_dropped_leaves_no_task_behind() {
    let mut master = start();
    let mut client = master.client(1).await;
    let tasks = master.shared.tasks.clone();
    master.task.shutdown().await;
    tasks.close();
    soon(tasks.wait()).await;
    assert!(!matches!(client.try_next().await, Ok(Some(_))));
}

#[tokio::test]
async fn another_master_takes_the_address_while_the_first_one_drains() {
    let mut master = start_with_grace(Duration::from_secs(30), |_| {});
    let (mut client, mut server) = talking(&master).await;
    master.cancel.cancel();
    assert!(matches!(client.next().await, Frame::GoAway(_)));
    let address = master.address;
    let next = start_with(|parameters| parameters.listen_at = vec![address]);
    let mut moved = next
        .join_moving(
            Role::Server,
            1,
            2,
            &[Frame::Register(Ports { ports: vec![PORT] })],
        )
        .await;
    assert!(matches!(moved.next().await, Frame::Registered(_)));
    client.data(1, b"still over the first").await;
    assert!(matches!(server.next().await, Frame::GoAway(_)));
    server.expect_data(1, b"still over the first").await;
    client.socket.close(SOON).await;
    server.expect_close(1, Code::PeerLost).await;
    server.socket.close(SOON).await;
    ended(&mut master).await;
    moved.expect_alive().await;
}

#[tokio::test]
async fn a_link_that_comes_up_while_the_master_drains_is_asked_to_go_at_once() {
    let mut master = start_with_grace(Duration::from_secs(30), |_| {});
    let mut socket = master.upgraded().await;
    let introduction = Introduction {
        role: Role::Client,
        instance: Id([1; 16]),
        epoch: 1,
        moves: false,
        agent: String::new(),
    };
    master.cancel.cancel();
    let key = LinkKey::derive(None);
    authenticate::join(&mut socket, &key, &introduction, &[])
        .await
        .expect("it was let in before");
    let message = soon(socket.receive())
        .await
        .expect("the link is up")
        .expect("the link is up");
    assert!(
        matches!(Frame::decode(message.freeze()), Ok(Frame::GoAway(notice)) if notice.code == Code::Shutdown)
    );
    socket.close(SOON).await;
    ended(&mut master).await;
}

#[tokio::test]
async fn a_server_is_asked_for_another_link_before_the_channel_numbers_of_this_one_are_used_up() {
    let master = start();
    let (mut client, mut server) = talking(&master).await;
    master
        .shared
        .switch
        .registry()
        .channels_numbered(CHANNELS_RENEWED - 1);
    client.attach(2, PORT).await;
    match server.next().await {
        Frame::GoAway(notice) => assert_eq!(notice.code, Code::Limit, "{notice}"),
        other => panic!("GOAWAY was expected, not {other:?}"),
    }
    assert_eq!(
        server.answer().await,
        CHANNELS_RENEWED,
        "and the link goes on"
    );
    client.expect_data(2, b"answer").await;
    client.data(1, b"as before").await;
    server.expect_data(1, b"as before").await;
    // Its next link counts from the beginning.
    let mut moved = master
        .join_moving(
            Role::Server,
            1,
            2,
            &[Frame::Register(Ports { ports: vec![PORT] })],
        )
        .await;
    assert!(matches!(moved.next().await, Frame::Registered(_)));
    client.attach(3, PORT).await;
    assert_eq!(moved.answer().await, 1);
    client.expect_data(3, b"answer").await;
    // Without a number left nothing is opened.
    master.shared.switch.registry().channels_numbered(u32::MAX);
    client.attach(4, PORT).await;
    client.expect_close(4, Code::Limit).await;
}
