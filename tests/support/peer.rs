//! One end of a link that the test controls: a role that talks to a real master, or a master that
//! talks to real roles. It can send arbitrary messages.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use ::bytes::{Bytes, BytesMut};
use report_proto::{
    crypto::{Challenge, LinkKey},
    frame::{Claims, Frame, Nonce, Role, Slot, Terms},
    id::Id,
};
use tokio_tungstenite::tungstenite::{self, Error, Message, WebSocket, protocol::WebSocketConfig};

use super::{services, wait};

/// How long one read of the socket waits.
const READ_TIMEOUT: Duration = Duration::from_millis(10);

/// The local end of a WebSocket to a real role or master.
pub(crate) struct Peer {
    socket: WebSocket<RestartingStream>,
}

/// A socket that repeats a read after a signal. The opening handshake of the WebSocket would take
/// the interruption for a failure.
struct RestartingStream(TcpStream);

impl Read for RestartingStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        services::read(&self.0, buffer)
    }
}

impl Write for RestartingStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The result of one read of the socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Received {
    Message(Bytes),
    /// No message yet.
    Nothing,
    /// The connection has ended.
    End,
}

impl Peer {
    /// Connects to a master as a role, up to the WebSocket.
    #[track_caller]
    pub(crate) fn connect(master: SocketAddr) -> Peer {
        Peer::try_connect(master).expect("the master upgrades")
    }

    /// The same with a master that may be too busy. `None` when the master ends the connection.
    #[track_caller]
    pub(crate) fn try_connect(master: SocketAddr) -> Option<Peer> {
        let stream = TcpStream::connect(master).expect("a connection to the master");
        // On a busy machine the first answer may take long. Later reads are short.
        stream
            .set_read_timeout(Some(wait::TIMEOUT))
            .expect("a limit for reading");
        let config = WebSocketConfig::default()
            .read_buffer_size(4096)
            .max_message_size(None)
            .max_frame_size(None);
        let upgraded = tungstenite::client::client_with_config(
            format!("ws://{master}/"),
            RestartingStream(stream),
            Some(config),
        );
        upgraded.ok().map(|(socket, _)| Peer::over(socket))
    }

    /// Accepts a role as a master, up to the WebSocket.
    pub(crate) fn accept(listener: &TcpListener) -> Peer {
        let (stream, _) = listener.accept().expect("a role connects");
        stream
            .set_read_timeout(Some(wait::TIMEOUT))
            .expect("a limit for reading");
        Peer::over(
            tungstenite::accept(RestartingStream(stream)).expect("the role asks for a WebSocket"),
        )
    }

    fn over(socket: WebSocket<RestartingStream>) -> Peer {
        socket
            .get_ref()
            .0
            .set_read_timeout(Some(READ_TIMEOUT))
            .expect("a read timeout");
        socket.get_ref().0.set_nodelay(true).expect("no delay");
        Peer { socket }
    }

    /// The connection under the WebSocket, for tests that continue without the WebSocket.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.socket.into_inner().0
    }

    /// Sends a message unchanged. An error shows later, in what the peer answers.
    pub(crate) fn send_raw(&mut self, message: impl Into<Message>) {
        let _ = self.socket.send(message.into());
    }

    /// Sends several frames at once.
    pub(crate) fn send_all(&mut self, frames: impl IntoIterator<Item = Frame>) {
        for frame in frames {
            if self.socket.write(frame.to_message().into()).is_err() {
                return;
            }
        }
        let _ = self.socket.flush();
    }

    /// Sends a frame.
    pub(crate) fn send(&mut self, frame: &Frame) {
        let mut message = BytesMut::new();
        frame.encode(&mut message);
        self.send_raw(message.freeze());
    }

    /// Reads the next binary message, if there is one.
    pub(crate) fn try_read(&mut self) -> Received {
        match self.socket.read() {
            Ok(Message::Binary(message)) => Received::Message(message),
            Ok(Message::Close(_)) => Received::End,
            Ok(_) => Received::Nothing,
            Err(Error::Io(error))
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                Received::Nothing
            }
            Err(_) => Received::End,
        }
    }

    /// Waits for the next binary message. `None` when the connection ended instead.
    #[track_caller]
    pub(crate) fn message(&mut self) -> Option<Bytes> {
        wait::until("the peer sends a message", || match self.try_read() {
            Received::Message(message) => Some(Some(message)),
            Received::Nothing => None,
            Received::End => Some(None),
        })
    }

    /// Waits for the next frame. Answers PING itself.
    #[track_caller]
    pub(crate) fn frame(&mut self) -> Option<Frame> {
        loop {
            match Frame::decode(self.message()?).expect("the peer's message is a frame") {
                Frame::Ping(token) => self.send(&Frame::Pong(token)),
                frame => return Some(frame),
            }
        }
    }

    /// Waits until the connection has ended. Returns the notice of an ERROR frame that came before.
    #[track_caller]
    pub(crate) fn wait_closed(&mut self) -> Option<report_proto::frame::Notice> {
        let mut notice = None;
        // `frame` would not do here: it never returns for a peer that sends keep-alives and does
        // not end.
        wait::until("the peer ends the connection", || match self.try_read() {
            Received::Message(message) => {
                if let Ok(Frame::Error(error)) = Frame::decode(message) {
                    notice = Some(error);
                }
                None
            }
            Received::Nothing => None,
            Received::End => Some(()),
        });
        notice
    }

    /// As a role: reads the challenge and sends HELLO with the key. Returns the challenge.
    #[track_caller]
    pub(crate) fn hello(
        &mut self,
        role: Role,
        key: &LinkKey,
        instance: Id,
        epoch: u64,
    ) -> Challenge {
        self.try_hello(role, key, instance, epoch)
            .expect("a challenge")
    }

    /// The same. `None` when the connection ended instead.
    #[track_caller]
    pub(crate) fn try_hello(
        &mut self,
        role: Role,
        key: &LinkKey,
        instance: Id,
        epoch: u64,
    ) -> Option<Challenge> {
        let challenge = Challenge::parse(&self.message()?).expect("a challenge of this version");
        let nonce = Nonce(random());
        let claims = Claims {
            version: 1,
            role,
            instance,
            slot: Slot::FIRST,
            epoch,
            moves: false,
            quiet_seconds: 0,
            nonce,
            credential: None,
            agent: "test".to_owned(),
        };
        let claims = Bytes::from(serde_json::to_vec(&claims).expect("JSON of the claims"));
        self.send(&Frame::Hello {
            proof: key.prove_hello(&challenge, &claims),
            claims,
        });
        Some(challenge)
    }

    /// As a master: sends a challenge, expects HELLO, and sends WELCOME with the key of the role.
    /// Returns the role's claims.
    #[track_caller]
    pub(crate) fn welcome(&mut self, master_key: &LinkKey) -> Claims {
        let challenge = Challenge::new(random());
        self.send_raw(Bytes::copy_from_slice(challenge.as_bytes()));
        let Some(Frame::Hello { proof, claims }) = self.frame() else {
            panic!("the role sends HELLO first")
        };
        let spoken: Claims = serde_json::from_slice(&claims).expect("claims");
        let key = if spoken.role == Role::Server {
            master_key
        } else {
            &LinkKey::derive(None)
        };
        assert!(
            key.verify_hello(&challenge, &claims, &proof),
            "the role proves its key"
        );
        let terms = Terms {
            version: 1,
            heartbeat_seconds: 20,
            max_channels: 1000,
            max_ports: 1000,
            retry_within_ms: 0,
        };
        let terms = Bytes::from(serde_json::to_vec(&terms).expect("JSON of the terms"));
        self.send(&Frame::Welcome {
            proof: key.prove_welcome(&challenge, &spoken.nonce.0, &terms),
            terms,
        });
        spoken
    }
}

/// Random bytes. They are not secret.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    std::array::from_fn(|_| fastrand::u8(..))
}
