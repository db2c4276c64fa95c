//! The multiplexer: a pair of them alone, message by message, and a tunnel over a link in memory.
//!
//! The tunnel includes everything except the kernel.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, measurement::WallTime,
};
use report::{
    link::{Handler, KeepAliveTiming, Link, Outbox},
    net::memory,
    suspend::Moment,
    tunnel::{PortParameters, Tunnel, TunnelStream, attach},
};
use report_proto::{
    crypto::EncryptMethod,
    frame::{Frame, Notice},
    id::Id,
    mux::{LaneId, Mux, MuxEvent, Parameters, PeerGrant, StreamId, StreamRead, TunnelSide},
};
use tokio::{
    runtime::Runtime,
    task::{JoinHandle, JoinSet},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    data,
    port::{STREAM_WINDOW, TUNNEL_WINDOW, port},
};

/// The bytes that one iteration moves: many windows of a stream.
const BULK: usize = 32 * 1024 * 1024;

/// The largest tunnel message before sealing, in bytes (PROTOCOL 12).
const MAX_PAYLOAD: usize = 64 * 1024;

/// The bytes of one application write: a full read of a splice.
const WRITE: usize = 64 * 1024;

/// The numbers of concurrent streams.
const STREAMS: [usize; 2] = [1, 8];

/// Measures the multiplexer alone, then with link and sealing.
pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = bulk_group(criterion, "mux/pair");
    for streams in STREAMS {
        let mut pair = MuxPair::new(streams);
        group.bench_function(BenchmarkId::from_parameter(streams), |bencher| {
            bencher.iter(|| pair.transfer(BULK))
        });
    }
    group.finish();
    for encrypt in [EncryptMethod::Plain, EncryptMethod::Aes128Gcm] {
        let mut group = bulk_group(criterion, &format!("mux/link/{encrypt}"));
        for streams in STREAMS {
            let runtime = Runtime::new().expect("a runtime");
            let pair = runtime.block_on(TunnelPair::new(encrypt, streams));
            group.bench_function(BenchmarkId::from_parameter(streams), |bencher| {
                bencher.iter(|| runtime.block_on(pair.transfer(BULK)));
            });
            runtime.block_on(pair.end());
        }
    }
}

/// Configures a group for iterations of tens of milliseconds, of which a few are enough.
fn bulk_group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sampling_mode(SamplingMode::Flat).sample_size(10);
    group
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    group.throughput(Throughput::Bytes(BULK as u64));
    group
}

/// Two multiplexers that exchange messages directly.
struct MuxPair {
    sender: Mux,
    receiver: Mux,
    streams: Vec<StreamId>,
    message: BytesMut,
    write: Bytes,
}

impl MuxPair {
    fn new(streams: usize) -> Self {
        let parameters = Parameters {
            stream_window: STREAM_WINDOW,
            tunnel_window: TUNNEL_WINDOW,
            streams_max: 100,
            flows_max: 0,
            max_delay: Duration::from_millis(200),
        };
        let grant = PeerGrant {
            stream_window: STREAM_WINDOW.initial,
            tunnel_window: TUNNEL_WINDOW.initial,
        };
        let mut sender = Mux::new(TunnelSide::Client, parameters, grant, Instant::now());
        let receiver = Mux::new(TunnelSide::Server, parameters, grant, Instant::now());
        let streams = (0..streams).map(|_| sender.open(Bytes::new())).collect();
        MuxPair {
            sender,
            receiver,
            streams,
            message: BytesMut::new(),
            write: data::random(WRITE).into(),
        }
    }

    /// Moves `bytes` in total through the streams, round-robin.
    fn transfer(&mut self, bytes: usize) {
        let mut received = 0;
        let mut sent = 0;
        while received < bytes {
            for &stream in &self.streams {
                let room = self
                    .sender
                    .write_room(stream)
                    .expect("the stream is open")
                    .min(WRITE)
                    .min(bytes - sent);
                self.sender
                    .write(stream, self.write.slice(..room))
                    .expect("there was room");
                sent += room;
            }
            let now = Instant::now();
            self.exchange(now, |pair| (&mut pair.sender, &mut pair.receiver));
            for &stream in &self.streams {
                while let StreamRead::Data(piece) =
                    self.receiver.read(stream).unwrap_or(StreamRead::Wait)
                {
                    received += piece.len();
                    self.receiver.consume(now, stream, piece.len());
                }
            }
            self.exchange(now, |pair| (&mut pair.receiver, &mut pair.sender));
        }
    }

    /// Delivers all pending messages of one end to the other, and handles the sender's timeouts.
    fn exchange(&mut self, now: Instant, ends: impl Fn(&mut Self) -> (&mut Mux, &mut Mux)) {
        loop {
            let mut message = std::mem::take(&mut self.message);
            let (from, to) = ends(self);
            from.handle_timeout(now).expect("no gap");
            if !from.poll_transmit(now, LaneId::FIRST, &mut message, MAX_PAYLOAD) {
                break;
            }
            to.handle_message(now, LaneId::FIRST, message.split().freeze())
                .expect("our own message");
            while let Some(
                MuxEvent::Opened { .. } | MuxEvent::Readable(_) | MuxEvent::Writable(_),
            ) = to.poll_event()
            {}
            self.message = message;
        }
    }
}

struct RejectFrames;

impl Handler for RejectFrames {
    fn on_frame(&mut self, frame: Frame) -> Result<(), Notice> {
        panic!("unexpected {}", frame.name())
    }
}

/// Two links joined in memory, the two ends of a tunnel over them, and its streams.
struct TunnelPair {
    tunnels: (Tunnel, Tunnel),
    streams: Vec<(Arc<TunnelStream>, Arc<TunnelStream>)>,
    links: Vec<JoinHandle<()>>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    write: Bytes,
}

impl TunnelPair {
    async fn new(encrypt: EncryptMethod, streams: usize) -> Self {
        let (one, other) = memory::pair();
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let start = |socket| {
            let outbox = Outbox::new();
            let link = Link::new(socket, Arc::clone(&outbox), KeepAliveTiming::default());
            let cancel = cancel.clone();
            let running = tasks.spawn(async move {
                link.run(&mut RejectFrames, cancel.cancelled()).await;
            });
            (outbox, running)
        };
        let ((client, client_link), (server, server_link)) = (start(one), start(other));
        let port = port("benchmark", "benchmark", encrypt);
        let tunnels = attach_pair(&client, &server, &port, &tasks).await;
        let mut pair = TunnelPair {
            tunnels,
            streams: Vec::new(),
            links: vec![client_link, server_link],
            tasks,
            cancel,
            write: data::random(WRITE).into(),
        };
        for _ in 0..streams {
            let opened = pair.tunnels.0.open(Bytes::new());
            let (accepted, _) = pair
                .tunnels
                .1
                .accept()
                .await
                .expect("the stream that was opened");
            pair.streams.push((Arc::new(opened), Arc::new(accepted)));
        }
        pair
    }

    /// Moves `bytes` in total through the streams, concurrently.
    async fn transfer(&self, bytes: usize) {
        let mut copies = JoinSet::new();
        for (opened, accepted) in &self.streams {
            let share = bytes / self.streams.len();
            copies.spawn(send(Arc::clone(opened), self.write.clone(), share));
            copies.spawn(receive(Arc::clone(accepted), share));
        }
        copies.join_all().await;
    }

    async fn end(self) {
        self.cancel.cancel();
        for link in self.links {
            link.await.expect("a link does not panic");
        }
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Attaches a tunnel without a master.
async fn attach_pair(
    client: &Arc<Outbox>,
    server: &Arc<Outbox>,
    port: &PortParameters,
    tasks: &TaskTracker,
) -> (Tunnel, Tunnel) {
    let request = attach::request(port, client, 1, tasks).expect("a first message");
    client
        .open(1, request.attachment)
        .expect("the first channel");
    let context = attach::AcceptContext {
        instance: Id([7; 16]),
        started: Moment::now(),
        find: &|_| None,
        seen: &|_, _| None,
        is_open: &|| true,
        bench: true,
        addresses: false,
        tasks,
    };
    let reply =
        attach::reply(port, &context, &request.message, server, 1).expect("our own message");
    server.open(1, reply.attachment).expect("the first channel");
    server.ready(1);
    let outcome = request
        .outcome
        .await
        .expect("an outcome")
        .expect("a tunnel");
    let attach::AttachOutcome::New(client_tunnel, _) = outcome else {
        panic!("unexpected resumption")
    };
    (
        client_tunnel,
        reply.outcome.expect("the same methods").expect("a tunnel"),
    )
}

async fn send(stream: Arc<TunnelStream>, write: Bytes, mut bytes: usize) {
    while bytes > 0 {
        let room = stream
            .write_room()
            .await
            .expect("the stream is open")
            .min(write.len())
            .min(bytes);
        stream.write(write.slice(..room)).expect("there was room");
        bytes -= room;
    }
}

async fn receive(stream: Arc<TunnelStream>, mut bytes: usize) {
    while bytes > 0 {
        let piece = stream
            .read()
            .await
            .expect("the stream is open")
            .expect("more is to come");
        bytes -= piece.len();
        stream.consume(piece.len());
    }
}
