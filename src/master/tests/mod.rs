//! The master on real loopback sockets, among peers that are made of the link layer's own parts and do as they are told.

mod auth;
mod door;
mod drain;
mod front;
mod moves;
mod relay;
mod rest;

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use super::*;
use crate::{
    frame::{AttachHeader, Ports, Role, Terms},
    id::Id,
    link::{
        MessageSocket, SocketError,
        authenticate::{self, Introduction, JoinError},
        websocket::End,
    },
};

const MASTER_KEY: &str = "the master key of the tests";
const PORT: Id = Id([7; 16]);
const OTHER_PORT: Id = Id([8; 16]);

/// Long enough for anything that is expected, so that a failing test ends.
const SOON: Duration = Duration::from_secs(10);

/// A key costs an Argon2id: derived once for all tests.
fn link_key() -> LinkKey {
    static KEY: std::sync::OnceLock<LinkKey> = std::sync::OnceLock::new();
    KEY.get_or_init(|| LinkKey::derive(Some(MASTER_KEY)))
        .clone()
}

fn parameters() -> MasterParameters {
    MasterParameters {
        listen_at: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        path: "/".to_owned(),
        link_key: link_key(),
        tls: None,
        healthz: false,
        fallback: Fallback::default(),
        trusted_proxies: TrustedProxies::default(),
        proxy_protocol: false,
        limits: Limits::default(),
        timing: MasterTiming::default(),
        threads: NonZeroUsize::MIN,
    }
}

fn trusting(network: &str) -> TrustedProxies {
    TrustedProxies::new(vec![network.parse().expect("a network")])
}

/// A master that runs until the test is over.
struct Running {
    address: SocketAddr,
    shared: Arc<Shared>,
    cancel: CancellationToken,
    task: JoinSet<()>,
}

fn start() -> Running {
    start_with(|_| {})
}

fn start_with(change: impl FnOnce(&mut MasterParameters)) -> Running {
    start_with_grace(Duration::from_secs(1), change)
}

fn start_with_grace(grace: Duration, change: impl FnOnce(&mut MasterParameters)) -> Running {
    let mut parameters = parameters();
    change(&mut parameters);
    let master = Master::bind(parameters).expect("a free port of loopback");
    let (address, shared, cancel) = (
        master.local_addr(),
        Arc::clone(&master.shared),
        CancellationToken::new(),
    );
    let mut task = JoinSet::new();
    task.spawn(master.run(cancel.clone(), grace));
    Running {
        address,
        shared,
        cancel,
        task,
    }
}

impl Running {
    async fn server(&self, instance: u8, ports: &[Id]) -> Peer {
        let mut peer = self
            .join(
                Role::Server,
                instance,
                1,
                &[Frame::Register(Ports {
                    ports: ports.to_vec(),
                })],
            )
            .await
            .expect("joined");
        assert_eq!(
            peer.next().await,
            Frame::Registered(Ports {
                ports: ports.to_vec()
            })
        );
        peer
    }

    async fn client(&self, instance: u8) -> Peer {
        self.join(Role::Client, instance, 1, &[])
            .await
            .expect("joined")
    }

    async fn join(
        &self,
        role: Role,
        instance: u8,
        epoch: u64,
        first: &[Frame],
    ) -> Result<Peer, JoinError> {
        let key = if role == Role::Server {
            link_key()
        } else {
            LinkKey::derive(None)
        };
        self.join_with_key(&key, role, instance, epoch, first).await
    }

    /// A link of an instance that moves here from its link before.
    async fn join_moving(&self, role: Role, instance: u8, epoch: u64, first: &[Frame]) -> Peer {
        let key = if role == Role::Server {
            link_key()
        } else {
            LinkKey::derive(None)
        };
        let introduction = Introduction {
            role,
            instance: Id([instance; 16]),
            epoch,
            moves: true,
            agent: "test".to_owned(),
        };
        self.introduce(&key, &introduction, first)
            .await
            .expect("joined")
    }

    async fn join_with_key(
        &self,
        key: &LinkKey,
        role: Role,
        instance: u8,
        epoch: u64,
        first: &[Frame],
    ) -> Result<Peer, JoinError> {
        let introduction = Introduction {
            role,
            instance: Id([instance; 16]),
            epoch,
            moves: false,
            agent: "test".to_owned(),
        };
        self.introduce(key, &introduction, first).await
    }

    async fn introduce(
        &self,
        key: &LinkKey,
        introduction: &Introduction,
        first: &[Frame],
    ) -> Result<Peer, JoinError> {
        let mut socket = self.upgraded().await;
        let terms = authenticate::join(&mut socket, key, introduction, first).await?;
        Ok(Peer { socket, terms })
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connected")
    }

    /// A WebSocket that has said nothing yet.
    async fn upgraded(&self) -> MessageSocket {
        upgrade(self.connect().await, "/").await
    }
}

fn request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

async fn upgrade(mut stream: impl crate::link::websocket::ByteStream, path: &str) -> MessageSocket {
    stream
        .write_all(request(path).as_bytes())
        .await
        .expect("sent");
    let (head, rest) = head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    MessageSocket::new(stream, rest, End::Dialled)
}

/// The head of an answer, and what came behind it.
async fn head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> (String, Bytes) {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            return (
                String::from_utf8(read[..end + 4].to_vec()).expect("text"),
                Bytes::copy_from_slice(&read[end + 4..]),
            );
        }
        let count = soon(stream.read_buf(&mut read)).await.expect("an answer");
        assert_ne!(
            count,
            0,
            "the connection ended after {:?}",
            String::from_utf8_lossy(&read)
        );
    }
}

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(SOON, future)
        .await
        .expect("within the time of the test")
}

/// One end of a link that does as the test says.
struct Peer {
    socket: MessageSocket,
    terms: Terms,
}

impl Peer {
    async fn send(&mut self, frame: Frame) {
        self.send_raw(frame.to_message()).await;
    }

    async fn send_raw(&mut self, message: Bytes) {
        soon(self.socket.feed(message)).await.expect("sent");
        soon(self.socket.flush()).await.expect("sent");
    }

    async fn data(&mut self, channel: u32, payload: &[u8]) {
        self.send(Frame::Data {
            channel,
            payload: Bytes::copy_from_slice(payload),
        })
        .await;
    }

    async fn attach(&mut self, channel: u32, port: Id) {
        self.send(attach(channel, port, None, b"first")).await;
    }

    async fn close(&mut self, channel: u32) {
        self.send(Frame::Close {
            channel,
            notice: Notice::new(Code::Cancelled, "done"),
        })
        .await;
    }

    async fn try_next(&mut self) -> Result<Option<Frame>, SocketError> {
        let message = soon(self.socket.receive()).await?;
        Ok(
            message
                .map(|message| Frame::decode(message.freeze()).expect("the master sends frames")),
        )
    }

    /// The next frame. A PING, which the master sends when a slow machine has let two seconds pass, is not one that a test waits for.
    async fn next(&mut self) -> Frame {
        loop {
            let frame = self
                .try_next()
                .await
                .expect("the link is up")
                .expect("the link is up");
            if !matches!(frame, Frame::Ping(_)) {
                return frame;
            }
        }
    }

    /// Takes an ATTACH and answers it.
    async fn answer(&mut self) -> u32 {
        let Frame::Attach { channel, .. } = self.next().await else {
            panic!("an ATTACH was expected")
        };
        self.data(channel, b"answer").await;
        channel
    }

    async fn expect_data(&mut self, channel: u32, payload: &[u8]) {
        assert_eq!(
            self.next().await,
            Frame::Data {
                channel,
                payload: Bytes::copy_from_slice(payload)
            }
        );
    }

    async fn expect_close(&mut self, channel: u32, code: Code) {
        match self.next().await {
            Frame::Close {
                channel: closed,
                notice,
            } => assert_eq!((closed, notice.code), (channel, code), "{notice}"),
            other => panic!("CLOSE was expected, not {other:?}"),
        }
    }

    /// The link ends with ERROR of this code, and then in order.
    async fn expect_error(&mut self, code: Code) {
        match self.next().await {
            Frame::Error(notice) => assert_eq!(notice.code, code, "{notice}"),
            other => panic!("ERROR was expected, not {other:?}"),
        }
        assert!(
            matches!(self.try_next().await, Ok(None)),
            "the WebSocket is closed in order"
        );
    }

    /// Sends a PING; answers what comes next.
    async fn ask_alive(&mut self, token: u64) -> Frame {
        self.send(Frame::Ping(token)).await;
        self.next().await
    }

    /// The link still works: a PING is answered.
    async fn expect_alive(&mut self) {
        self.send(Frame::Ping(4711)).await;
        assert_eq!(self.next().await, Frame::Pong(4711));
    }
}

fn attach(channel: u32, port: Id, instance: Option<Id>, message: &[u8]) -> Frame {
    Frame::Attach {
        channel,
        header: AttachHeader {
            port,
            instance,
            avoid: Vec::new(),
        },
        message: Bytes::copy_from_slice(message),
    }
}

/// A client and a server with a channel between them, number 1 at both: the master counts from 1 at each server.
async fn talking(master: &Running) -> (Peer, Peer) {
    let (mut server, mut client) = (master.server(1, &[PORT]).await, master.client(2).await);
    client.attach(1, PORT).await;
    assert_eq!(server.answer().await, 1);
    client.expect_data(1, b"answer").await;
    (client, server)
}

/// Waits until something about the master is so.
async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + SOON;
    while !is() {
        assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
