//! Tests of the drain, and of other GOAWAY notices.

use super::*;
use crate::master::drain::CLOSE_TIMEOUT;
use report_proto::frame::{CHANNEL_RENEWAL_THRESHOLD, Code};

/// Waits until the master has ended, and returns how long that took.
async fn wait_ended(master: &mut RunningMaster) -> Duration {
    let since = tokio::time::Instant::now();
    with_timeout(master.task.join_next())
        .await
        .expect("it ran")
        .expect("it ended without a panic");
    since.elapsed()
}

#[tokio::test]
async fn drain_sends_goaway_and_ends_with_the_last_link() {
    let mut master = start_with_grace(Duration::from_secs(30), |_| {});
    let (mut client, mut server) = connected_pair(&master).await;
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
        "the listener is closed"
    );
    client.socket.close(TEST_TIMEOUT).await;
    server.expect_close(1, Code::PeerLost).await;
    server.socket.close(TEST_TIMEOUT).await;
    assert!(wait_ended(&mut master).await < Duration::from_secs(10));
    drop(idle);
}

#[tokio::test]
async fn remaining_links_end_with_shutdown_after_the_grace_period() {
    let mut master = start_with_grace(Duration::from_millis(300), |_| {});
    let mut client = master.client(1).await;
    master.cancel.cancel();
    assert!(matches!(client.next().await, Frame::GoAway(_)));
    client.expect_error(Code::Shutdown).await;
    drop(client);
    wait_ended(&mut master).await;
}

#[tokio::test]
async fn link_that_does_not_read_its_error_is_aborted() {
    let mut master = start_with_grace(Duration::from_millis(100), |_| {});
    let client = master.client(1).await;
    master.cancel.cancel();
    assert!(wait_ended(&mut master).await < CLOSE_TIMEOUT + Duration::from_secs(2));
    drop(client);
}

#[tokio::test]
async fn dropped_master_leaves_no_task_behind() {
    let mut master = start();
    let mut client = master.client(1).await;
    let tasks = master.shared.tasks.clone();
    master.task.shutdown().await;
    tasks.close();
    with_timeout(tasks.wait()).await;
    assert!(!matches!(client.try_next().await, Ok(Some(_))));
}

#[tokio::test]
async fn second_master_binds_the_address_during_drain() {
    let mut master = start_with_grace(Duration::from_secs(30), |_| {});
    let (mut client, mut server) = connected_pair(&master).await;
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
    client.socket.close(TEST_TIMEOUT).await;
    server.expect_close(1, Code::PeerLost).await;
    server.socket.close(TEST_TIMEOUT).await;
    wait_ended(&mut master).await;
    moved.expect_alive().await;
}

#[tokio::test]
async fn new_link_during_drain_receives_goaway() {
    let mut master = start_with_grace(Duration::from_secs(30), |_| {});
    let mut socket = master.upgraded().await;
    let introduction = RoleIdentity {
        role: Role::Client,
        instance: Id([1; 16]),
        slot: Slot::FIRST,
        epoch: 1,
        moves: false,
        agent: String::new(),
    };
    master.cancel.cancel();
    authenticate::join(&mut socket, &LinkSecret::Anonymous, &introduction, &[])
        .await
        .expect("accepted before the drain");
    let message = with_timeout(socket.receive())
        .await
        .expect("the link is up")
        .expect("the link is up");
    assert!(
        matches!(Frame::decode(message.freeze()), Ok(Frame::GoAway(notice)) if notice.code == Code::Shutdown)
    );
    socket.close(TEST_TIMEOUT).await;
    wait_ended(&mut master).await;
}

/// Sends a part of a request, and waits until the master has accepted the connection.
async fn connection_within_a_request(master: &RunningMaster) -> TcpStream {
    let mut stream = master.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        .await
        .expect("sent");
    until("the connection is accepted", || {
        !master.shared.tasks.is_empty()
    })
    .await;
    stream
}

#[tokio::test]
async fn request_is_answered_after_a_new_process_has_taken_over() {
    let mut master = start_with_grace(Duration::from_secs(30), |_| {});
    let mut visitor = connection_within_a_request(&master).await;
    master.shared.retired.cancel();
    until("the master drains", || {
        master.shared.draining.is_cancelled() && master.shared.listeners.sockets().is_empty()
    })
    .await;
    visitor
        .write_all(b"Connection: close\r\n\r\n")
        .await
        .expect("still open");
    let mut answer = String::new();
    with_timeout(visitor.read_to_string(&mut answer))
        .await
        .expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert!(wait_ended(&mut master).await < Duration::from_secs(10));
}

#[tokio::test]
async fn unfinished_request_ends_with_the_grace_period_of_a_former_process() {
    let mut master = start_with_grace(Duration::from_millis(300), |parameters| {
        parameters.timing.header = Duration::from_secs(60);
    });
    let mut visitor = connection_within_a_request(&master).await;
    master.shared.retired.cancel();
    wait_ended(&mut master).await;
    let read = with_timeout(visitor.read(&mut [0])).await;
    assert!(!matches!(read, Ok(1..)), "{read:?}");
}

#[tokio::test]
async fn goaway_reaches_many_links_within_half_of_the_grace_period() {
    const CLIENTS: u8 = 20;
    let grace = Duration::from_secs(4);
    let mut master = start_with_grace(grace, |_| {});
    let mut clients = Vec::new();
    for instance in 1..=CLIENTS {
        clients.push(master.client(instance).await);
    }
    let mut server = master.server(100, &[PORT]).await;
    let since = tokio::time::Instant::now();
    master.cancel.cancel();
    assert!(matches!(server.next().await, Frame::GoAway(_)));
    for client in &mut clients {
        assert!(matches!(client.next().await, Frame::GoAway(_)));
    }
    assert!(since.elapsed() < grace, "before the links are ended");
    drop((clients, server));
    wait_ended(&mut master).await;
}

#[tokio::test]
async fn server_gets_goaway_before_channel_numbers_run_out() {
    let master = start();
    let (mut client, mut server) = connected_pair(&master).await;
    master
        .shared
        .router
        .registry()
        .set_last_channel(CHANNEL_RENEWAL_THRESHOLD - 1);
    client.attach(2, PORT).await;
    match server.next().await {
        Frame::GoAway(notice) => assert_eq!(notice.code, Code::Limit, "{notice}"),
        other => panic!("GOAWAY was expected, not {other:?}"),
    }
    assert_eq!(
        server.answer().await,
        CHANNEL_RENEWAL_THRESHOLD,
        "and the link continues"
    );
    client.expect_data(2, b"answer").await;
    client.data(1, b"as before").await;
    server.expect_data(1, b"as before").await;
    // The next link numbers its channels from 1.
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
    // Without a free channel number the master opens no channel.
    master.shared.router.registry().set_last_channel(u32::MAX);
    client.attach(4, PORT).await;
    client.expect_close(4, Code::Limit).await;
}
