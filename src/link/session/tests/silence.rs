//! How soon a dead path is noticed, and what is not one.

use std::sync::atomic::AtomicBool;

use tokio::io::{AsyncReadExt, ReadHalf, WriteHalf};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Two sockets with a slow path between them; what waits is on the path, as in a modem's queue.
struct SlowPath {
    role: Option<MessageSocket>,
    master: Option<MessageSocket>,
    /// Nothing is delivered any more, and nobody is told.
    dead: Arc<AtomicBool>,
    _path: JoinSet<()>,
}

impl SlowPath {
    /// A path that holds `held` bytes in each direction.
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
        let role = Some(MessageSocket::new(role, Bytes::new(), End::Dialled));
        let master = Some(MessageSocket::new(master, Bytes::new(), End::Accepted));
        SlowPath {
            role,
            master,
            dead,
            _path: path,
        }
    }

    fn ends(&mut self) -> (Bed, Bed) {
        (
            Bed::run(self.role.take().unwrap()),
            Bed::run(self.master.take().unwrap()),
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
async fn a_dead_path_is_noticed_ten_seconds_after_something_was_sent_on_it() {
    for pause in [0, 1, 7, 19] {
        let (mut bed, _peer) = Bed::with_peer();
        let (lane, _heard) = bed.open(1, 0);
        tokio::time::sleep(pause * SECOND).await;
        let start = Instant::now();
        lane.push(b"is anybody there?");
        bed.outbox.ready(1);
        assert!(
            matches!(bed.end().await, LinkEnd::Silent(silence) if silence >= pause * SECOND + 10 * SECOND)
        );
        assert_eq!(start.elapsed().as_secs(), 10, "after a pause of {pause} s");
    }
}

thread_local! {
    /// Time in suspend.
    static SLEPT: std::cell::Cell<Duration> = const { std::cell::Cell::new(Duration::ZERO) };
}

fn sleep_of_the_machine(time: Duration) {
    SLEPT.set(SLEPT.get() + time);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_died_in_a_sleep_ends_soon_after_it_without_traffic_too() {
    let (role, _peer) = memory::pair();
    let mut bed = Bed::run_with(role, || SLEPT.get());
    tokio::time::sleep(SECOND).await;
    sleep_of_the_machine(200 * SECOND);
    let start = Instant::now();
    assert!(matches!(bed.end().await, LinkEnd::Silent(_)));
    let took = start.elapsed();
    assert!(
        took >= 3 * SECOND && took <= 5 * SECOND,
        "a look and the deadline, not {took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_link_that_outlives_a_sleep_is_asked_once() {
    let (role, mut peer) = memory::pair();
    let mut bed = Bed::run_with(role, || SLEPT.get());
    tokio::time::sleep(SECOND).await;
    sleep_of_the_machine(200 * SECOND);
    let start = Instant::now();
    let Frame::Ping(token) = receive(&mut peer).await else {
        panic!("a PING is due")
    };
    assert!(start.elapsed() <= 2 * SECOND);
    send(&mut peer, Frame::Pong(token)).await;
    let Frame::Ping(_) = receive(&mut peer).await else {
        panic!("a PING is due")
    };
    assert!(start.elapsed() >= 20 * SECOND, "the next heartbeat");
    bed.cancel.cancel();
    assert_eq!(peer.receive().await.unwrap(), None);
    assert!(matches!(bed.end().await, LinkEnd::Cancelled));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_reading_and_says_nothing_is_noticed_as_well() {
    let (role, mut peer) = memory::pair_holding(BULK);
    let mut bed = Bed::run(role);
    let (_lane, _heard) = bed.open(1, 1000);
    tokio::time::sleep(5 * SECOND).await;
    // What waits since the first second is stuck behind what the socket took before this.
    send(&mut peer, Frame::Pong(0)).await;
    let start = Instant::now();
    assert!(matches!(bed.end().await, LinkEnd::Silent(_)));
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn who_hears_something_and_has_nothing_to_say_speaks_after_two_seconds_and_once() {
    let (bed, mut peer) = Bed::with_peer();
    let (_lane, _heard) = bed.open(1, 0);
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
async fn parts_of_a_message_are_answered_and_keep_the_link() {
    let (mut bed, mut peer) = raw_peer();
    let (_lane, mut heard) = bed.open(1, 0);
    // DATA of 95 bytes for channel 1, masked with zeros, one byte every three seconds: five minutes of it.
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
    assert!(matches!(heard.recv().await, Some(Heard::Payload(payload)) if payload.len() == 95));
    assert!(bed.task.try_join_next().is_none());
    let pings = answers.len() / 11;
    assert!((95..=106).contains(&pings), "{pings} PINGs for 106 parts");
}

#[tokio::test(start_paused = true)]
async fn websocket_pings_and_pongs_keep_no_link_however_they_are_cut() {
    for piece in [1, 2, 131] {
        let (mut bed, mut peer) = raw_peer();
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
            end = bed.end() => assert!(matches!(end, LinkEnd::Silent(_))),
            () = proxy => unreachable!("it pings for ever"),
        }
        assert_eq!(start.elapsed().as_secs(), 30, "in pieces of {piece}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_path_with_megabytes_in_front_is_not_taken_for_a_dead_one() {
    for both in [false, true] {
        let mut path = SlowPath::new(20_000, 4 << 20);
        let (mut left, mut right) = path.ends();
        let (_from, _heard_from) = left.open(1, 64);
        let (to, _heard_to) = right.open(1, if both { 64 } else { 0 });
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
            "it is slow: {:?}",
            start.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_path_that_dies_is_noticed_by_both_ends() {
    let mut path = SlowPath::new(20_000, 4 << 20);
    let (mut left, mut right) = path.ends();
    let (_from, _heard_from) = left.open(1, 64);
    let (to, _heard) = right.open(1, 0);
    tokio::time::sleep(30 * SECOND).await;
    assert!(to.received.load(Ordering::Relaxed) > 0);
    path.dead.store(true, Ordering::Relaxed);
    let start = Instant::now();
    assert!(matches!(left.end().await, LinkEnd::Silent(_)));
    assert!(matches!(right.end().await, LinkEnd::Silent(_)));
    assert!(start.elapsed() <= 13 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn two_ends_at_rest_say_nothing_but_their_heartbeats() {
    let ((role, mut near), (mut far, master)) = (memory::pair(), memory::pair());
    let (left, right) = (Bed::run(role), Bed::run(master));
    let (lane, _one) = left.open(1, 0);
    let (_other, mut heard) = right.open(1, 0);
    let mut frames = Vec::new();
    let mut asked = false;
    let start = Instant::now();
    while start.elapsed() < 600 * SECOND {
        if !asked && start.elapsed() > 100 * SECOND {
            asked = true;
            lane.push(b"one word");
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
    assert_eq!(heard.recv().await, Some(Heard::Payload("one word".into())));
    let pings = frames
        .iter()
        .filter(|frame| matches!(frame, Frame::Ping(_)))
        .count();
    // Each end once in 20 s, and one of each end for the word.
    assert!((30..=62).contains(&pings), "{pings}: {frames:?}");
    assert!(frames.len() <= 2 * pings + 1, "{frames:?}");
}

#[tokio::test(start_paused = true)]
async fn pings_do_not_pile_up_for_a_peer_that_speaks_and_reads_nothing() {
    let (role, mut peer) = memory::pair_holding(1024);
    let mut bed = Bed::run(role);
    bed.open(1, 1000);
    for _ in 0..1000 {
        tokio::time::sleep(3 * SECOND).await;
        send(&mut peer, data(9, b"still here")).await;
    }
    assert!(bed.task.try_join_next().is_none());
    assert!(
        bed.outbox.control_waiting_bytes() < 200,
        "{} bytes",
        bed.outbox.control_waiting_bytes()
    );
}
