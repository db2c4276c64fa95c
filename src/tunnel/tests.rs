//! Tests of tunnels over an in-memory link, with streams spliced to real sockets on loopback.

use std::{
    io,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    attach::{self, AttachError, AttachRequest},
    splice::splice,
    *,
};
use crate::{
    link::{Handler, KeepAliveTiming, Link, Outbox},
    net::memory,
};
use report_proto::{
    compress::CompressMethod,
    crypto::{EncryptMethod, PortKeys},
    frame::{Code, Frame, Notice},
    id::Id,
};

mod resumption;

struct PanicOnFrame;

impl Handler for PanicOnFrame {
    fn on_frame(&mut self, frame: Frame) -> Result<(), Notice> {
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
        process_shared: ProcessShared::default(),
    }
}

/// Returns the context of a server that finds tunnels with `find` and remembers no ended ones.
fn accept_context<'a>(
    tasks: &'a TaskTracker,
    find: &'a dyn Fn(Id) -> Option<Tunnel>,
) -> attach::AcceptContext<'a> {
    attach::AcceptContext {
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

/// Two links joined in memory.
struct LinkPair {
    client: Arc<Outbox>,
    server: Arc<Outbox>,
    cut: CancellationToken,
}

/// A pair of links, and the tunnels that use them.
pub(crate) struct TunnelTestbed {
    link_pair: LinkPair,
    tasks: TaskTracker,
    stop: CancellationToken,
    tunnels: Mutex<Vec<Tunnel>>,
}

impl LinkPair {
    fn new(tasks: &TaskTracker, stop: &CancellationToken) -> Self {
        let (one, other) = memory::pair();
        let cut = stop.child_token();
        let start = |socket| {
            let outbox = Outbox::new();
            let link = Link::new(socket, Arc::clone(&outbox), KeepAliveTiming::default());
            let cut = cut.clone();
            tasks.spawn(async move { link.run(&mut PanicOnFrame, cut.cancelled()).await.reason });
            outbox
        };
        LinkPair {
            client: start(one),
            server: start(other),
            cut,
        }
    }
}

/// The outcome of an attach request at the client, and the new tunnel at the server, if any.
type AttachResult = (Result<attach::AttachOutcome, AttachError>, Option<Tunnel>);

impl TunnelTestbed {
    pub(crate) fn new() -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        TunnelTestbed {
            link_pair: LinkPair::new(&tasks, &stop),
            tasks,
            stop,
            tunnels: Mutex::default(),
        }
    }

    fn new_link_pair(&self) -> LinkPair {
        LinkPair::new(&self.tasks, &self.stop)
    }

    /// Answers a request as a server with the port `server` and the known tunnels, in place of the
    /// master.
    async fn answer(
        &self,
        link_pair: &LinkPair,
        channel: u32,
        request: AttachRequest,
        server: &PortParameters,
    ) -> AttachResult {
        link_pair.client.open(channel, request.lane).unwrap();
        let find = |id| {
            self.known_tunnels()
                .into_iter()
                .rev()
                .find(|tunnel| tunnel.id() == id)
        };
        let served = match attach::reply(
            server,
            &accept_context(&self.tasks, &find),
            &request.message,
            &link_pair.server,
            channel,
        ) {
            Ok(reply) => {
                link_pair.server.open(channel, reply.lane).unwrap();
                link_pair.server.ready(channel);
                reply.outcome.ok().flatten()
            }
            Err(error) => {
                link_pair
                    .client
                    .close(channel, &attach::closing_notice(&error));
                return (Err(error), None);
            }
        };
        self.tunnels.lock().unwrap().extend(served.clone());
        (request.outcome.await.unwrap(), served)
    }

    /// Returns the known tunnels: those of the client first, then those of the server.
    fn known_tunnels(&self) -> Vec<Tunnel> {
        self.tunnels.lock().unwrap().clone()
    }

    async fn attach(&self, client: &PortParameters, server: &PortParameters) -> AttachResult {
        let request = attach::request(client, &self.link_pair.client, 1, &self.tasks).unwrap();
        self.answer(&self.link_pair, 1, request, server).await
    }

    /// Reattaches the client's tunnel over this pair of links.
    async fn reattach(
        &self,
        link_pair: &LinkPair,
        channel: u32,
        client: &Tunnel,
        moves: bool,
    ) -> AttachResult {
        let request =
            attach::request_resume(client, moves, &link_pair.client, channel, &self.tasks).unwrap();
        self.answer(link_pair, channel, request, client.port())
            .await
    }

    pub(crate) async fn tunnels(
        &self,
        encrypt: EncryptMethod,
        compress: CompressMethod,
    ) -> (Tunnel, Tunnel) {
        self.tunnels_of(port(encrypt, compress)).await
    }

    async fn tunnels_of(&self, port: PortParameters) -> (Tunnel, Tunnel) {
        let (client_result, server) = self.attach(&port, &port).await;
        let attach::AttachOutcome::New(client, _) = client_result.unwrap() else {
            panic!("expected a new tunnel")
        };
        // Before the server's handle, because lookups search from the end: both handles have the
        // same id.
        self.tunnels.lock().unwrap().insert(0, client.clone());
        (client, server.unwrap())
    }

    pub(crate) async fn end(self) {
        for tunnel in self.known_tunnels() {
            tunnel.end(ResetCode::Shutdown, Notice::new(Code::Shutdown, ""));
        }
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Returns a connected pair of TCP sockets.
async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (one, other) = tokio::join!(
        TcpStream::connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    (one.unwrap(), other.unwrap().0)
}

/// Returns the sockets of an application and a service that are joined through a stream.
async fn spliced_sockets(
    bed: &TunnelTestbed,
    tunnels: &(Tunnel, Tunnel),
) -> (TcpStream, TcpStream) {
    let (application, client) = sockets().await;
    let (server, service) = sockets().await;
    let compress = tunnels.0.port().compress;
    let opened = tunnels.0.open(Bytes::new());
    let (accepted, _) = tunnels.1.accept().await.unwrap();
    bed.tasks.spawn(splice(client, opened, compress));
    bed.tasks.spawn(splice(server, accepted, compress));
    (application, service)
}

fn text(length: usize) -> Vec<u8> {
    (0_u64..)
        .flat_map(|line| format!("line {line}, which is {}\n", line * line % 9973).into_bytes())
        .take(length)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_delivers_all_bytes_in_both_directions() {
    for encrypt in EncryptMethod::ALL {
        for compress in CompressMethod::ALL {
            let bed = TunnelTestbed::new();
            let tunnels = bed.tunnels(encrypt, compress).await;
            let (mut application, mut service) = spliced_sockets(&bed, &tunnels).await;
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
    let bed = TunnelTestbed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Aes128Gcm, CompressMethod::Null)
        .await;
    let (mut application, service) = spliced_sockets(&bed, &tunnels).await;
    splice::reset_on_close(&service);
    drop(service);
    let error = application.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let (application, mut service) = spliced_sockets(&bed, &tunnels).await;
    splice::reset_on_close(&application);
    drop(application);
    let error = service.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    bed.end().await;
}

#[tokio::test]
async fn a_reset_after_a_half_close_fails_a_writer() {
    let bed = TunnelTestbed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Aes128Gcm, CompressMethod::Zstd)
        .await;
    let (mut application, mut service) = spliced_sockets(&bed, &tunnels).await;
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
async fn an_expired_tunnel_resets_its_streams() {
    let bed = TunnelTestbed::new();
    let port = PortParameters {
        resume_timeout: Duration::from_millis(50),
        ..port(EncryptMethod::Chacha20Poly1305, CompressMethod::S2)
    };
    let tunnels = bed.tunnels_of(port).await;
    let (mut application, mut service) = spliced_sockets(&bed, &tunnels).await;
    service
        .write_all(b"the beginning of a download")
        .await
        .unwrap();
    application.read_exact(&mut [0; 27]).await.unwrap();
    bed.link_pair.cut.cancel();
    assert_eq!(
        application.read(&mut [0]).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    assert_eq!(
        service.read(&mut [0]).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    assert_eq!(
        tunnels.0.port().process_shared.counters.expired.get(),
        2,
        "one at each end: both ends share the counters here"
    );
    bed.end().await;
}

#[tokio::test]
async fn a_method_mismatch_is_reported_at_both_ends() {
    let bed = TunnelTestbed::new();
    let client = port(EncryptMethod::Aes128Cfb, CompressMethod::Zstd);
    let server = port(EncryptMethod::Aes128Gcm, CompressMethod::Zstd);
    let (client_result, served) = bed.attach(&client, &server).await;
    assert!(served.is_none());
    let error = client_result.err().unwrap().to_string();
    assert_eq!(
        error,
        "`encrypt_method` is \"aes-128-cfb\" here and \"aes-128-gcm\" at the other end: make them equal"
    );
    bed.end().await;
}

#[tokio::test]
async fn a_different_port_key_fails_the_handshake() {
    let bed = TunnelTestbed::new();
    let server = port(EncryptMethod::Plain, CompressMethod::Null);
    let client = PortParameters {
        keys: PortKeys::derive("a guess"),
        ..server.clone()
    };
    let (client_result, served) = bed.attach(&client, &server).await;
    assert!(served.is_none() && matches!(client_result, Err(AttachError::Handshake(_))));
    bed.end().await;
}

#[tokio::test]
async fn a_replayed_handshake_opens_no_stream() {
    let bed = TunnelTestbed::new();
    let port = port(EncryptMethod::Plain, CompressMethod::Null);
    let request = attach::request(&port, &bed.link_pair.client, 5, &bed.tasks).unwrap();
    // The master or another attacker on the path replays the first message, and then the client's
    // sealed message, which opens a stream.
    let reply = attach::reply(
        &port,
        &accept_context(&bed.tasks, &|_| None),
        &request.message,
        &bed.link_pair.server,
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
        "the tunnel ended and no stream was opened"
    );
    bed.end().await;
}

#[tokio::test]
async fn incomplete_chunks_of_many_streams_do_not_exhaust_a_small_window() {
    let bed = TunnelTestbed::new();
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
    // Compresses to somewhat more than half, so that a chunk needs several windows.
    let sent: Vec<u8> = (0..300_000)
        .map(|at| if at % 1000 < 600 { fastrand::u8(..) } else { 0 })
        .collect();
    let mut pairs = Vec::new();
    for _ in 0..8 {
        pairs.push(spliced_sockets(&bed, &tunnels).await);
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
async fn a_reset_after_a_half_close_is_detected_without_a_write() {
    let bed = TunnelTestbed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Aes128Gcm, CompressMethod::Null)
        .await;
    let (mut application, mut service) = spliced_sockets(&bed, &tunnels).await;
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
async fn a_splice_ends_after_the_peer_has_acknowledged_everything() {
    let bed = TunnelTestbed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Aes128Gcm, CompressMethod::S2)
        .await;
    let (mut application, client) = sockets().await;
    let (server, mut service) = sockets().await;
    bed.tasks.spawn(splice(
        client,
        tunnels.0.open(Bytes::new()),
        CompressMethod::S2,
    ));
    let (accepted, _) = tunnels.1.accept().await.unwrap();
    let mut served = bed
        .tasks
        .spawn(splice(server, accepted, CompressMethod::S2));
    bed.link_pair.client.control(&Frame::Pause(1));
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
    assert!(
        early.is_err(),
        "the peer has acknowledged nothing yet: {early:?}"
    );
    bed.link_pair.client.control(&Frame::Resume(1));
    assert!(served.await.unwrap().error.is_none());
    bed.link_pair.cut.cancel();
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
    let bed = TunnelTestbed::new();
    let tunnels = bed
        .tunnels(EncryptMethod::Plain, CompressMethod::Null)
        .await;
    tunnels
        .1
        .shared
        .update(|core| core.receive(Instant::now(), core::FIRST_ATTEMPT, Bytes::new()))
        .unwrap();
    assert_eq!(tunnels.1.notice().unwrap().code, Code::Protocol);
    bed.end().await;
}

#[tokio::test]
async fn dropping_the_lane_of_a_new_tunnel_ends_it() {
    let bed = TunnelTestbed::new();
    let port = port(EncryptMethod::Plain, CompressMethod::Null);
    let request = attach::request(&port, &bed.link_pair.client, 5, &bed.tasks).unwrap();
    let reply = attach::reply(
        &port,
        &accept_context(&bed.tasks, &|_| None),
        &request.message,
        &bed.link_pair.server,
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
async fn a_local_reset_wakes_a_task_that_waits_for_failure() {
    let bed = TunnelTestbed::new();
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
