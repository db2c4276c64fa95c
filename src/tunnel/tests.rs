//! Tunnels over a link in memory, and their streams spliced to real sockets on loopback.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    attach::{self, AttachError, Wish},
    splice::splice,
    *,
};
use crate::{
    crypto::PortKeys,
    frame::{Code, Frame, Notice},
    id::Id,
    link::{Handler, Link, Outbox, Timing, memory},
};

mod resumption;

struct NoFrames;

impl Handler for NoFrames {
    fn frame(&mut self, frame: Frame) -> Result<(), Notice> {
        panic!("{frame:?}")
    }
}

fn port(encrypt: EncryptMethod, compress: CompressMethod) -> PortParameters {
    PortParameters {
        mark: "test".into(),
        keys: PortKeys::derive("a port key of the tests"),
        encrypt,
        compress,
        stream_window: WindowSize {
            initial: 256 * 1024,
            max: 1024 * 1024,
        },
        tunnel_window: WindowSize {
            initial: 1024 * 1024,
            max: 4 * 1024 * 1024,
        },
        resume_timeout: Duration::from_secs(120),
        tcp_keepalive: None,
        commons: Commons::default(),
    }
}

/// A server that finds tunnels so, and remembers nothing of others.
fn host<'a>(tasks: &'a TaskTracker, find: &'a dyn Fn(Id) -> Option<Tunnel>) -> attach::Host<'a> {
    attach::Host {
        seen: &|_, _| None,
        instance: Id([7; 16]),
        started: crate::suspend::Moment::now(),
        find,
        is_open: &|| true,
        bench: true,
        addresses: false,
        tasks,
    }
}

/// Two links that are joined in memory.
struct Joint {
    client: Arc<Outbox>,
    server: Arc<Outbox>,
    cut: CancellationToken,
}

/// Links, and the tunnels that go over them.
pub(crate) struct Bed {
    joint: Joint,
    tasks: TaskTracker,
    over: CancellationToken,
    tunnels: Mutex<Vec<Tunnel>>,
}

impl Joint {
    fn new(tasks: &TaskTracker, over: &CancellationToken) -> Self {
        let (one, other) = memory::pair();
        let cut = over.child_token();
        let start = |socket| {
            let outbox = Outbox::new();
            let link = Link::new(socket, Arc::clone(&outbox), Timing::default());
            let cut = cut.clone();
            tasks.spawn(async move { link.run(&mut NoFrames, cut.cancelled()).await.why });
            outbox
        };
        Joint {
            client: start(one),
            server: start(other),
            cut,
        }
    }
}

/// What became of an attachment at the client and, if there is a new tunnel, at the server.
type Attached = (Result<attach::Outcome, AttachError>, Option<Tunnel>);

impl Bed {
    pub(crate) fn new() -> Self {
        let (tasks, over) = (TaskTracker::new(), CancellationToken::new());
        Bed {
            joint: Joint::new(&tasks, &over),
            tasks,
            over,
            tunnels: Mutex::default(),
        }
    }

    fn another_joint(&self) -> Joint {
        Joint::new(&self.tasks, &self.over)
    }

    /// Answers a wish as a server that has `agent` and these tunnels, in place of the master.
    async fn answer(
        &self,
        joint: &Joint,
        channel: u32,
        wish: Wish,
        agent: &PortParameters,
    ) -> Attached {
        joint.client.open(channel, wish.lane).unwrap();
        let find = |id| {
            self.known()
                .into_iter()
                .rev()
                .find(|tunnel| tunnel.id() == id)
        };
        let served = match attach::reply(
            agent,
            &host(&self.tasks, &find),
            &wish.message,
            &joint.server,
            channel,
        ) {
            Ok(reply) => {
                joint.server.open(channel, reply.lane).unwrap();
                joint.server.ready(channel);
                reply.outcome.ok().flatten()
            }
            Err(error) => {
                joint.client.close(channel, &attach::closing_notice(&error));
                return (Err(error), None);
            }
        };
        self.tunnels.lock().unwrap().extend(served.clone());
        (wish.outcome.await.unwrap(), served)
    }

    /// What the server holds, and after it what the client does.
    fn known(&self) -> Vec<Tunnel> {
        self.tunnels.lock().unwrap().clone()
    }

    async fn attach(&self, visitor: &PortParameters, agent: &PortParameters) -> Attached {
        let wish = attach::wish(visitor, &self.joint.client, 1, &self.tasks).unwrap();
        self.answer(&self.joint, 1, wish, agent).await
    }

    /// Attaches the client's tunnel again, over another link or the same.
    async fn attach_again(
        &self,
        joint: &Joint,
        channel: u32,
        visitor: &Tunnel,
        moves: bool,
    ) -> Attached {
        let wish = attach::wish_again(visitor, moves, &joint.client, channel, &self.tasks).unwrap();
        self.answer(joint, channel, wish, visitor.port()).await
    }

    pub(crate) async fn tunnels(
        &self,
        encrypt: EncryptMethod,
        compress: CompressMethod,
    ) -> (Tunnel, Tunnel) {
        self.tunnels_of(port(encrypt, compress)).await
    }

    async fn tunnels_of(&self, port: PortParameters) -> (Tunnel, Tunnel) {
        let (visited, agent) = self.attach(&port, &port).await;
        let attach::Outcome::New(visitor, _) = visited.unwrap() else {
            panic!("nothing was there to resume")
        };
        // Behind the server's end, which is found first: both have the same name.
        self.tunnels.lock().unwrap().insert(0, visitor.clone());
        (visitor, agent.unwrap())
    }

    pub(crate) async fn end(self) {
        for tunnel in self.known() {
            tunnel.end(ResetCode::Shutdown, Notice::new(Code::Shutdown, ""));
        }
        self.over.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// A connected pair of TCP sockets.
async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (one, other) = tokio::join!(
        TcpStream::connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    (one.unwrap(), other.unwrap().0)
}

/// An application and a service that are joined through a stream of the tunnels.
async fn joined(bed: &Bed, tunnels: &(Tunnel, Tunnel)) -> (TcpStream, TcpStream) {
    let (application, visitor) = sockets().await;
    let (agent, service) = sockets().await;
    let compress = tunnels.0.port().compress;
    let opened = tunnels.0.open(Bytes::new());
    let (accepted, _) = tunnels.1.accept().await.unwrap();
    bed.tasks.spawn(splice(visitor, opened, compress));
    bed.tasks.spawn(splice(agent, accepted, compress));
    (application, service)
}

fn text(length: usize) -> Vec<u8> {
    (0_u64..)
        .flat_map(|line| format!("line {line}, which is {}\n", line * line % 9973).into_bytes())
        .take(length)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_arrive_whole_in_both_directions_with_every_method() {
    for encrypt in EncryptMethod::ALL {
        for compress in CompressMethod::ALL {
            let bed = Bed::new();
            let tunnels = bed.tunnels(encrypt, compress).await;
            let (mut application, mut service) = joined(&bed, &tunnels).await;
            let sent = text(3_000_000);
            let copy = sent.clone();
            bed.tasks.spawn(async move {
                let mut received = Vec::new();
                service.read_to_end(&mut received).await.unwrap();
                assert!(
                    received == copy,
                    "{} bytes of {}",
                    received.len(),
                    copy.len()
                );
                service.write_all(&received).await.unwrap();
            });
            application.write_all(&sent).await.unwrap();
            application.shutdown().await.unwrap();
            let mut answer = Vec::new();
            application.read_to_end(&mut answer).await.unwrap();
            assert!(
                answer == sent,
                "{encrypt} {compress}: {} bytes of {}",
                answer.len(),
                sent.len()
            );
            drop(tunnels);
            bed.end().await;
        }
    }
}

#[tokio::test]
async fn a_reset_arrives_as_a_reset_in_both_directions() {
    let bed = Bed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Aes128Gcm, CompressMethod::Null)
        .await;
    let (mut application, service) = joined(&bed, &tunnels).await;
    splice::reset_on_close(&service);
    drop(service);
    let error = application.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let (application, mut service) = joined(&bed, &tunnels).await;
    splice::reset_on_close(&application);
    drop(application);
    let error = service.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    bed.end().await;
}

#[tokio::test]
async fn a_reset_after_a_half_close_is_noticed() {
    let bed = Bed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Aes128Gcm, CompressMethod::Zstd)
        .await;
    let (mut application, mut service) = joined(&bed, &tunnels).await;
    service.shutdown().await.unwrap();
    assert_eq!(application.read(&mut [0]).await.unwrap(), 0);
    splice::reset_on_close(&service);
    drop(service);
    let error = async {
        loop {
            if let Err(error) = application.write_all(&[0; 1000]).await {
                return error;
            }
            tokio::task::yield_now().await;
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(10), error)
        .await
        .unwrap();
    assert!(
        matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        ),
        "{error}"
    );
    bed.end().await;
}

#[tokio::test]
async fn when_nothing_carries_a_tunnel_for_too_long_no_stream_ends_cleanly() {
    let bed = Bed::new();
    let port = PortParameters {
        resume_timeout: Duration::from_millis(50),
        ..port(EncryptMethod::Chacha20Poly1305, CompressMethod::S2)
    };
    let tunnels = bed.tunnels_of(port).await;
    let (mut application, mut service) = joined(&bed, &tunnels).await;
    service
        .write_all(b"the beginning of a download")
        .await
        .unwrap();
    application.read_exact(&mut [0; 27]).await.unwrap();
    bed.joint.cut.cancel();
    assert_eq!(
        application.read(&mut [0]).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    assert_eq!(
        service.read(&mut [0]).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    assert_eq!(
        tunnels.0.port().commons.counts.expired.get(),
        2,
        "at both ends, which share their counts here"
    );
    bed.end().await;
}

#[tokio::test]
async fn methods_that_differ_are_named_at_both_ends() {
    let bed = Bed::new();
    let visitor = port(EncryptMethod::Aes128Cfb, CompressMethod::Zstd);
    let agent = port(EncryptMethod::Aes128Gcm, CompressMethod::Zstd);
    let (visited, served) = bed.attach(&visitor, &agent).await;
    assert!(served.is_none());
    let error = visited.err().unwrap().to_string();
    assert_eq!(
        error,
        "`encrypt_method` is \"aes-128-cfb\" here and \"aes-128-gcm\" at the other end: make them equal"
    );
    bed.end().await;
}

#[tokio::test]
async fn another_port_key_is_no_way_in() {
    let bed = Bed::new();
    let agent = port(EncryptMethod::Plain, CompressMethod::Null);
    let visitor = PortParameters {
        keys: PortKeys::derive("a guess"),
        ..agent.clone()
    };
    let (visited, served) = bed.attach(&visitor, &agent).await;
    assert!(served.is_none() && matches!(visited, Err(AttachError::Handshake(_))));
    bed.end().await;
}

#[tokio::test]
async fn a_recorded_handshake_opens_no_stream() {
    let bed = Bed::new();
    let port = port(EncryptMethod::Plain, CompressMethod::Null);
    let wish = attach::wish(&port, &bed.joint.client, 5, &bed.tasks).unwrap();
    // The master, or anyone on the path, plays the first message again and then what the client had sealed: a stream that opens.
    let reply = attach::reply(
        &port,
        &host(&bed.tasks, &|_| None),
        &wish.message,
        &bed.joint.server,
        9,
    )
    .unwrap();
    let tunnel = reply.outcome.unwrap().unwrap();
    let mut replayed = vec![0x01, 0x00, 0x40, 0x40, 0x00];
    replayed.extend_from_slice(&[0; 16]);
    use crate::link::Lane;
    assert!(reply.lane.receive(BytesMut::from(&replayed[..])).is_err());
    drop(reply.lane);
    assert!(
        tunnel.accept().await.is_none(),
        "the tunnel is over and nothing was opened"
    );
    bed.end().await;
}

#[tokio::test]
async fn chunks_of_many_streams_do_not_use_a_small_window_up_between_them() {
    let bed = Bed::new();
    let small = WindowSize {
        initial: 64 * 1024,
        max: 64 * 1024,
    };
    let port = PortParameters {
        stream_window: small,
        tunnel_window: small,
        ..port(EncryptMethod::Aes128Gcm, CompressMethod::S2)
    };
    let tunnels = bed.tunnels_of(port).await;
    // Shrinks to somewhat more than a half, so that a chunk takes several turns.
    let sent: Vec<u8> = (0..300_000)
        .map(|at| if at % 1000 < 600 { fastrand::u8(..) } else { 0 })
        .collect();
    let mut pairs = Vec::new();
    for _ in 0..8 {
        pairs.push(joined(&bed, &tunnels).await);
    }
    let moved = async {
        let mut copies = JoinSet::new();
        for (mut application, mut service) in pairs {
            let sent = sent.clone();
            copies.spawn(async move {
                let mut received = vec![0; sent.len()];
                let (written, read) = tokio::join!(
                    application.write_all(&sent),
                    service.read_exact(&mut received)
                );
                assert!(written.is_ok() && read.is_ok() && received == sent);
            });
        }
        copies.join_all().await;
    };
    tokio::time::timeout(Duration::from_secs(20), moved)
        .await
        .unwrap();
    bed.end().await;
}

#[tokio::test]
async fn a_reset_after_a_half_close_is_noticed_though_nobody_writes() {
    let bed = Bed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Aes128Gcm, CompressMethod::Null)
        .await;
    let (mut application, mut service) = joined(&bed, &tunnels).await;
    service.shutdown().await.unwrap();
    assert_eq!(application.read(&mut [0]).await.unwrap(), 0);
    splice::reset_on_close(&service);
    drop(service);
    let reset = application.ready(tokio::io::Interest::ERROR);
    tokio::time::timeout(Duration::from_secs(10), reset)
        .await
        .unwrap()
        .unwrap();
    bed.end().await;
}

#[tokio::test]
async fn a_splice_is_over_when_the_peer_has_everything_so_that_a_drain_loses_nothing() {
    let bed = Bed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Aes128Gcm, CompressMethod::S2)
        .await;
    let (mut application, visitor) = sockets().await;
    let (agent, mut service) = sockets().await;
    bed.tasks.spawn(splice(
        visitor,
        tunnels.0.open(Bytes::new()),
        CompressMethod::S2,
    ));
    let (accepted, _) = tunnels.1.accept().await.unwrap();
    let mut served = bed.tasks.spawn(splice(agent, accepted, CompressMethod::S2));
    bed.joint.client.control(&Frame::Pause(1));
    application.shutdown().await.unwrap();
    let sent = text(100_000);
    assert_eq!(
        service.read(&mut [0]).await.unwrap(),
        0,
        "and the channel was paused before"
    );
    service.write_all(&sent).await.unwrap();
    drop(service);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut served).await;
    assert!(early.is_err(), "nothing has arrived yet: {early:?}");
    bed.joint.client.control(&Frame::Resume(1));
    assert!(served.await.unwrap().error.is_none());
    bed.joint.cut.cancel();
    let mut received = Vec::new();
    application.read_to_end(&mut received).await.unwrap();
    assert!(
        received == sent,
        "{} bytes of {}",
        received.len(),
        sent.len()
    );
    bed.end().await;
}

#[tokio::test]
async fn a_message_without_a_frame_ends_the_tunnel() {
    let bed = Bed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Plain, CompressMethod::Null)
        .await;
    tunnels
        .1
        .shared
        .receive(attach::FIRST_ATTEMPT, Bytes::new())
        .unwrap();
    assert_eq!(tunnels.1.notice().unwrap().code, Code::Protocol);
    bed.end().await;
}

#[tokio::test]
async fn a_tunnel_whose_lane_is_dropped_is_over() {
    let bed = Bed::new();
    let port = port(EncryptMethod::Plain, CompressMethod::Null);
    let wish = attach::wish(&port, &bed.joint.client, 5, &bed.tasks).unwrap();
    let reply = attach::reply(
        &port,
        &host(&bed.tasks, &|_| None),
        &wish.message,
        &bed.joint.server,
        9,
    )
    .unwrap();
    let tunnel = reply.outcome.unwrap().unwrap();
    drop(reply.lane);
    tokio::time::timeout(Duration::from_secs(10), tunnel.closed())
        .await
        .unwrap();
    bed.end().await;
}

#[tokio::test]
async fn who_waits_for_a_stream_to_fail_hears_of_a_reset_here_too() {
    let bed = Bed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Plain, CompressMethod::Null)
        .await;
    let stream = Arc::new(tunnels.0.open(Bytes::new()));
    let waiting = Arc::clone(&stream);
    let failed = bed
        .tasks
        .spawn(async move { waiting.failed().await.reset_code() });
    tokio::task::yield_now().await;
    stream.reset(ResetCode::Corrupt);
    let code = tokio::time::timeout(Duration::from_secs(10), failed)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(code, Some(ResetCode::Corrupt));
    drop(stream);
    bed.end().await;
}
