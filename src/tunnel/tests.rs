//! Tests of tunnels over an in-memory link, with streams spliced to real sockets on loopback.

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
    attach::{self, AttachError, AttachRequest},
    splice::splice,
    *,
};
use crate::{
    link::{Handler, KeepAliveTiming, Link, LinkId, Outbox},
    net::memory,
};
use report_proto::{
    compress::CompressMethod,
    crypto::{EncryptMethod, PortKeys},
    frame::{Code, Frame, Notice},
    id::Id,
};

mod flows;
mod handshakes;
mod lanes;
mod resumption;
mod streams;
#[cfg(unix)]
mod unix_sockets;

/// Waits for a condition.
pub(crate) async fn eventually(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .expect("in time");
}

struct PanicOnFrame;

impl Handler for PanicOnFrame {
    fn on_frame(&mut self, frame: Frame) -> Result<(), Notice> {
        panic!("{frame:?}")
    }
}

pub(super) fn port(encrypt: EncryptMethod, compress: CompressMethod) -> PortParameters {
    PortParameters {
        mark: "test".into(),
        keys: PortKeys::derive("a port key of the tests"),
        encrypt,
        compress,
        protocol: ServiceProtocol::Tcp,
        range: 1,
        max_delay: Duration::from_millis(200),
        udp_idle_timeout: None,
        max_flows: 16,
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
        counters: Default::default(),
        process_shared: ProcessShared::default(),
    }
}

/// Returns a port without encryption and compression, whose windows do not grow.
pub(crate) fn plain_port() -> PortParameters {
    let window = WindowSize {
        initial: 65_536,
        max: 65_536,
    };
    PortParameters {
        stream_window: window,
        tunnel_window: window,
        ..port(EncryptMethod::Plain, CompressMethod::Null)
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
        link_pair.client.open(channel, request.attachment).unwrap();
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
                link_pair.server.open(channel, reply.attachment).unwrap();
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
        replaces: Vec<LinkId>,
    ) -> AttachResult {
        let request =
            attach::request_resume(client, replaces, &link_pair.client, channel, &self.tasks)
                .unwrap();
        self.answer(link_pair, channel, request, client.port())
            .await
    }

    /// Joins a second lane on the first pair of links.
    pub(crate) async fn share_link(&self, client: &Tunnel) {
        let (result, _) = self.reattach(&self.link_pair, 2, client, Vec::new()).await;
        assert!(matches!(result, Ok(attach::AttachOutcome::Resumed)));
    }

    /// Joins a lane on another pair of links. Returns the server's one.
    pub(crate) async fn join_lane(&self, client: &Tunnel) -> Arc<Outbox> {
        self.join_lane_on_new_links(client).await.server
    }

    /// Joins a lane on another pair of links. Returns the client's one.
    pub(crate) async fn join_client_lane(&self, client: &Tunnel) -> Arc<Outbox> {
        self.join_lane_on_new_links(client).await.client
    }

    async fn join_lane_on_new_links(&self, client: &Tunnel) -> LinkPair {
        let link_pair = self.new_link_pair();
        let (client_result, _) = self.reattach(&link_pair, 1, client, Vec::new()).await;
        assert!(matches!(client_result, Ok(attach::AttachOutcome::Resumed)));
        link_pair
    }

    /// Returns the client's link of the first pair.
    pub(crate) fn client_link(&self) -> Arc<Outbox> {
        Arc::clone(&self.link_pair.client)
    }

    /// Returns the server's link of the first pair.
    pub(crate) fn server_link(&self) -> Arc<Outbox> {
        Arc::clone(&self.link_pair.server)
    }

    /// Cuts the first pair of links.
    pub(crate) fn cut(&self) {
        self.link_pair.cut.cancel();
    }

    pub(crate) async fn tunnels(
        &self,
        encrypt: EncryptMethod,
        compress: CompressMethod,
    ) -> (Tunnel, Tunnel) {
        self.tunnels_of(port(encrypt, compress)).await
    }

    pub(crate) async fn tunnels_of(&self, port: PortParameters) -> (Tunnel, Tunnel) {
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
