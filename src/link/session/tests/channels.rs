//! Tests of channels: payloads, pauses and closes of their ends.

use super::*;

#[tokio::test(start_paused = true)]
async fn payloads_are_received_and_sent_by_channel_end() {
    let (fixture, mut peer) = Fixture::with_peer();
    let (one, mut events_one) = fixture.open(1, 0);
    let (_two, mut events_two) = fixture.open(2, 0);
    send(&mut peer, data(2, b"for two")).await;
    send(&mut peer, data(1, b"for one")).await;
    send(&mut peer, data(3, b"for no channel")).await;
    assert_eq!(
        events_two.recv().await,
        Some(ChannelEvent::Payload("for two".into()))
    );
    assert_eq!(
        events_one.recv().await,
        Some(ChannelEvent::Payload("for one".into()))
    );
    one.push(b"from one");
    fixture.outbox.ready(1);
    assert_eq!(receive(&mut peer).await, data(1, b"from one"));
    assert_eq!(fixture.outbox.moved_bytes(), 7 + 7 + 14 + 8);
}

#[tokio::test(start_paused = true)]
async fn handler_receives_frames_that_link_does_not_handle() {
    let (mut fixture, mut peer) = Fixture::with_peer();
    let registered = Frame::Registered(Registered::default());
    send(&mut peer, Frame::Extension(0x99)).await;
    send(&mut peer, Frame::Pong(4)).await;
    send(&mut peer, registered.clone()).await;
    assert_eq!(fixture.frames.recv().await, Some(registered));
}

#[tokio::test(start_paused = true)]
async fn paused_channel_sends_nothing_until_resumed() {
    let (fixture, mut peer) = Fixture::with_peer();
    let (channel_end, mut events) = fixture.open(1, 0);
    send(&mut peer, Frame::Pause(1)).await;
    assert_eq!(events.recv().await, Some(ChannelEvent::Paused(true)));
    channel_end.push(b"later");
    fixture.outbox.ready(1);
    let (other, _events) = fixture.open(2, 0);
    other.push(b"not held up");
    fixture.outbox.ready(2);
    assert_eq!(receive(&mut peer).await, data(2, b"not held up"));
    send(&mut peer, Frame::Resume(1)).await;
    assert_eq!(receive(&mut peer).await, data(1, b"later"));
    assert_eq!(events.recv().await, Some(ChannelEvent::Paused(false)));
}

#[tokio::test(start_paused = true)]
async fn all_lanes_progress_in_both_directions_under_load() {
    let (role, master) = memory::pair();
    let (left, right) = (Fixture::run(role), Fixture::run(master));
    let ends: Vec<_> = (1..=4)
        .map(|channel| (left.open(channel, 5000).0, right.open(channel, 5000).0))
        .collect();
    let received = || {
        ends.iter()
            .flat_map(|(a, b)| [a, b])
            .map(|channel_end| channel_end.received.load(Ordering::Relaxed))
            .collect::<Vec<_>>()
    };
    while received().iter().sum::<usize>() < 200 << 20 {
        tokio::task::yield_now().await;
    }
    let received = received();
    let (least, most) = (
        received.iter().min().unwrap(),
        received.iter().max().unwrap(),
    );
    assert!(*most < 2 * least, "{received:?}");
}

#[tokio::test(start_paused = true)]
async fn channel_end_that_rejects_payload_is_closed_alone() {
    let (fixture, mut peer) = Fixture::with_peer();
    let (one, mut events_one) = fixture.open(1, 0);
    let (_two, mut events_two) = fixture.open(2, 0);
    send(&mut peer, data(1, b"bad")).await;
    assert_eq!(
        receive(&mut peer).await,
        Frame::Close {
            channel: 1,
            notice: Notice::new(Code::Seal, "it does not open")
        }
    );
    send(&mut peer, data(2, b"good")).await;
    assert_eq!(
        events_two.recv().await,
        Some(ChannelEvent::Payload("good".into()))
    );
    assert!(
        events_one.try_recv().is_err(),
        "the channel end that refuses gets no callback"
    );
    assert_eq!(Arc::strong_count(&one), 1, "the channel end is dropped");
}

#[tokio::test(start_paused = true)]
async fn close_from_peer_ends_channel_without_answer() {
    let (fixture, mut peer) = Fixture::with_peer();
    let (_channel_end, mut events) = fixture.open(1, 0);
    let notice = Notice::new(Code::PeerLost, "gone");
    send(
        &mut peer,
        Frame::Close {
            channel: 1,
            notice: notice.clone(),
        },
    )
    .await;
    assert_eq!(events.recv().await, Some(ChannelEvent::Closed(notice)));
    assert!(fixture.outbox.is_empty());
    send(&mut peer, Frame::Ping(1)).await;
    assert_eq!(receive(&mut peer).await, Frame::Pong(1));
}

#[tokio::test(start_paused = true)]
async fn drained_data_arrives_before_close() {
    let (role, mut peer) = memory::pair_with_capacity(BULK);
    let fixture = Fixture::run(role);
    let (_channel_end, _events) = fixture.open(1, 100);
    let notice = Notice::new(Code::PeerLost, "");
    fixture.outbox.close_after_drain(1, &notice);
    for _ in 0..100 {
        assert!(
            matches!(receive(&mut peer).await, Frame::Data { channel: 1, payload } if payload.len() == BULK)
        );
    }
    assert_eq!(
        receive(&mut peer).await,
        Frame::Close { channel: 1, notice }
    );
}

#[tokio::test(start_paused = true)]
async fn largest_message_is_delivered() {
    let (fixture, mut peer) = Fixture::with_peer();
    let (_channel_end, mut events) = fixture.open(1, 0);
    send(
        &mut peer,
        Frame::Data {
            channel: 1,
            payload: vec![3; MAX_DATA].into(),
        },
    )
    .await;
    assert!(
        matches!(events.recv().await, Some(ChannelEvent::Payload(payload)) if payload.len() == MAX_DATA)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_marks_from_other_threads_are_not_lost() {
    let (role, master) = memory::pair_with_capacity(BULK);
    let (left, right) = (Fixture::run(role), Fixture::run(master));
    let mut producers = JoinSet::new();
    let mut ends = Vec::new();
    for channel in 1..=4 {
        let (sending, receiving) = (left.open(channel, 0).0, right.open(channel, 0).0);
        let outbox = left.outbox.clone();
        producers.spawn(async move {
            for round in 0..5_000 {
                sending.push(b"0123456789");
                outbox.ready(channel);
                if round % 7 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
        ends.push(receiving);
    }
    producers.join_all().await;
    let arrived = async {
        while ends
            .iter()
            .any(|channel_end| channel_end.received.load(Ordering::Relaxed) < 50_000)
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), arrived)
        .await
        .expect("all data arrives without another mark");
}
