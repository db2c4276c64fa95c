//! Tests of a link over memory with a scripted peer. Time is paused: it only advances when every
//! task waits.

mod bad_peers;
mod channels;
mod end;
mod keep_alive;
mod silence;

use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
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

use super::*;
use crate::{
    link::channel::{ChannelEnd, Transmit},
    net::{
        memory,
        websocket::{MessageBody, SocketEnd},
    },
};
use report_proto::frame::{MAX_DATA, MAX_MESSAGE, Ports, Registered};

const BULK: usize = 64 * 1024;

/// A channel end that records its calls and sends prepared payloads.
struct RecordingEnd {
    events: mpsc::Sender<ChannelEvent>,
    queue: Mutex<VecDeque<Bytes>>,
    /// The number of payloads of 64 KiB to send after the queue.
    bulk: AtomicUsize,
    received: AtomicUsize,
}

#[derive(Debug, PartialEq)]
enum ChannelEvent {
    Payload(Bytes),
    Paused(bool),
    Closed(Notice),
}

impl RecordingEnd {
    fn new(bulk: usize) -> (Arc<Self>, mpsc::Receiver<ChannelEvent>) {
        let (sender, events) = mpsc::channel(1024);
        let channel_end = RecordingEnd {
            events: sender,
            queue: Mutex::default(),
            bulk: AtomicUsize::new(bulk),
            received: AtomicUsize::new(0),
        };
        (Arc::new(channel_end), events)
    }

    fn push(&self, payload: &'static [u8]) {
        self.queue
            .lock()
            .unwrap()
            .push_back(Bytes::from_static(payload));
    }
}

impl ChannelEnd for RecordingEnd {
    fn receive(&self, payload: BytesMut) -> Result<(), Notice> {
        let payload = payload.freeze();
        if payload == "bad"[..] {
            return Err(Notice::new(Code::Seal, "it does not open"));
        }
        self.received.fetch_add(payload.len(), Ordering::Relaxed);
        let _ = self.events.try_send(ChannelEvent::Payload(payload));
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
        self.events.try_send(ChannelEvent::Paused(paused)).unwrap();
    }

    fn closed(&self, notice: Notice) {
        self.events.try_send(ChannelEvent::Closed(notice)).unwrap();
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

    fn open(&self, channel: u32, bulk: usize) -> (Arc<RecordingEnd>, mpsc::Receiver<ChannelEvent>) {
        let (channel_end, events) = RecordingEnd::new(bulk);
        self.outbox.open(channel, channel_end.clone()).unwrap();
        self.outbox.ready(channel);
        (channel_end, events)
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
