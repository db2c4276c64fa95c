//! One end of a link in the test's own hands: a role before a real master, or a master before real roles. Says whatever the test wants.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use ::bytes::{Bytes, BytesMut};
use report::{
    crypto::{Challenge, LinkKey},
    frame::{Claims, Frame, Nonce, Role, Terms},
    id::Id,
};
use tokio_tungstenite::tungstenite::{self, Error, Message, WebSocket, protocol::WebSocketConfig};

use super::{services, wait};

/// How long one look at the socket waits.
const LOOK: Duration = Duration::from_millis(10);

/// The peer at the other end of a WebSocket.
pub struct Peer {
    socket: WebSocket<Steady>,
}

/// A socket whose reads begin again after a signal: a WebSocket's opening handshake would take it for a failure.
struct Steady(TcpStream);

impl Read for Steady {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        services::read(&self.0, buffer)
    }
}

impl Write for Steady {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// What a look at the socket found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Message(Bytes),
    /// The peer said nothing yet.
    Nothing,
    /// The connection is over.
    End,
}

impl Peer {
    /// Connects to a master as a role would, up to the WebSocket.
    #[track_caller]
    pub fn connect(master: SocketAddr) -> Peer {
        Peer::try_connect(master).expect("the master upgrades")
    }

    /// The same with a master that may be too busy; it then ends the connection.
    #[track_caller]
    pub fn try_connect(master: SocketAddr) -> Option<Peer> {
        let stream = TcpStream::connect(master).expect("a connection to the master");
        // The first answer may take as long as a busy machine wants; a single look is short.
        stream
            .set_read_timeout(Some(wait::PATIENCE))
            .expect("a limit for reading");
        let config = WebSocketConfig::default()
            .read_buffer_size(4096)
            .max_message_size(None)
            .max_frame_size(None);
        let upgraded = tungstenite::client::client_with_config(
            format!("ws://{master}/"),
            Steady(stream),
            Some(config),
        );
        upgraded.ok().map(|(socket, _)| Peer::over(socket))
    }

    /// Takes a role in as a master would, up to the WebSocket.
    pub fn accept(listener: &TcpListener) -> Peer {
        let (stream, _) = listener.accept().expect("a role connects");
        stream
            .set_read_timeout(Some(wait::PATIENCE))
            .expect("a limit for reading");
        Peer::over(tungstenite::accept(Steady(stream)).expect("the role asks for a WebSocket"))
    }

    fn over(socket: WebSocket<Steady>) -> Peer {
        socket
            .get_ref()
            .0
            .set_read_timeout(Some(LOOK))
            .expect("a limit for one look");
        socket.get_ref().0.set_nodelay(true).expect("no delay");
        Peer { socket }
    }

    /// The connection under the WebSocket, for who goes on without one.
    pub fn into_stream(self) -> TcpStream {
        self.socket.into_inner().0
    }

    /// Sends a message as it is. What the peer makes of it shows in what it answers.
    pub fn say(&mut self, message: impl Into<Message>) {
        let _ = self.socket.send(message.into());
    }

    /// Sends frames, many at a time.
    pub fn send_all(&mut self, frames: impl IntoIterator<Item = Frame>) {
        for frame in frames {
            if self.socket.write(frame.to_message().into()).is_err() {
                return;
            }
        }
        let _ = self.socket.flush();
    }

    /// Sends a frame.
    pub fn send(&mut self, frame: &Frame) {
        let mut message = BytesMut::new();
        frame.encode(&mut message);
        self.say(message.freeze());
    }

    /// Looks once for the next binary message.
    pub fn look(&mut self) -> Heard {
        match self.socket.read() {
            Ok(Message::Binary(message)) => Heard::Message(message),
            Ok(Message::Close(_)) => Heard::End,
            Ok(_) => Heard::Nothing,
            Err(Error::Io(error))
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                Heard::Nothing
            }
            Err(_) => Heard::End,
        }
    }

    /// Waits for the next binary message; nothing when the connection ended instead.
    #[track_caller]
    pub fn message(&mut self) -> Option<Bytes> {
        wait::until("the peer says something", || match self.look() {
            Heard::Message(message) => Some(Some(message)),
            Heard::Nothing => None,
            Heard::End => Some(None),
        })
    }

    /// Waits for the next frame; answers PING itself.
    #[track_caller]
    pub fn frame(&mut self) -> Option<Frame> {
        loop {
            match Frame::decode(self.message()?).expect("what the peer sends is a frame") {
                Frame::Ping(token) => self.send(&Frame::Pong(token)),
                frame => return Some(frame),
            }
        }
    }

    /// Waits until the connection has ended; the notice of an ERROR frame that came before.
    #[track_caller]
    pub fn ended(&mut self) -> Option<report::frame::Notice> {
        let mut notice = None;
        // Not by frame(): a peer that sends heartbeats and does not end would never be found out.
        wait::until("the peer ends the connection", || match self.look() {
            Heard::Message(message) => {
                if let Ok(Frame::Error(error)) = Frame::decode(message) {
                    notice = Some(error);
                }
                None
            }
            Heard::Nothing => None,
            Heard::End => Some(()),
        });
        notice
    }

    /// As a role: reads the challenge and says HELLO with the key; the challenge.
    #[track_caller]
    pub fn hello(&mut self, role: Role, key: &LinkKey, instance: Id, epoch: u64) -> Challenge {
        self.try_hello(role, key, instance, epoch)
            .expect("a challenge")
    }

    /// The same; nothing when the connection ended instead.
    #[track_caller]
    pub fn try_hello(
        &mut self,
        role: Role,
        key: &LinkKey,
        instance: Id,
        epoch: u64,
    ) -> Option<Challenge> {
        let challenge = Challenge::parse(&self.message()?).expect("a challenge of our version");
        let nonce = Nonce(random());
        let claims = Claims {
            version: 1,
            role,
            instance,
            epoch,
            moves: false,
            quiet_seconds: 0,
            nonce,
            agent: "test".to_owned(),
        };
        let claims = Bytes::from(serde_json::to_vec(&claims).expect("JSON of the claims"));
        self.send(&Frame::Hello {
            proof: key.prove_hello(&challenge, &claims),
            claims,
        });
        Some(challenge)
    }

    /// As a master: sends a challenge, expects HELLO, and says WELCOME with the key that fits the role. The role's claims.
    #[track_caller]
    pub fn welcome(&mut self, master_key: &LinkKey) -> Claims {
        let challenge = Challenge::new(random());
        self.say(Bytes::copy_from_slice(challenge.as_bytes()));
        let Some(Frame::Hello { proof, claims }) = self.frame() else {
            panic!("the role says HELLO first")
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
        };
        let terms = Bytes::from(serde_json::to_vec(&terms).expect("JSON of the terms"));
        self.send(&Frame::Welcome {
            proof: key.prove_welcome(&challenge, &spoken.nonce.0, &terms),
            terms,
        });
        spoken
    }
}

/// Random bytes; nothing here is a secret.
pub fn random<const N: usize>() -> [u8; N] {
    std::array::from_fn(|_| fastrand::u8(..))
}
