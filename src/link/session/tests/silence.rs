//! Tests of how soon a link detects a dead path, and of slow paths that are not dead.

use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, ReadHalf, WriteHalf};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Two sockets with a slow path between them. Undelivered data waits on the path, as in the queue
/// of a modem.
struct SlowPath {
    role: Option<MessageSocket>,
    master: Option<MessageSocket>,
    /// Whether the path silently drops everything.
    dead: Arc<AtomicBool>,
    _path: JoinSet<()>,
}

impl SlowPath {
    /// Creates a path that buffers `held` bytes in each direction.
    fn new(bytes_per_second: usize, held: usize) -> Self {
        let ((role, near), (far, master)) = (duplex(held), duplex(1024));
        let ((near_read, near_write), (far_read, far_write)) =
            (tokio::io::split(near), tokio::io::split(far));
        let (mut path, dead) = (JoinSet::new(), Arc::<AtomicBool>::default());
        path.spawn(throttle(
            near_read,
            far_write,
            bytes_per_second,
            dead.clone(),
        ));
        path.spawn(throttle(
            far_read,
            near_write,
            bytes_per_second,
            dead.clone(),
        ));
        let role = Some(MessageSocket::new(role, Bytes::new(), SocketEnd::Dialled));
        let master = Some(MessageSocket::new(
            master,
            Bytes::new(),
            SocketEnd::Accepted,
        ));
        SlowPath {
            role,
            master,
            dead,
            _path: path,
        }
    }

    fn ends(&mut self) -> (Fixture, Fixture) {
        (
            Fixture::run(self.role.take().unwrap()),
            Fixture::run(self.master.take().unwrap()),
        )
    }
}

async fn throttle(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    bytes_per_second: usize,
    dead: Arc<AtomicBool>,
) {
    let mut piece = vec![0; (bytes_per_second / 100).max(1)];
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        tokio::time::sleep(SECOND / 100).await;
        if dead.load(Ordering::Relaxed) {
            std::future::pending().await
        }
        if to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn dead_path_ends_link_ten_seconds_after_send() {
    for pause in [0, 1, 7, 19] {
        let (mut fixture, _peer) = Fixture::with_peer();
        let (channel_end, _events) = fixture.open(1, 0);
        tokio::time::sleep(pause * SECOND).await;
        let start = Instant::now();
        channel_end.push(b"is anybody there?");
        fixture.outbox.ready(1);
        assert!(
            matches!(fixture.end().await, EndReason::TimedOut(silence) if silence >= pause * SECOND + 10 * SECOND)
        );
        assert_eq!(start.elapsed().as_secs(), 10, "after a pause of {pause} s");
    }
}

thread_local! {
    /// The simulated suspended time of the machine.
    static SUSPENDED: std::cell::Cell<Duration> = const { std::cell::Cell::new(Duration::ZERO) };
}

fn suspend_machine(time: Duration) {
    SUSPENDED.set(SUSPENDED.get() + time);
}

#[tokio::test(start_paused = true)]
async fn link_that_died_during_suspend_ends_soon_without_traffic() {
    let (role, _peer) = memory::pair();
    let mut fixture = Fixture::run_with(role, || SUSPENDED.get());
    tokio::time::sleep(SECOND).await;
    suspend_machine(200 * SECOND);
    let start = Instant::now();
    assert!(matches!(fixture.end().await, EndReason::TimedOut(_)));
    let took = start.elapsed();
    assert!(
        took >= 3 * SECOND && took <= 5 * SECOND,
        "the check interval and the deadline, not {took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn link_that_survives_suspend_sends_one_ping() {
    let (role, mut peer) = memory::pair();
    let mut fixture = Fixture::run_with(role, || SUSPENDED.get());
    tokio::time::sleep(SECOND).await;
    suspend_machine(200 * SECOND);
    let start = Instant::now();
    let Frame::Ping(token) = receive(&mut peer).await else {
        panic!("a PING is due")
    };
    assert!(start.elapsed() <= 2 * SECOND);
    send(&mut peer, Frame::Pong(token)).await;
    let Frame::Ping(_) = receive(&mut peer).await else {
        panic!("a PING is due")
    };
    assert!(start.elapsed() >= 20 * SECOND, "the next keep-alive");
    fixture.cancel.cancel();
    assert_eq!(peer.receive().await.unwrap(), None);
    assert!(matches!(fixture.end().await, EndReason::Cancelled));
}

#[tokio::test(start_paused = true)]
async fn silent_peer_that_stops_reading_ends_link() {
    let (role, mut peer) = memory::pair_with_capacity(BULK);
    let mut fixture = Fixture::run(role);
    let (_channel_end, _events) = fixture.open(1, 1000);
    tokio::time::sleep(5 * SECOND).await;
    // The data queued since the first second waits behind the data that the socket accepted before
    // this.
    send(&mut peer, Frame::Pong(0)).await;
    let start = Instant::now();
    assert!(matches!(fixture.end().await, EndReason::TimedOut(_)));
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn receiver_without_data_sends_one_ping_after_two_seconds() {
    let (fixture, mut peer) = Fixture::with_peer();
    let (_channel_end, _events) = fixture.open(1, 0);
    let start = Instant::now();
    send(&mut peer, data(1, b"hello")).await;
    let Frame::Ping(token) = receive(&mut peer).await else {
        panic!("a PING is due")
    };
    assert_eq!(start.elapsed().as_secs(), 2);
    send(&mut peer, Frame::Pong(token)).await;
    let Frame::Ping(_) = receive(&mut peer).await else {
        panic!("a PING is due")
    };
    assert_eq!(start.elapsed().as_secs(), 22);
}

#[tokio::test(start_paused = true)]
async fn parts_of_message_are_answered_and_keep_link_up() {
    let (mut fixture, mut peer) = raw_peer();
    let (_channel_end, mut events) = fixture.open(1, 0);
    // DATA of 95 bytes for channel 1, masked with zeros, one byte every three seconds, for five
    // minutes.
    let mut message = vec![0x82, 0x80 | 100, 0, 0, 0, 0, 0x10, 0, 0, 0, 1];
    message.resize(6 + 100, b'x');
    let mut answers = Vec::new();
    for byte in message {
        peer.write_all(&[byte]).await.unwrap();
        tokio::time::sleep(3 * SECOND).await;
        while let Ok(read) = tokio::time::timeout(Duration::ZERO, peer.read_buf(&mut answers)).await
        {
            assert_ne!(read.unwrap(), 0, "the link is up");
        }
    }
    assert!(
        matches!(events.recv().await, Some(ChannelEvent::Payload(payload)) if payload.len() == 95)
    );
    assert!(fixture.task.try_join_next().is_none());
    let pings = answers.len() / 11;
    assert!((95..=106).contains(&pings), "{pings} PINGs for 106 parts");
}

#[tokio::test(start_paused = true)]
async fn websocket_pings_and_pongs_do_not_keep_link_up() {
    for piece in [1, 2, 131] {
        let (mut fixture, mut peer) = raw_peer();
        let start = Instant::now();
        // A ping of 125 bytes, masked with zeros.
        let mut ping = vec![0x89, 0x80 | 125, 0, 0, 0, 0];
        ping.resize(131, 0);
        let proxy = async {
            loop {
                for part in ping.chunks(piece) {
                    peer.write_all(part).await.unwrap();
                    tokio::time::sleep(SECOND / 20).await;
                }
            }
        };
        tokio::select! {
            end = fixture.end() => assert!(matches!(end, EndReason::TimedOut(_))),
            () = proxy => unreachable!("the proxy pings without end"),
        }
        assert_eq!(start.elapsed().as_secs(), 30, "in pieces of {piece}");
    }
}

#[tokio::test(start_paused = true)]
async fn slow_path_with_megabytes_queued_is_not_dead() {
    for both in [false, true] {
        let mut path = SlowPath::new(20_000, 4 << 20);
        let (mut left, mut right) = path.ends();
        let (_from, _events_from) = left.open(1, 64);
        let (to, _events_to) = right.open(1, if both { 64 } else { 0 });
        let start = Instant::now();
        while to.received.load(Ordering::Relaxed) < 64 * BULK {
            tokio::time::sleep(SECOND).await;
            assert!(
                left.task.try_join_next().is_none(),
                "after {:?}",
                start.elapsed()
            );
            assert!(
                right.task.try_join_next().is_none(),
                "after {:?}",
                start.elapsed()
            );
        }
        assert!(
            start.elapsed() > 200 * SECOND,
            "the path is slow: {:?}",
            start.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn both_ends_detect_slow_path_that_dies() {
    let mut path = SlowPath::new(20_000, 4 << 20);
    let (mut left, mut right) = path.ends();
    let (_from, _events_from) = left.open(1, 64);
    let (to, _events) = right.open(1, 0);
    tokio::time::sleep(30 * SECOND).await;
    assert!(to.received.load(Ordering::Relaxed) > 0);
    path.dead.store(true, Ordering::Relaxed);
    let start = Instant::now();
    assert!(matches!(left.end().await, EndReason::TimedOut(_)));
    assert!(matches!(right.end().await, EndReason::TimedOut(_)));
    assert!(start.elapsed() <= 13 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn idle_ends_send_only_keep_alives() {
    let ((role, mut near), (mut far, master)) = (memory::pair(), memory::pair());
    let (left, right) = (Fixture::run(role), Fixture::run(master));
    let (channel_end, _one) = left.open(1, 0);
    let (_other, mut events) = right.open(1, 0);
    let mut frames = Vec::new();
    let mut asked = false;
    let start = Instant::now();
    while start.elapsed() < 600 * SECOND {
        if !asked && start.elapsed() > 100 * SECOND {
            asked = true;
            channel_end.push(b"one word");
            left.outbox.ready(1);
        }
        let (message, to) = tokio::select! {
            message = near.receive() => (message, &mut far),
            message = far.receive() => (message, &mut near),
            () = tokio::time::sleep(SECOND) => continue,
        };
        let message = message.unwrap().expect("both links are up").freeze();
        frames.push(Frame::decode(message.clone()).unwrap());
        to.feed(message).await.unwrap();
        to.flush().await.unwrap();
    }
    assert_eq!(
        events.recv().await,
        Some(ChannelEvent::Payload("one word".into()))
    );
    let pings = frames
        .iter()
        .filter(|frame| matches!(frame, Frame::Ping(_)))
        .count();
    // Each end sends one every 20 s, and one more for the payload.
    assert!((30..=62).contains(&pings), "{pings}: {frames:?}");
    assert!(frames.len() <= 2 * pings + 1, "{frames:?}");
}

#[tokio::test(start_paused = true)]
async fn pings_do_not_pile_up_for_peer_that_sends_but_does_not_read() {
    let (role, mut peer) = memory::pair_with_capacity(1024);
    let mut fixture = Fixture::run(role);
    fixture.open(1, 1000);
    for _ in 0..1000 {
        tokio::time::sleep(3 * SECOND).await;
        send(&mut peer, data(9, b"still here")).await;
    }
    assert!(fixture.task.try_join_next().is_none());
    assert!(
        fixture.outbox.queued_control_bytes() < 200,
        "{} bytes",
        fixture.outbox.queued_control_bytes()
    );
}
