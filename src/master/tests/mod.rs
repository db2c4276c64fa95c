//! Tests of the master on real loopback sockets. The peers use the link layer's own parts and send
//! what each test tells them.

mod auth;
mod connections;
mod credentials;
mod drain;
mod front;
mod front_visitors;
mod handover;
mod handshakes;
mod idle_links;
mod metrics;
mod policies;
mod rates;
mod reconfigure;
mod router;
mod router_limits;
mod router_links;
mod slots;
#[cfg(feature = "store")]
mod stored_quotas;
#[cfg(feature = "store")]
mod unreadable_records;

use std::{num::NonZeroUsize, time::Duration};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use self::router_links::{enter_link, enter_link_of};
use super::*;
use crate::{
    config::{MasterConfig, Secret},
    link::authenticate::{self, JoinError, LinkSecret, RoleIdentity},
    master::{
        registry::AuthenticatedLink,
        router::{LinkPeer, LinkRef},
    },
    net::websocket::{MessageSocket, SocketEnd, SocketError},
};
use report_proto::{
    crypto::LinkKey,
    frame::{AttachHeader, Code, Frame, Notice, Ports, Registered, Role, Slot, Terms},
    id::Id,
};

const MASTER_KEY: &str = "the master key of the tests";
const PORT: Id = Id([7; 16]);
const OTHER_PORT: Id = Id([8; 16]);

/// The timeout for all expected events, so that a failing test ends.
const TEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns the key, derived once for all tests because each derivation costs an Argon2id.
fn link_key() -> LinkKey {
    static KEY: std::sync::OnceLock<LinkKey> = std::sync::OnceLock::new();
    KEY.get_or_init(|| LinkKey::derive(Some(MASTER_KEY)))
        .clone()
}

/// Returns the secret of a role's links.
fn key_of(role: Role) -> LinkSecret {
    match role {
        Role::Server => link_key().into(),
        Role::Client => LinkSecret::Anonymous,
    }
}

/// Returns the identity that a role's first link presents.
fn identity(role: Role, instance: u8, epoch: u64) -> RoleIdentity {
    RoleIdentity {
        role,
        instance: Id([instance; 16]),
        slot: Slot::FIRST,
        epoch,
        moves: false,
        agent: "test".to_owned(),
    }
}

fn parameters() -> MasterParameters {
    let listen_at = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = MasterConfig::new(
        listen_at.to_string().parse().expect("an address"),
        Secret::new(MASTER_KEY.to_owned()),
    );
    MasterParameters {
        trusted_proxies: TrustedProxies::default(),
        ..MasterParameters::new(
            &config,
            vec![listen_at],
            Some(link_key()),
            NonZeroUsize::MIN,
        )
    }
}

fn trusting(network: &str) -> TrustedProxies {
    TrustedProxies::new(vec![network.parse().expect("a network")])
}

/// A master that runs until the end of the test.
struct RunningMaster {
    address: SocketAddr,
    shared: Arc<MasterShared>,
    cancel: CancellationToken,
    task: JoinSet<()>,
}

fn start() -> RunningMaster {
    start_with(|_| {})
}

fn start_with(change: impl FnOnce(&mut MasterParameters)) -> RunningMaster {
    start_with_grace(Duration::from_secs(1), change)
}

fn start_with_grace(grace: Duration, change: impl FnOnce(&mut MasterParameters)) -> RunningMaster {
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
    RunningMaster {
        address,
        shared,
        cancel,
        task,
    }
}

impl RunningMaster {
    async fn server(&self, instance: u8, ports: &[Id]) -> TestPeer {
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
            Frame::Registered(Registered::new(ports.to_vec()))
        );
        peer
    }

    async fn client(&self, instance: u8) -> TestPeer {
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
    ) -> Result<TestPeer, JoinError> {
        self.join_with_key(&key_of(role), role, instance, epoch, first)
            .await
    }

    /// Joins with a link that takes over from the instance's previous link by a handover.
    async fn join_moving(&self, role: Role, instance: u8, epoch: u64, first: &[Frame]) -> TestPeer {
        let introduction = RoleIdentity {
            moves: true,
            ..identity(role, instance, epoch)
        };
        self.introduce(&key_of(role), &introduction, first)
            .await
            .expect("joined")
    }

    async fn join_with_key(
        &self,
        key: &LinkSecret,
        role: Role,
        instance: u8,
        epoch: u64,
        first: &[Frame],
    ) -> Result<TestPeer, JoinError> {
        self.introduce(key, &identity(role, instance, epoch), first)
            .await
    }

    /// Joins with a link that has this slot, beside the other links of the instance.
    async fn join_slot(
        &self,
        role: Role,
        (instance, slot): (u8, u8),
        epoch: u64,
        first: &[Frame],
    ) -> TestPeer {
        let introduction = RoleIdentity {
            slot: Slot::new(slot).expect("a slot"),
            ..identity(role, instance, epoch)
        };
        self.introduce(&key_of(role), &introduction, first)
            .await
            .expect("joined")
    }

    async fn introduce(
        &self,
        key: &LinkSecret,
        introduction: &RoleIdentity,
        first: &[Frame],
    ) -> Result<TestPeer, JoinError> {
        let mut socket = self.upgraded().await;
        let terms = authenticate::join(&mut socket, key, introduction, first).await?;
        Ok(TestPeer { socket, terms })
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connected")
    }

    /// Opens a WebSocket that has sent nothing yet.
    async fn upgraded(&self) -> MessageSocket {
        upgrade(self.connect().await, "/").await
    }

    /// Requests the upgrade as a proxy that forwards it for these addresses. Returns the head of
    /// the response, and the connection as a WebSocket.
    async fn requested_for(&self, addresses: &str) -> (String, MessageSocket) {
        let mut stream = self.connect().await;
        let forwarded = format!("\r\nX-Forwarded-For: {addresses}\r\n\r\n");
        let request = request("/").replace("\r\n\r\n", &forwarded);
        stream.write_all(request.as_bytes()).await.expect("sent");
        let (head, rest) = head(&mut stream).await;
        (head, MessageSocket::new(stream, rest, SocketEnd::Dialled))
    }
}

fn request(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

async fn upgrade(mut stream: impl crate::net::websocket::ByteStream, path: &str) -> MessageSocket {
    stream
        .write_all(request(path).as_bytes())
        .await
        .expect("sent");
    let (head, rest) = head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    MessageSocket::new(stream, rest, SocketEnd::Dialled)
}

/// Reads the head of a response. Returns it and the bytes behind it.
async fn head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> (String, Bytes) {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            return (
                String::from_utf8(read[..end + 4].to_vec()).expect("text"),
                Bytes::copy_from_slice(&read[end + 4..]),
            );
        }
        let count = with_timeout(stream.read_buf(&mut read))
            .await
            .expect("an answer");
        assert_ne!(
            count,
            0,
            "the connection ended after {:?}",
            String::from_utf8_lossy(&read)
        );
    }
}

async fn with_timeout<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(TEST_TIMEOUT, future)
        .await
        .expect("within the test timeout")
}

/// One end of a link, controlled by the test.
struct TestPeer {
    socket: MessageSocket,
    terms: Terms,
}

impl TestPeer {
    async fn send(&mut self, frame: Frame) {
        self.send_raw(frame.to_message()).await;
    }

    async fn send_raw(&mut self, message: Bytes) {
        with_timeout(self.socket.feed(message)).await.expect("sent");
        with_timeout(self.socket.flush()).await.expect("sent");
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
        let message = with_timeout(self.socket.receive()).await?;
        Ok(
            message
                .map(|message| Frame::decode(message.freeze()).expect("the master sends frames")),
        )
    }

    /// Receives the next frame. Skips PING, which the master sends when a slow machine pauses for
    /// two seconds.
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

    /// Receives an ATTACH and answers it.
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

    /// Expects an ERROR with this code, then a graceful close.
    async fn expect_error(&mut self, code: Code) {
        match self.next().await {
            Frame::Error(notice) => assert_eq!(notice.code, code, "{notice}"),
            other => panic!("ERROR was expected, not {other:?}"),
        }
        assert!(
            matches!(self.try_next().await, Ok(None)),
            "the WebSocket closes gracefully"
        );
    }

    /// Sends a PING and returns the next frame.
    async fn ping(&mut self, token: u64) -> Frame {
        self.send(Frame::Ping(token)).await;
        self.next().await
    }

    /// Verifies that the link still answers a PING.
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

/// Joins a client and a server with a channel between them. Both number it 1, because the master
/// counts from 1 at each server.
async fn connected_pair(master: &RunningMaster) -> (TestPeer, TestPeer) {
    let (mut server, mut client) = (master.server(1, &[PORT]).await, master.client(2).await);
    client.attach(1, PORT).await;
    assert_eq!(server.answer().await, 1);
    client.expect_data(1, b"answer").await;
    (client, server)
}

/// Waits until the condition holds.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + TEST_TIMEOUT;
    while !condition() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "timed out waiting for: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
