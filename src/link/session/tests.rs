//! Tests of a link over memory with a scripted peer. Time is paused: it only advances when every
//! task waits.

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
    link::channel::{Lane, Transmit},
    net::{memory, websocket::SocketEnd},
};
use report_proto::frame::{MAX_DATA, MAX_MESSAGE, Ports};

const BULK: usize = 64 * 1024;

/// A lane that records its calls and sends prepared payloads.
struct RecordingLane {
    events: mpsc::Sender<LaneEvent>,
    queue: Mutex<VecDeque<Bytes>>,
    /// The number of payloads of 64 KiB to send after the queue.
    bulk: AtomicUsize,
    received: AtomicUsize,
}

#[derive(Debug, PartialEq)]
enum LaneEvent {
    Payload(Bytes),
    Paused(bool),
    Closed(Notice),
}

impl RecordingLane {
    fn new(bulk: usize) -> (Arc<Self>, mpsc::Receiver<LaneEvent>) {
        let (sender, events) = mpsc::channel(1024);
        let lane = RecordingLane {
            events: sender,
            queue: Mutex::default(),
            bulk: AtomicUsize::new(bulk),
            received: AtomicUsize::new(0),
        };
        (Arc::new(lane), events)
    }

    fn push(&self, payload: &'static [u8]) {
        self.queue
            .lock()
            .unwrap()
            .push_back(Bytes::from_static(payload));
    }
}

impl Lane for RecordingLane {
    fn receive(&self, payload: BytesMut) -> Result<(), Notice> {
        let payload = payload.freeze();
        if payload == "bad"[..] {
            return Err(Notice::new(Code::Seal, "it does not open"));
        }
        self.received.fetch_add(payload.len(), Ordering::Relaxed);
        let _ = self.events.try_send(LaneEvent::Payload(payload));
        Ok(())
    }

    fn transmit(&self, memory: &mut BytesMut) -> Transmit {
        if let Some(payload) = self.queue.lock().unwrap().pop_front() {
            return Transmit::More(MessageBody::Shared(payload));
        }
        let left = self.bulk.load(Ordering::Relaxed);
        if left == 0 {
            return Transmit::Nothing;
        }
        self.bulk.store(left - 1, Ordering::Relaxed);
        memory.resize(BULK, 7);
        Transmit::More(MessageBody::Owned(memory.split()))
    }

    fn paused(&self, paused: bool) {
        self.events.try_send(LaneEvent::Paused(paused)).unwrap();
    }

    fn closed(&self, notice: Notice) {
        self.events.try_send(LaneEvent::Closed(notice)).unwrap();
    }
}

/// Forwards frames, and ends the link on UNREGISTER.
struct ForwardingHandler(mpsc::Sender<Frame>);

impl Handler for ForwardingHandler {
    fn on_frame(&mut self, frame: Frame) -> Result<(), Notice> {
        if matches!(frame, Frame::Unregister(_)) {
            return Err(Notice::new(Code::Protocol, "not from you"));
        }
        self.0.try_send(frame).unwrap();
        Ok(())
    }
}

/// A running link and its controls.
struct Fixture {
    outbox: Arc<Outbox>,
    cancel: CancellationToken,
    frames: mpsc::Receiver<Frame>,
    task: JoinSet<EndReason>,
}

impl Fixture {
    fn run(socket: MessageSocket) -> Self {
        Fixture::run_with(socket, || Duration::ZERO)
    }

    /// Runs a link on a machine with this total suspended time.
    fn run_with(socket: MessageSocket, suspended: fn() -> Duration) -> Self {
        let (outbox, cancel) = (Outbox::new(), CancellationToken::new());
        let (forward, frames) = mpsc::channel(64);
        let mut task = JoinSet::new();
        let link = Link {
            suspended,
            ..Link::new(socket, outbox.clone(), KeepAliveTiming::default())
        };
        let token = cancel.clone();
        task.spawn(async move {
            link.run(&mut ForwardingHandler(forward), token.cancelled())
                .await
                .reason
        });
        Fixture {
            outbox,
            cancel,
            frames,
            task,
        }
    }

    /// Runs a link and returns it with its peer's socket.
    fn with_peer() -> (Self, MessageSocket) {
        let (role, master) = memory::pair();
        (Fixture::run(role), master)
    }

    fn open(&self, channel: u32, bulk: usize) -> (Arc<RecordingLane>, mpsc::Receiver<LaneEvent>) {
        let (lane, events) = RecordingLane::new(bulk);
        self.outbox.open(channel, lane.clone()).unwrap();
        self.outbox.ready(channel);
        (lane, events)
    }

    async fn end(&mut self) -> EndReason {
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
async fn payloads_are_received_and_sent_by_lane() {
    let (fixture, mut peer) = Fixture::with_peer();
    let (one, mut events_one) = fixture.open(1, 0);
    let (_two, mut events_two) = fixture.open(2, 0);
    send(&mut peer, data(2, b"for two")).await;
    send(&mut peer, data(1, b"for one")).await;
    send(&mut peer, data(3, b"for no lane")).await;
    assert_eq!(
        events_two.recv().await,
        Some(LaneEvent::Payload("for two".into()))
    );
    assert_eq!(
        events_one.recv().await,
        Some(LaneEvent::Payload("for one".into()))
    );
    one.push(b"from one");
    fixture.outbox.ready(1);
    assert_eq!(receive(&mut peer).await, data(1, b"from one"));
}

#[tokio::test(start_paused = true)]
async fn handler_receives_frames_that_link_does_not_handle() {
    let (mut fixture, mut peer) = Fixture::with_peer();
    let registered = Frame::Registered(Ports { ports: vec![] });
    send(&mut peer, Frame::Extension(0x99)).await;
    send(&mut peer, Frame::Pong(4)).await;
    send(&mut peer, registered.clone()).await;
    assert_eq!(fixture.frames.recv().await, Some(registered));
}

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
async fn paused_channel_sends_nothing_until_resumed() {
    let (fixture, mut peer) = Fixture::with_peer();
    let (lane, mut events) = fixture.open(1, 0);
    send(&mut peer, Frame::Pause(1)).await;
    assert_eq!(events.recv().await, Some(LaneEvent::Paused(true)));
    lane.push(b"later");
    fixture.outbox.ready(1);
    let (other, _events) = fixture.open(2, 0);
    other.push(b"not held up");
    fixture.outbox.ready(2);
    assert_eq!(receive(&mut peer).await, data(2, b"not held up"));
    send(&mut peer, Frame::Resume(1)).await;
    assert_eq!(receive(&mut peer).await, data(1, b"later"));
    assert_eq!(events.recv().await, Some(LaneEvent::Paused(false)));
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
    let (lane, mut events) = fixture.open(1, 0);
    for _ in 0..100 {
        send(&mut peer, data(1, b"question")).await;
        assert_eq!(
            events.recv().await,
            Some(LaneEvent::Payload("question".into()))
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
        lane.push(b"answer");
        fixture.outbox.ready(1);
        assert_eq!(receive(&mut peer).await, data(1, b"answer"));
    }
}

#[tokio::test(start_paused = true)]
async fn silent_peer_ends_link_and_lanes() {
    let (mut fixture, _peer) = Fixture::with_peer();
    let (_lane, mut events) = fixture.open(1, 0);
    let start = Instant::now();
    assert!(matches!(fixture.end().await, EndReason::TimedOut(_)));
    assert_eq!(
        start.elapsed().as_secs(),
        30,
        "the PING interval and the answer timeout"
    );
    assert!(matches!(
        events.recv().await,
        Some(LaneEvent::Closed(Notice {
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

#[tokio::test(start_paused = true)]
async fn all_lanes_progress_in_both_directions_under_load() {
    let (role, master) = memory::pair();
    let (left, right) = (Fixture::run(role), Fixture::run(master));
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
async fn lane_that_rejects_payload_is_closed_alone() {
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
        Some(LaneEvent::Payload("good".into()))
    );
    assert!(
        events_one.try_recv().is_err(),
        "the lane that refuses gets no callback"
    );
    assert_eq!(Arc::strong_count(&one), 1, "the lane is dropped");
}

#[tokio::test(start_paused = true)]
async fn close_from_peer_ends_channel_without_answer() {
    let (fixture, mut peer) = Fixture::with_peer();
    let (_lane, mut events) = fixture.open(1, 0);
    let notice = Notice::new(Code::PeerLost, "gone");
    send(
        &mut peer,
        Frame::Close {
            channel: 1,
            notice: notice.clone(),
        },
    )
    .await;
    assert_eq!(events.recv().await, Some(LaneEvent::Closed(notice)));
    assert!(fixture.outbox.is_empty());
    send(&mut peer, Frame::Ping(1)).await;
    assert_eq!(receive(&mut peer).await, Frame::Pong(1));
}

#[tokio::test(start_paused = true)]
async fn drained_data_arrives_before_close() {
    let (role, mut peer) = memory::pair_with_capacity(BULK);
    let fixture = Fixture::run(role);
    let (_lane, _events) = fixture.open(1, 100);
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
async fn malformed_frames_end_link_with_protocol() {
    for message in [
        &b""[..],
        b"\x00",
        b"\x7f",
        b"\x08\x00",
        b"\x10\x00\x00\x00\x01",
        b"\x05{",
        b"\x01",
    ] {
        let (mut fixture, mut peer) = Fixture::with_peer();
        let (_lane, mut events) = fixture.open(1, 0);
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
        assert!(matches!(
            fixture.end().await,
            EndReason::ProtocolViolation(_)
        ));
        assert!(matches!(
            events.recv().await,
            Some(LaneEvent::Closed(Notice {
                code: Code::Protocol,
                ..
            }))
        ));
    }
}

/// Runs a link whose peer can violate the WebSocket protocol.
fn raw_peer() -> (Fixture, DuplexStream) {
    let (role, master) = duplex(BULK);
    (
        Fixture::run(MessageSocket::new(
            master,
            Bytes::new(),
            SocketEnd::Accepted,
        )),
        role,
    )
}

#[tokio::test(start_paused = true)]
async fn text_and_oversized_messages_end_link_with_protocol() {
    let oversized = tungstenite::Message::binary(vec![0x10; MAX_MESSAGE + 1]);
    for message in [tungstenite::Message::text("hello"), oversized] {
        let (mut fixture, stream) = raw_peer();
        let mut peer = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
        // The link does not read the rest of an oversized message.
        let _ = tokio::time::timeout(Duration::from_secs(1), peer.send(message)).await;
        let EndReason::ProtocolViolation(notice) = fixture.end().await else {
            panic!("the peer broke the protocol")
        };
        assert_eq!(notice.code, Code::Protocol);
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_other_than_websocket_end_link_with_protocol() {
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n"[..],
        &[0x82, 0x01, 0x08],
        &[0xff; 64],
        &[0xc2, 0x80, 0, 0, 0, 0],
    ] {
        let (mut fixture, mut peer) = raw_peer();
        peer.write_all(garbage).await.unwrap();
        assert!(
            matches!(
                fixture.end().await,
                EndReason::ProtocolViolation(Notice {
                    code: Code::Protocol,
                    ..
                })
            ),
            "{garbage:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn largest_message_is_delivered() {
    let (fixture, mut peer) = Fixture::with_peer();
    let (_lane, mut events) = fixture.open(1, 0);
    send(
        &mut peer,
        Frame::Data {
            channel: 1,
            payload: vec![3; MAX_DATA].into(),
        },
    )
    .await;
    assert!(
        matches!(events.recv().await, Some(LaneEvent::Payload(payload)) if payload.len() == MAX_DATA)
    );
}

#[tokio::test(start_paused = true)]
async fn websocket_pongs_do_not_pile_up_for_peer_that_does_not_read() {
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
    // The keep-alive's PING follows all of them.
    let held = pongs.await * 127;
    assert!(held < 2 * BULK + 3 * MAX_MESSAGE, "{held} bytes");
}

#[tokio::test(start_paused = true)]
async fn cut_connection_ends_link_and_lanes() {
    let (mut fixture, peer) = Fixture::with_peer();
    let (_lane, mut events) = fixture.open(1, 0);
    drop(peer);
    assert!(matches!(
        fixture.end().await,
        EndReason::ConnectionLost(SocketError::Cut)
    ));
    assert!(matches!(
        events.recv().await,
        Some(LaneEvent::Closed(Notice {
            code: Code::PeerLost,
            ..
        }))
    ));
}

#[tokio::test(start_paused = true)]
async fn truncated_message_never_reaches_lane() {
    let (mut fixture, mut peer) = raw_peer();
    let (_lane, mut events) = fixture.open(1, 0);
    // A header that announces 100 bytes, and 8 of them.
    peer.write_all(&[0x82, 0x80 | 100, 0, 0, 0, 0, 0x10, 0, 0, 0, 1, 1, 1, 1])
        .await
        .unwrap();
    drop(peer);
    assert!(matches!(
        fixture.end().await,
        EndReason::ConnectionLost(SocketError::Cut)
    ));
    assert!(matches!(events.recv().await, Some(LaneEvent::Closed(_))));
}

#[tokio::test(start_paused = true)]
async fn graceful_close_from_peer_is_answered() {
    let (mut fixture, peer) = Fixture::with_peer();
    let start = Instant::now();
    peer.close(Duration::from_secs(60)).await;
    assert!(matches!(fixture.end().await, EndReason::PeerClosed));
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn requested_end_sends_error_to_peer() {
    let (mut fixture, mut peer) = Fixture::with_peer();
    let notice = Notice::new(Code::Superseded, "a newer link took over");
    fixture.outbox.control(&Frame::GoAway(notice.clone()));
    fixture.outbox.end(notice.clone());
    assert_eq!(receive(&mut peer).await, Frame::GoAway(notice.clone()));
    assert_eq!(receive(&mut peer).await, Frame::Error(notice.clone()));
    assert_eq!(peer.receive().await.unwrap(), None);
    drop(peer);
    assert!(matches!(fixture.end().await, EndReason::Requested(received) if received == notice));
}

#[tokio::test(start_paused = true)]
async fn error_from_peer_ends_link() {
    let (mut fixture, mut peer) = Fixture::with_peer();
    let notice = Notice::new(Code::Limit, "too many");
    send(&mut peer, Frame::Error(notice.clone())).await;
    assert_eq!(peer.receive().await.unwrap(), None);
    assert!(matches!(fixture.end().await, EndReason::PeerError(received) if received == notice));
}

#[tokio::test(start_paused = true)]
async fn handler_that_refuses_frame_ends_link() {
    let (mut fixture, mut peer) = Fixture::with_peer();
    send(&mut peer, Frame::Unregister(Ports { ports: vec![] })).await;
    assert_eq!(
        receive(&mut peer).await,
        Frame::Error(Notice::new(Code::Protocol, "not from you"))
    );
    drop(peer);
    assert!(matches!(fixture.end().await, EndReason::Requested(_)));
}

#[tokio::test(start_paused = true)]
async fn cancelled_link_sends_control_frames_and_closes_gracefully() {
    let (mut fixture, mut peer) = Fixture::with_peer();
    let (_lane, mut events) = fixture.open(1, 0);
    fixture.outbox.control(&Frame::Pause(1));
    fixture.outbox.control(&Frame::Close {
        channel: 3,
        notice: Notice::new(Code::Shutdown, ""),
    });
    fixture.cancel.cancel();
    assert_eq!(receive(&mut peer).await, Frame::Pause(1));
    assert!(matches!(
        receive(&mut peer).await,
        Frame::Close { channel: 3, .. }
    ));
    assert_eq!(peer.receive().await.unwrap(), None);
    drop(peer);
    assert!(matches!(fixture.end().await, EndReason::Cancelled));
    assert!(matches!(
        events.recv().await,
        Some(LaneEvent::Closed(Notice {
            code: Code::Shutdown,
            ..
        }))
    ));
}

#[tokio::test(start_paused = true)]
async fn peer_that_does_not_read_does_not_delay_end() {
    let (role, _peer) = memory::pair_with_capacity(1024);
    let mut fixture = Fixture::run(role);
    let (_lane, mut events) = fixture.open(1, 100);
    tokio::task::yield_now().await;
    let start = Instant::now();
    fixture.cancel.cancel();
    assert!(matches!(events.recv().await, Some(LaneEvent::Closed(_))));
    assert_eq!(
        start.elapsed(),
        Duration::ZERO,
        "the lanes are closed at once"
    );
    assert!(matches!(fixture.end().await, EndReason::Cancelled));
    assert!(
        start.elapsed() <= CLOSE_DEADLINE + Duration::from_millis(10),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn dropped_link_closes_its_lanes() {
    let (mut fixture, _peer) = Fixture::with_peer();
    let (_lane, mut events) = fixture.open(1, 0);
    tokio::task::yield_now().await;
    fixture.task.abort_all();
    assert!(matches!(
        events.recv().await,
        Some(LaneEvent::Closed(Notice {
            code: Code::PeerLost,
            ..
        }))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ready_marks_from_other_threads_are_not_lost() {
    let (role, master) = memory::pair_with_capacity(BULK);
    let (left, right) = (Fixture::run(role), Fixture::run(master));
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
        .expect("all data arrives without another mark");
}

#[tokio::test]
async fn idle_link_future_is_small() {
    let (role, _master) = memory::pair();
    let (forward, _frames) = mpsc::channel(1);
    let (mut handler, cancel) = (ForwardingHandler(forward), CancellationToken::new());
    let run = Link::new(role, Outbox::new(), KeepAliveTiming::default())
        .run(&mut handler, cancel.cancelled());
    assert!(
        size_of_val(&run) <= 1024,
        "a future of {} bytes per link",
        size_of_val(&run)
    );
}

/// A handler that answers each frame with a frame.
struct AnsweringHandler(Arc<Outbox>, Arc<AtomicUsize>);

impl Handler for AnsweringHandler {
    fn on_frame(&mut self, _: Frame) -> Result<(), Notice> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.control(&Frame::Registered(Ports { ports: vec![] }));
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn peer_that_does_not_read_is_not_read_until_it_does() {
    let (mut peer, master) = memory::pair_with_capacity(8 * 1024);
    let (outbox, handled) = (Outbox::new(), Arc::new(AtomicUsize::new(0)));
    let mut task = JoinSet::new();
    let link = Link::new(master, outbox.clone(), KeepAliveTiming::default());
    let mut handler = AnsweringHandler(outbox.clone(), handled.clone());
    task.spawn(async move { link.run(&mut handler, std::future::pending()).await.reason });
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
        outbox.queued_control_bytes() <= 32 * 1024,
        "{} bytes are queued",
        outbox.queued_control_bytes()
    );
    let before = handled.load(Ordering::Relaxed);
    // The peer reads, so the link continues.
    let reading = async {
        while handled.load(Ordering::Relaxed) == before || outbox.queued_control_bytes() > 0 {
            receive(&mut peer).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3), reading)
        .await
        .expect("the link reads again");
    // The peer stops reading again but still sends: the timeout ends the link.
    let flood =
        async { while peer.feed(message.clone()).await.is_ok() && peer.flush().await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(60), flood)
        .await
        .expect("the link has ended");
    assert!(matches!(
        task.join_next().await,
        Some(Ok(EndReason::TimedOut(_)))
    ));
}

#[tokio::test(start_paused = true)]
async fn message_that_never_completes_ends_link_of_master() {
    let (mut stream, accepted) = duplex(BULK);
    let socket = MessageSocket::new(accepted, Bytes::new(), SocketEnd::Accepted);
    let mut fixture = Fixture::run(socket);
    let start = Instant::now();
    // A frame of 128 KiB, masked with zeros, of which a byte arrives every nine seconds.
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
    let end = tokio::select! { end = fixture.end() => end, () = dripping => panic!("the link ends first") };
    assert!(
        matches!(
            end,
            EndReason::Requested(Notice {
                code: Code::Timeout,
                ..
            })
        ),
        "{end}"
    );
    let seconds = start.elapsed().as_secs();
    assert!((120..=145).contains(&seconds), "{seconds} s");
}
