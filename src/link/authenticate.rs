//! Authenticates a link in its first flight (PROTOCOL 4): the master's challenge, the role's HELLO
//! with its first frames, and the master's WELCOME.
//!
//! ```text
//!  master                      role
//!    │ ───── challenge ──────► │
//!    │ ◄─ HELLO, REGISTER, … ─ │      the master verifies: Hello::verify_proof
//!    │ ─ WELCOME or ERROR ───► │      the role verifies: join
//! ```
//!
//! Each end waits for the other for at most [`AUTHENTICATION_TIMEOUT`].

mod join_error;

use std::time::Duration;

use bytes::Bytes;

pub use self::join_error::{JoinError, ProtocolFault};
use crate::{
    net::websocket::{MessageSocket, SocketError},
    random,
};
use report_proto::{
    crypto::{Challenge, ChallengeError, LinkKey},
    frame::{self, Claims, Code, Frame, FrameError, Nonce, Notice, PROOF_LENGTH, Role, Terms},
    id::Id,
};

/// The time that each end waits for the other: several round trips of a slow path (PROTOCOL 12).
pub const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest first message of a peer, in bytes. HELLO takes a few hundred (PROTOCOL 12,
/// `MAX_FIRST`).
pub(crate) const MAX_FIRST: usize = 4 * 1024;

/// The time that a refused peer has to read the reason.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(2);

/// The identity that a role claims in HELLO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleIdentity {
    /// The kind of role.
    pub role: Role,
    /// The random id of the process.
    pub instance: Id,
    /// The number of the link. It grows with each link of the process.
    pub epoch: u64,
    /// Whether the previous link continues for a while.
    pub moves: bool,
    /// Free text for the master's log.
    pub agent: String,
}

/// Joins a master: waits for its challenge, sends HELLO and `first` in one flight, waits for
/// WELCOME and verifies the master's proof. Frames that follow WELCOME stay in the socket.
///
/// # Errors
/// The master refuses the role, cannot prove the key, is not a master, or does not answer in time.
/// The socket is unusable afterwards.
///
/// # Cancel safety
/// Not safe: the authentication would be incomplete, and the socket unusable.
pub async fn join(
    socket: &mut MessageSocket,
    key: &LinkKey,
    identity: &RoleIdentity,
    first: &[Frame],
) -> Result<Terms, JoinError> {
    join_with_quiet_period(socket, key, identity, first, 0).await
}

/// Joins a master like [`join`], and asks it to send nothing unprompted for `quiet_seconds`
/// (PROTOCOL 6.7). A master that does not know the request sends PING as usual.
///
/// # Errors
/// As [`join`].
///
/// # Cancel safety
/// Not safe: the authentication would be incomplete, and the socket unusable.
pub async fn join_with_quiet_period(
    socket: &mut MessageSocket,
    key: &LinkKey,
    identity: &RoleIdentity,
    first: &[Frame],
    quiet_seconds: u32,
) -> Result<Terms, JoinError> {
    let challenge =
        Challenge::parse(&receive_from_master(socket, "challenge").await?).map_err(|error| {
            match error {
                ChallengeError::NotAMaster => JoinError::NotAMaster,
                ChallengeError::Version(theirs) => JoinError::Version { theirs },
            }
        })?;
    let nonce = Nonce(random::bytes());
    let claims = Claims {
        version: frame::VERSION,
        role: identity.role,
        instance: identity.instance,
        epoch: identity.epoch,
        moves: identity.moves,
        quiet_seconds,
        nonce,
        agent: identity.agent.clone(),
    }
    .encode();
    let hello = Frame::Hello {
        proof: key.prove_hello(&challenge, &claims),
        claims,
    };
    let flight = async {
        socket.feed(hello.to_message()).await?;
        for frame in first {
            socket.feed(frame.to_message()).await?;
        }
        socket.flush().await
    };
    // Sending needs a timeout too: the master reads only a limited amount before it answers.
    //
    // A failed send is no error yet: a master that refuses may have closed in the meantime, and its
    // ERROR can still be read.
    if tokio::time::timeout(AUTHENTICATION_TIMEOUT, flight)
        .await
        .is_err()
    {
        return Err(JoinError::TimedOut {
            awaited: "WELCOME",
            after: AUTHENTICATION_TIMEOUT,
        });
    }
    match Frame::decode(receive_from_master(socket, "WELCOME").await?) {
        // The proof comes first: unverified terms are not parsed.
        Ok(Frame::Welcome { proof, terms })
            if key.verify_welcome(&challenge, &nonce.0, &terms, &proof) =>
        {
            Terms::decode(&terms).map_err(|error| JoinError::Protocol(ProtocolFault::Frame(error)))
        }
        Ok(Frame::Welcome { .. }) => Err(JoinError::FalseMaster),
        Ok(Frame::Error(notice)) => Err(JoinError::from_notice(notice, identity.role)),
        Ok(other) => Err(JoinError::Protocol(ProtocolFault::OutOfState(other.name()))),
        Err(error) => Err(JoinError::Protocol(ProtocolFault::Frame(error))),
    }
}

async fn receive_from_master(
    socket: &mut MessageSocket,
    awaited: &'static str,
) -> Result<Bytes, JoinError> {
    match tokio::time::timeout(AUTHENTICATION_TIMEOUT, socket.receive()).await {
        Ok(Ok(Some(message))) => Ok(message.freeze()),
        Ok(Ok(None)) => Err(JoinError::Closed { awaited }),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(JoinError::TimedOut {
            awaited,
            after: AUTHENTICATION_TIMEOUT,
        }),
    }
}

/// A received HELLO that the master has not verified yet.
#[derive(Debug, Clone)]
pub struct Hello {
    /// The role's claims.
    pub claims: Claims,
    challenge: Challenge,
    text: Bytes,
    proof: [u8; PROOF_LENGTH],
}

impl Hello {
    /// Whether the role's proof over its claims matches `key`. Compares in constant time. The key
    /// of clients is public (`LinkKey::derive(None)`): a client's proof only shows that its claims
    /// are intact.
    #[must_use]
    pub fn verify_proof(&self, key: &LinkKey) -> bool {
        key.verify_hello(&self.challenge, &self.text, &self.proof)
    }
}

/// An error of [`hello`]: the master rejects the peer before it verifies a proof.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// The peer sent no HELLO in time.
    #[error("no HELLO within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// The peer closed the WebSocket, or its connection was cut.
    #[error("the peer left before HELLO")]
    Closed,
    /// The peer claims another version of the protocol.
    #[error(
        "it speaks version {theirs} of the protocol, this is version {}; upgrade the older one",
        frame::VERSION
    )]
    Version {
        /// The role's version.
        theirs: u8,
    },
    /// The peer sent another frame than HELLO.
    #[error("{0} before HELLO")]
    OutOfState(&'static str),
    /// The peer sent a message that is not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The connection failed, or does not carry WebSocket.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

impl HelloError {
    /// Returns the notice for [`refuse`], or `None` if the peer is gone.
    #[must_use]
    pub fn notice(&self) -> Option<Notice> {
        let code = match self {
            HelloError::Closed => return None,
            HelloError::Socket(error) if !error.is_violation() => return None,
            HelloError::TimedOut(_) => Code::Timeout,
            HelloError::Version { .. } => Code::Version,
            HelloError::OutOfState(_) | HelloError::Frame(_) | HelloError::Socket(_) => {
                Code::Protocol
            }
        };
        Some(Notice::new(code, self.to_string()))
    }
}

/// Receives HELLO at the master: sends a fresh challenge and waits for at most `deadline`.
///
/// # Errors
/// The peer sends no valid HELLO in time. Refuse it with [`HelloError::notice`].
///
/// # Cancel safety
/// Not safe: the authentication would be incomplete, and the socket unusable.
pub async fn hello(socket: &mut MessageSocket, deadline: Duration) -> Result<Hello, HelloError> {
    let challenge = Challenge::new(random::bytes());
    // An unauthenticated peer must not make the master buffer a full-size message.
    socket.limit_messages(MAX_FIRST);
    let received = async {
        socket
            .feed(Bytes::copy_from_slice(challenge.as_bytes()))
            .await?;
        socket.flush().await?;
        socket.receive().await
    };
    let message = match tokio::time::timeout(deadline, received).await {
        Err(_) => return Err(HelloError::TimedOut(deadline)),
        Ok(Ok(None) | Err(SocketError::Cut | SocketError::Closed)) => {
            return Err(HelloError::Closed);
        }
        Ok(Err(error)) => return Err(error.into()),
        Ok(Ok(Some(message))) => message,
    };
    socket.limit_messages(frame::MAX_MESSAGE);
    match Frame::decode(message.freeze())? {
        Frame::Hello {
            proof,
            claims: text,
        } => {
            let claims = Claims::decode(&text)?;
            if claims.version != frame::VERSION {
                return Err(HelloError::Version {
                    theirs: claims.version,
                });
            }
            Ok(Hello {
                claims,
                challenge,
                text,
                proof,
            })
        }
        other => Err(HelloError::OutOfState(other.name())),
    }
}

/// Accepts a role at the master: sends WELCOME with a proof of the key that the role proved.
///
/// # Errors
/// The connection failed.
///
/// # Cancel safety
/// Not safe: the authentication would be incomplete, and the socket unusable.
pub async fn welcome(
    socket: &mut MessageSocket,
    key: &LinkKey,
    hello: &Hello,
    terms: &Terms,
) -> Result<(), SocketError> {
    let terms = terms.encode();
    let proof = key.prove_welcome(&hello.challenge, &hello.claims.nonce.0, &terms);
    socket
        .feed(Frame::Welcome { proof, terms }.to_message())
        .await?;
    socket.flush().await
}

/// Refuses a role at the master: sends ERROR and closes the WebSocket gracefully, each within two
/// seconds.
///
/// # Cancel safety
/// Dropping the future cuts the connection.
pub async fn refuse(mut socket: MessageSocket, notice: &Notice) {
    let sent = async {
        socket
            .feed(Frame::Error(notice.clone()).to_message())
            .await?;
        socket.flush().await
    };
    if let Ok(Ok(())) = tokio::time::timeout(REFUSAL_DEADLINE, sent).await {
        socket.close(REFUSAL_DEADLINE).await;
    }
}

#[cfg(test)]
mod tests;
