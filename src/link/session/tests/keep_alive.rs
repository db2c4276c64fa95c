//! Tests of PING, PONG and timeouts.

use super::*;

#[tokio::test(start_paused = true)]
async fn pong_waits_only_for_data_in_socket() {
    let (role, mut peer) = memory::pair_with_capacity(BULK);
    let fixture = Fixture::run(role);
    fixture.open(1, 1000);
    receive(&mut peer).await;
    send(&mut peer, Frame::Ping(5)).await;
    let mut before = 0;
    while receive(&mut peer).await != Frame::Pong(5) {
        before += 1;
    }
    // One message in the pipe, one in the socket, and those that the peer read before the PING
    // arrived.
    assert!(before <= 4, "{before} messages of 64 KiB before the PONG");
}

#[tokio::test(start_paused = true)]
async fn idle_link_pings_and_stays_up_if_peer_answers() {
    let (mut fixture, mut peer) = Fixture::with_peer();
    let start = Instant::now();
    for beat in 1..=10 {
        let Frame::Ping(token) = receive(&mut peer).await else {
            panic!("a PING is due")
        };
        assert_eq!(start.elapsed().as_secs(), 20 * beat);
        send(&mut peer, Frame::Pong(token)).await;
    }
    fixture.cancel.cancel();
    assert_eq!(peer.receive().await.unwrap(), None);
    assert!(matches!(fixture.end().await, EndReason::Cancelled));
}

#[tokio::test(start_paused = true)]
async fn busy_link_sends_no_ping() {
    let (fixture, mut peer) = Fixture::with_peer();
    let (channel_end, mut events) = fixture.open(1, 0);
    for _ in 0..100 {
        send(&mut peer, data(1, b"question")).await;
        assert_eq!(
            events.recv().await,
            Some(ChannelEvent::Payload("question".into()))
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
        channel_end.push(b"answer");
        fixture.outbox.ready(1);
        assert_eq!(receive(&mut peer).await, data(1, b"answer"));
    }
}

#[tokio::test(start_paused = true)]
async fn silent_peer_ends_link_and_channel_ends() {
    let (mut fixture, _peer) = Fixture::with_peer();
    let (_channel_end, mut events) = fixture.open(1, 0);
    let start = Instant::now();
    assert!(matches!(fixture.end().await, EndReason::TimedOut(_)));
    assert_eq!(
        start.elapsed().as_secs(),
        30,
        "the PING interval and the answer timeout"
    );
    assert!(matches!(
        events.recv().await,
        Some(ChannelEvent::Closed(Notice {
            code: Code::Timeout,
            ..
        }))
    ));
    assert_eq!(
        fixture.outbox.ended().map(|notice| notice.code),
        Some(Code::Timeout)
    );
}

#[tokio::test(start_paused = true)]
async fn peer_that_sends_but_does_not_read_is_not_silent() {
    let (role, mut peer) = memory::pair_with_capacity(BULK);
    let mut fixture = Fixture::run(role);
    fixture.open(1, 1000);
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(9)).await;
        send(&mut peer, data(9, b"still here")).await;
    }
    assert!(fixture.task.try_join_next().is_none());
}
