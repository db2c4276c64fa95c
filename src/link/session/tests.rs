//! A link over memory, with a peer that does what the test says. Time is paused: it passes only when nothing else can happen.

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
    task::JoinSet,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, protocol::Role},
};
use tokio_util::sync::CancellationToken;

mod silence;

use super::*;
use crate::{
    frame::{MAX_DATA, MAX_MESSAGE, Ports},
    link::{
        channel::{Lane, Transmit},
        memory,
        websocket::End,
    },
};

const BULK: usize = 64 * 1024;

/// A lane that tells what it hears, and sends a number of payloads.
struct Told {
    heard: mpsc::Sender<Heard>,
    queue: Mutex<VecDeque<Bytes>>,
    /// Payloads of 64 KiB that follow.
    bulk: AtomicUsize,
    received: AtomicUsize,
}

#[derive(Debug, PartialEq)]
enum Heard {
    Payload(Bytes),
    Paused(bool),
    Closed(Notice),
}

impl Told {
    fn new(bulk: usize) -> (Arc<Self>, mpsc::Receiver<Heard>) {
        let (heard, told) = mpsc::channel(1024);
        let lane = Told {
            heard,
            queue: Mutex::default(),
            bulk: AtomicUsize::new(bulk),
            received: AtomicUsize::new(0),
        };
        (Arc::new(lane), told)
    }

    fn push(&self, payload: &'static [u8]) {
        self.queue
            .lock()
            .unwrap()
            .push_back(Bytes::from_static(payload));
    }
}

impl Lane for Told {
    fn receive(&self, payload: BytesMut) -> Result<(), Notice> {
        let payload = payload.freeze();
        if payload == "bad"[..] {
            return Err(Notice::new(Code::Seal, "it does not open"));
        }
        self.received.fetch_add(payload.len(), Ordering::Relaxed);
        let _ = self.heard.try_send(Heard::Payload(payload));
        Ok(())
    }

    fn transmit(&self, memory: &mut BytesMut) -> Transmit {
        if let Some(payload) = self.queue.lock().unwrap().pop_front() {
            return Transmit::More(Body::Shared(payload));
        }
        let left = self.bulk.load(Ordering::Relaxed);
        if left == 0 {
            return Transmit::Nothing;
        }
        self.bulk.store(left - 1, Ordering::Relaxed);
        memory.resize(BULK, 7);
        Transmit::More(Body::Own(memory.split()))
    }

    fn paused(&self, paused: bool) {
        self.heard.try_send(Heard::Paused(paused)).unwrap();
    }

    fn closed(&self, notice: Notice) {
        self.heard.try_send(Heard::Closed(notice)).unwrap();
    }
}

/// Passes frames on, and ends the link at an UNREGISTER.
struct Forward(mpsc::Sender<Frame>);

impl Handler for Forward {
    fn frame(&mut self, frame: Frame) -> Result<(), Notice> {
        if matches!(frame, Frame::Unregister(_)) {
            return Err(Notice::new(Code::Protocol, "not from you"));
        }
        self.0.try_send(frame).unwrap();
        Ok(())
    }
}

/// A link that runs, and how to get at it.
struct Bed {
    outbox: Arc<Outbox>,
    cancel: CancellationToken,
    frames: mpsc::Receiver<Frame>,
    task: JoinSet<LinkEnd>,
}

impl Bed {
    fn run(socket: MessageSocket) -> Self {
        Bed::run_with(socket, || Duration::ZERO)
    }

    /// The same on a machine that has been suspended for so long.
    fn run_with(socket: MessageSocket, suspended: fn() -> Duration) -> Self {
        let (outbox, cancel) = (Outbox::new(), CancellationToken::new());
        let (forward, frames) = mpsc::channel(64);
        let mut task = JoinSet::new();
        let link = Link {
            suspended,
            ..Link::new(socket, outbox.clone(), Timing::default())
        };
        let token = cancel.clone();
        task.spawn(async move { link.run(&mut Forward(forward), token.cancelled()).await.why });
        Bed {
            outbox,
            cancel,
            frames,
            task,
        }
    }

    /// A link and its peer's socket.
    fn with_peer() -> (Self, MessageSocket) {
        let (role, master) = memory::pair();
        (Bed::run(role), master)
    }

    fn open(&self, channel: u32, bulk: usize) -> (Arc<Told>, mpsc::Receiver<Heard>) {
        let (lane, heard) = Told::new(bulk);
        self.outbox.open(channel, lane.clone()).unwrap();
        self.outbox.ready(channel);
        (lane, heard)
    }

    async fn end(&mut self) -> LinkEnd {
        self.task.join_next().await.unwrap().unwrap()
    }
}

async fn send(peer: &mut MessageSocket, frame: Frame) {
    peer.feed(frame.to_message()).await.unwrap();
    peer.flush().await.unwrap();
}

async fn receive(peer: &mut MessageSocket) -> Frame {
    Frame::decode(
        peer.receive()
            .await
            .unwrap()
            .expect("the link is up")
            .freeze(),
    )
    .unwrap()
}

fn data(channel: u32, payload: &'static [u8]) -> Frame {
    Frame::Data {
        channel,
        payload: Bytes::from_static(payload),
    }
}

#[tokio::test(start_paused = true)]
async fn payloads_reach_their_lane_and_leave_from_it() {
    let (bed, mut peer) = Bed::with_peer();
    let (one, mut heard_one) = bed.open(1, 0);
    let (_two, mut heard_two) = bed.open(2, 0);
    send(&mut peer, data(2, b"for two")).await;
    send(&mut peer, data(1, b"for one")).await;
    send(&mut peer, data(3, b"for nobody")).await;
    assert_eq!(
        heard_two.recv().await,
        Some(Heard::Payload("for two".into()))
    );
    assert_eq!(
        heard_one.recv().await,
        Some(Heard::Payload("for one".into()))
    );
    one.push(b"from one");
    bed.outbox.ready(1);
    assert_eq!(receive(&mut peer).await, data(1, b"from one"));
}

#[tokio::test(start_paused = true)]
async fn frames_that_are_not_the_links_own_go_to_the_handler() {
    let (mut bed, mut peer) = Bed::with_peer();
    let registered = Frame::Registered(Ports { ports: vec![] });
    send(&mut peer, Frame::Extension(0x99)).await;
    send(&mut peer, Frame::Pong(4)).await;
    send(&mut peer, registered.clone()).await;
    assert_eq!(bed.frames.recv().await, Some(registered));
}

#[tokio::test(start_paused = true)]
async fn a_pong_waits_for_no_more_than_what_has_left_already() {
    let (role, mut peer) = memory::pair_holding(BULK);
    let bed = Bed::run(role);
    bed.open(1, 1000);
    receive(&mut peer).await;
    send(&mut peer, Frame::Ping(5)).await;
    let mut before = 0;
    while receive(&mut peer).await != Frame::Pong(5) {
        before += 1;
    }
    // One message in the pipe, one in the socket, and those that were read before the ping arrived.
    assert!(before <= 4, "{before} messages of 64 KiB before the PONG");
}

#[tokio::test(start_paused = true)]
async fn a_paused_channel_sends_nothing_until_it_is_resumed() {
    let (bed, mut peer) = Bed::with_peer();
    let (lane, mut heard) = bed.open(1, 0);
    send(&mut peer, Frame::Pause(1)).await;
    assert_eq!(heard.recv().await, Some(Heard::Paused(true)));
    lane.push(b"later");
    bed.outbox.ready(1);
    let (other, _told) = bed.open(2, 0);
    other.push(b"not held up");
    bed.outbox.ready(2);
    assert_eq!(receive(&mut peer).await, data(2, b"not held up"));
    send(&mut peer, Frame::Resume(1)).await;
    assert_eq!(receive(&mut peer).await, data(1, b"later"));
    assert_eq!(heard.recv().await, Some(Heard::Paused(false)));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_link_pings_and_a_peer_that_answers_keeps_it() {
    let (mut bed, mut peer) = Bed::with_peer();
    let start = Instant::now();
    for beat in 1..=10 {
        let Frame::Ping(token) = receive(&mut peer).await else {
            panic!("a PING is due")
        };
        assert_eq!(start.elapsed().as_secs(), 20 * beat);
        send(&mut peer, Frame::Pong(token)).await;
    }
    bed.cancel.cancel();
    assert_eq!(peer.receive().await.unwrap(), None);
    assert!(matches!(bed.end().await, LinkEnd::Cancelled));
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_talked_over_does_not_ping_as_well() {
    let (bed, mut peer) = Bed::with_peer();
    let (lane, mut heard) = bed.open(1, 0);
    for _ in 0..100 {
        send(&mut peer, data(1, b"question")).await;
        assert_eq!(heard.recv().await, Some(Heard::Payload("question".into())));
        tokio::time::sleep(Duration::from_secs(1)).await;
        lane.push(b"answer");
        bed.outbox.ready(1);
        assert_eq!(receive(&mut peer).await, data(1, b"answer"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_ends_the_link_and_its_lanes() {
    let (mut bed, _peer) = Bed::with_peer();
    let (_lane, mut heard) = bed.open(1, 0);
    let start = Instant::now();
    assert!(matches!(bed.end().await, LinkEnd::Silent(_)));
    assert_eq!(
        start.elapsed().as_secs(),
        30,
        "a PING, and the time to answer it"
    );
    assert!(matches!(
        heard.recv().await,
        Some(Heard::Closed(Notice {
            code: Code::Timeout,
            ..
        }))
    ));
    assert_eq!(
        bed.outbox.ended().map(|notice| notice.code),
        Some(Code::Timeout)
    );
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_but_is_heard_of_is_not_silent() {
    let (role, mut peer) = memory::pair_holding(BULK);
    let mut bed = Bed::run(role);
    bed.open(1, 1000);
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(9)).await;
        send(&mut peer, data(9, b"still here")).await;
    }
    assert!(bed.task.try_join_next().is_none());
}

#[tokio::test(start_paused = true)]
async fn both_directions_and_all_lanes_move_while_all_are_full() {
    let (role, master) = memory::pair();
    let (left, right) = (Bed::run(role), Bed::run(master));
    let lanes: Vec<_> = (1..=4)
        .map(|channel| (left.open(channel, 5000).0, right.open(channel, 5000).0))
        .collect();
    let received = || {
        lanes
            .iter()
            .flat_map(|(a, b)| [a, b])
            .map(|lane| lane.received.load(Ordering::Relaxed))
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
async fn a_lane_that_cannot_take_a_payload_is_closed_alone() {
    let (bed, mut peer) = Bed::with_peer();
    let (one, mut heard_one) = bed.open(1, 0);
    let (_two, mut heard_two) = bed.open(2, 0);
    send(&mut peer, data(1, b"bad")).await;
    assert_eq!(
        receive(&mut peer).await,
        Frame::Close {
            channel: 1,
            notice: Notice::new(Code::Seal, "it does not open")
        }
    );
    send(&mut peer, data(2, b"good")).await;
    assert_eq!(heard_two.recv().await, Some(Heard::Payload("good".into())));
    assert!(heard_one.try_recv().is_err(), "whoever refuses is not told");
    assert_eq!(Arc::strong_count(&one), 1, "the lane is let go");
}

#[tokio::test(start_paused = true)]
async fn a_close_from_the_peer_ends_the_channel_without_an_answer() {
    let (bed, mut peer) = Bed::with_peer();
    let (_lane, mut heard) = bed.open(1, 0);
    let notice = Notice::new(Code::PeerLost, "gone");
    send(
        &mut peer,
        Frame::Close {
            channel: 1,
            notice: notice.clone(),
        },
    )
    .await;
    assert_eq!(heard.recv().await, Some(Heard::Closed(notice)));
    assert!(bed.outbox.is_empty());
    send(&mut peer, Frame::Ping(1)).await;
    assert_eq!(receive(&mut peer).await, Frame::Pong(1));
}

#[tokio::test(start_paused = true)]
async fn what_was_left_arrives_before_the_close_that_waited_for_it() {
    let (role, mut peer) = memory::pair_holding(BULK);
    let bed = Bed::run(role);
    let (_lane, _heard) = bed.open(1, 100);
    let notice = Notice::new(Code::PeerLost, "");
    bed.outbox.close_after_drain(1, &notice);
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
async fn messages_that_are_no_frames_end_the_link_with_protocol() {
    for message in [
        &b""[..],
        b"\x00",
        b"\x7f",
        b"\x08\x00",
        b"\x10\x00\x00\x00\x01",
        b"\x05{",
        b"\x01",
    ] {
        let (mut bed, mut peer) = Bed::with_peer();
        let (_lane, mut heard) = bed.open(1, 0);
        peer.feed(Bytes::from_static(message)).await.unwrap();
        peer.flush().await.unwrap();
        assert!(
            matches!(
                receive(&mut peer).await,
                Frame::Error(Notice {
                    code: Code::Protocol,
                    ..
                })
            ),
            "{message:?}"
        );
        assert_eq!(peer.receive().await.unwrap(), None);
        assert!(matches!(bed.end().await, LinkEnd::Violated(_)));
        assert!(matches!(
            heard.recv().await,
            Some(Heard::Closed(Notice {
                code: Code::Protocol,
                ..
            }))
        ));
    }
}

/// A link whose peer can break the rules of the WebSocket.
fn raw_peer() -> (Bed, DuplexStream) {
    let (role, master) = duplex(BULK);
    (
        Bed::run(MessageSocket::new(master, Bytes::new(), End::Accepted)),
        role,
    )
}

#[tokio::test(start_paused = true)]
async fn text_and_oversized_messages_end_the_link_with_protocol() {
    let oversized = tungstenite::Message::binary(vec![0x10; MAX_MESSAGE + 1]);
    for message in [tungstenite::Message::text("hello"), oversized] {
        let (mut bed, stream) = raw_peer();
        let mut peer = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
        // The rest of an oversized message has nobody to read it.
        let _ = tokio::time::timeout(Duration::from_secs(1), peer.send(message)).await;
        let LinkEnd::Violated(notice) = bed.end().await else {
            panic!("the peer broke the protocol")
        };
        assert_eq!(notice.code, Code::Protocol);
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_no_websocket_end_the_link_with_protocol() {
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n"[..],
        &[0x82, 0x01, 0x08],
        &[0xff; 64],
        &[0xc2, 0x80, 0, 0, 0, 0],
    ] {
        let (mut bed, mut peer) = raw_peer();
        peer.write_all(garbage).await.unwrap();
        assert!(
            matches!(
                bed.end().await,
                LinkEnd::Violated(Notice {
                    code: Code::Protocol,
                    ..
                })
            ),
            "{garbage:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_largest_message_passes() {
    let (bed, mut peer) = Bed::with_peer();
    let (_lane, mut heard) = bed.open(1, 0);
    send(
        &mut peer,
        Frame::Data {
            channel: 1,
            payload: vec![3; MAX_DATA].into(),
        },
    )
    .await;
    assert!(
        matches!(heard.recv().await, Some(Heard::Payload(payload)) if payload.len() == MAX_DATA)
    );
}

#[tokio::test(start_paused = true)]
async fn answers_to_websocket_pings_do_not_pile_up_for_a_peer_that_reads_nothing() {
    let (_bed, stream) = raw_peer();
    let config = tungstenite::protocol::WebSocketConfig::default().write_buffer_size(0);
    let mut peer = WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await;
    for _ in 0..10_000 {
        peer.send(tungstenite::Message::Ping(vec![1; 125].into()))
            .await
            .unwrap();
    }
    let pongs = async {
        let mut pongs = 0;
        while let Some(Ok(message)) = peer.next().await {
            pongs += usize::from(message.is_pong());
            if message.is_binary() {
                break;
            }
        }
        pongs
    };
    // The heartbeat's PING comes behind them all.
    let held = pongs.await * 127;
    assert!(held < 2 * BULK + 3 * MAX_MESSAGE, "{held} bytes");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_cut_ends_the_link_and_its_lanes() {
    let (mut bed, peer) = Bed::with_peer();
    let (_lane, mut heard) = bed.open(1, 0);
    drop(peer);
    assert!(matches!(bed.end().await, LinkEnd::Lost(SocketError::Cut)));
    assert!(matches!(
        heard.recv().await,
        Some(Heard::Closed(Notice {
            code: Code::PeerLost,
            ..
        }))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_cut_short_never_reaches_a_lane() {
    let (mut bed, mut peer) = raw_peer();
    let (_lane, mut heard) = bed.open(1, 0);
    // A header that announces 100 bytes, and 8 of them.
    peer.write_all(&[0x82, 0x80 | 100, 0, 0, 0, 0, 0x10, 0, 0, 0, 1, 1, 1, 1])
        .await
        .unwrap();
    drop(peer);
    assert!(matches!(bed.end().await, LinkEnd::Lost(SocketError::Cut)));
    assert!(matches!(heard.recv().await, Some(Heard::Closed(_))));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_closes_in_order_is_answered_in_order() {
    let (mut bed, peer) = Bed::with_peer();
    let start = Instant::now();
    peer.close(Duration::from_secs(60)).await;
    assert!(matches!(bed.end().await, LinkEnd::PeerClosed));
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_for_the_end_has_the_peer_told_why() {
    let (mut bed, mut peer) = Bed::with_peer();
    let notice = Notice::new(Code::Superseded, "a newer link took over");
    bed.outbox.control(&Frame::GoAway(notice.clone()));
    bed.outbox.end(notice.clone());
    assert_eq!(receive(&mut peer).await, Frame::GoAway(notice.clone()));
    assert_eq!(receive(&mut peer).await, Frame::Error(notice.clone()));
    assert_eq!(peer.receive().await.unwrap(), None);
    drop(peer);
    assert!(matches!(bed.end().await, LinkEnd::Asked(said) if said == notice));
}

#[tokio::test(start_paused = true)]
async fn an_error_from_the_peer_ends_the_link_with_it() {
    let (mut bed, mut peer) = Bed::with_peer();
    let notice = Notice::new(Code::Limit, "too many");
    send(&mut peer, Frame::Error(notice.clone())).await;
    assert_eq!(peer.receive().await.unwrap(), None);
    assert!(matches!(bed.end().await, LinkEnd::PeerError(said) if said == notice));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_refuses_a_frame_ends_the_link() {
    let (mut bed, mut peer) = Bed::with_peer();
    send(&mut peer, Frame::Unregister(Ports { ports: vec![] })).await;
    assert_eq!(
        receive(&mut peer).await,
        Frame::Error(Notice::new(Code::Protocol, "not from you"))
    );
    drop(peer);
    assert!(matches!(bed.end().await, LinkEnd::Asked(_)));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_link_sends_its_control_frames_and_closes_in_order() {
    let (mut bed, mut peer) = Bed::with_peer();
    let (_lane, mut heard) = bed.open(1, 0);
    bed.outbox.control(&Frame::Pause(1));
    bed.outbox.control(&Frame::Close {
        channel: 3,
        notice: Notice::new(Code::Shutdown, ""),
    });
    bed.cancel.cancel();
    assert_eq!(receive(&mut peer).await, Frame::Pause(1));
    assert!(matches!(
        receive(&mut peer).await,
        Frame::Close { channel: 3, .. }
    ));
    assert_eq!(peer.receive().await.unwrap(), None);
    drop(peer);
    assert!(matches!(bed.end().await, LinkEnd::Cancelled));
    assert!(matches!(
        heard.recv().await,
        Some(Heard::Closed(Notice {
            code: Code::Shutdown,
            ..
        }))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_nothing_does_not_hold_up_the_end() {
    let (role, _peer) = memory::pair_holding(1024);
    let mut bed = Bed::run(role);
    let (_lane, mut heard) = bed.open(1, 100);
    tokio::task::yield_now().await;
    let start = Instant::now();
    bed.cancel.cancel();
    assert!(matches!(heard.recv().await, Some(Heard::Closed(_))));
    assert_eq!(
        start.elapsed(),
        Duration::ZERO,
        "the lanes are told at once"
    );
    assert!(matches!(bed.end().await, LinkEnd::Cancelled));
    assert!(
        start.elapsed() <= CLOSE_DEADLINE + Duration::from_millis(10),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_dropped_closes_its_lanes() {
    let (mut bed, _peer) = Bed::with_peer();
    let (_lane, mut heard) = bed.open(1, 0);
    tokio::task::yield_now().await;
    bed.task.abort_all();
    assert!(matches!(
        heard.recv().await,
        Some(Heard::Closed(Notice {
            code: Code::PeerLost,
            ..
        }))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_mark_from_another_thread_is_lost() {
    let (role, master) = memory::pair_holding(BULK);
    let (left, right) = (Bed::run(role), Bed::run(master));
    let mut producers = JoinSet::new();
    let mut lanes = Vec::new();
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
        lanes.push(receiving);
    }
    producers.join_all().await;
    let arrived = async {
        while lanes
            .iter()
            .any(|lane| lane.received.load(Ordering::Relaxed) < 50_000)
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), arrived)
        .await
        .expect("all of it arrives without another mark");
}

#[tokio::test]
async fn a_link_at_rest_is_small() {
    let (role, _master) = memory::pair();
    let (forward, _frames) = mpsc::channel(1);
    let (mut handler, cancel) = (Forward(forward), CancellationToken::new());
    let run =
        Link::new(role, Outbox::new(), Timing::default()).run(&mut handler, cancel.cancelled());
    assert!(
        size_of_val(&run) <= 1024,
        "{} bytes of future for each link",
        size_of_val(&run)
    );
}

/// A handler that answers each frame with another.
struct Answering(Arc<Outbox>, Arc<AtomicUsize>);

impl Handler for Answering {
    fn frame(&mut self, _: Frame) -> Result<(), Notice> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.control(&Frame::Registered(Ports { ports: vec![] }));
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_from_a_peer_that_does_not_read_until_it_does() {
    let (mut peer, master) = memory::pair_holding(8 * 1024);
    let (outbox, handled) = (Outbox::new(), Arc::new(AtomicUsize::new(0)));
    let mut task = JoinSet::new();
    let link = Link::new(master, outbox.clone(), Timing::default());
    let mut handler = Answering(outbox.clone(), handled.clone());
    task.spawn(async move { link.run(&mut handler, std::future::pending()).await.why });
    let message = Frame::Register(Ports { ports: vec![] }).to_message();
    let flood = async {
        loop {
            peer.feed(message.clone()).await.unwrap();
            peer.flush().await.unwrap();
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(3), flood)
            .await
            .is_err()
    );
    assert!(
        outbox.control_waiting_bytes() <= 32 * 1024,
        "{} bytes wait",
        outbox.control_waiting_bytes()
    );
    let before = handled.load(Ordering::Relaxed);
    // The peer reads: the link goes on.
    let reading = async {
        while handled.load(Ordering::Relaxed) == before || outbox.control_waiting_bytes() > 0 {
            receive(&mut peer).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3), reading)
        .await
        .expect("the link reads again");
    // It does not read again, and sends: the deadline ends the link.
    let flood =
        async { while peer.feed(message.clone()).await.is_ok() && peer.flush().await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(60), flood)
        .await
        .expect("the link has ended");
    assert!(matches!(
        task.join_next().await,
        Some(Ok(LinkEnd::Silent(_)))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_never_complete_ends_the_link_of_a_master() {
    let (mut stream, accepted) = duplex(BULK);
    let socket = MessageSocket::new(accepted, Bytes::new(), End::Accepted);
    let mut bed = Bed::run(socket);
    let start = Instant::now();
    // A frame of 128 KiB, masked with zeros, of which a byte comes now and then.
    stream
        .write_all(&[0x82, 0xff, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    stream.write_all(&[0x10; 8 * 1024]).await.unwrap();
    let dripping = async {
        while stream.write_all(&[0x10]).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(9)).await;
        }
    };
    let end =
        tokio::select! { end = bed.end() => end, () = dripping => panic!("the link ends first") };
    assert!(
        matches!(
            end,
            LinkEnd::Asked(Notice {
                code: Code::Timeout,
                ..
            })
        ),
        "{end}"
    );
    let seconds = start.elapsed().as_secs();
    assert!((120..=145).contains(&seconds), "{seconds} s");
}
