//! The first flight of a link (PROTOCOL 4): the master's challenge, the role's HELLO with all that it wants, the master's WELCOME.
//!
//! ```text
//!  master                      role
//!    │ ───── challenge ──────► │
//!    │ ◄─ HELLO, REGISTER, … ─ │      judged by the master: Hello::proven
//!    │ ─ WELCOME or ERROR ───► │      judged by the role: join
//! ```
//!
//! Each end waits for the other for [`AUTHENTICATION_TIMEOUT`] at most.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Reason,
    websocket::{MessageSocket, SocketError},
};
use crate::{
    crypto::{Challenge, ChallengeError, LinkKey},
    frame::{self, Claims, Code, Frame, FrameError, Nonce, Notice, PROOF, Role, Terms},
    id::Id,
    random,
};

/// How long each end waits for the other: several round trips of a slow path (PROTOCOL 12).
pub const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest first message of a peer, in bytes: HELLO takes a few hundred (PROTOCOL 12, `MAX_FIRST`).
pub(crate) const MAX_FIRST: usize = 4 * 1024;

/// How long a peer that is refused has to read why.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(2);

/// Who a role says that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Introduction {
    /// What it is.
    pub role: Role,
    /// Drawn once when the process started.
    pub instance: Id,
    /// Larger with each link of this process.
    pub epoch: u64,
    /// Whether the link before this one is to go on for a while.
    pub moves: bool,
    /// Free text for the master's log.
    pub agent: String,
}

/// Why a role could not join a master.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// What answered is a WebSocket, but no master.
    #[error(
        "authentication: what answers there is not a rePort master; check the address and the path in `master`"
    )]
    NotAMaster,
    /// The master speaks another version.
    #[error(
        "authentication: the master speaks version {theirs} of the protocol, this is version {}; upgrade the older one",
        frame::VERSION
    )]
    Version {
        /// The master's.
        theirs: u8,
    },
    /// The master does not know the master key.
    #[error(
        "authentication: the master could not prove the master key (false master); compare `master_key` at both ends"
    )]
    FalseMaster,
    /// The master refuses our proof.
    #[error(
        "authentication: the master refused the master key ({0}); compare `master_key` at both ends"
    )]
    Unauthorized(Notice),
    /// Too many wrong proofs came from our address.
    #[error(
        "authentication: the master throttles this address after wrong keys ({0}); wait, and compare `master_key` at both ends"
    )]
    Throttled(Notice),
    /// A newer link of this process is there already.
    #[error(
        "authentication: a newer link of this instance is up ({0}); nothing is to be done, it carries the traffic"
    )]
    Superseded(Notice),
    /// A limit of the master.
    #[error("authentication: a limit of the master is reached ({0}); raise it there")]
    Limit(Notice),
    /// The master refuses us for another reason.
    #[error("authentication: the master refused the link ({0}); its log says why")]
    Refused(Notice),
    /// The master said nothing for [`AUTHENTICATION_TIMEOUT`].
    #[error("authentication: no {awaited} from the master within {} s; is something else listening there?", .after.as_secs_f32())]
    Silent {
        /// The message that did not come.
        awaited: &'static str,
        /// The time that it had.
        after: Duration,
    },
    /// The master closed the WebSocket instead of answering.
    #[error(
        "authentication: the master closed the link before its {awaited}; its log says why, or something in between cuts WebSockets: try \
         wss:// in `master`, or another port"
    )]
    Closed {
        /// The message that did not come.
        awaited: &'static str,
    },
    /// The master sent something that is malformed or out of state.
    #[error(
        "authentication: the master broke the protocol: {0}; something in between changes what passes, or one end is too old: try \
         wss:// in `master`, and the same version at both ends"
    )]
    Protocol(String),
    /// The connection failed.
    #[error("authentication: {0}; {remedy}", remedy = remedy(.0))]
    Socket(#[from] SocketError),
}

/// What can be done about a socket that fails right behind its upgrade.
fn remedy(error: &SocketError) -> &'static str {
    if error.is_violation() {
        "what answered 101 is no WebSocket, or something in between changes what passes: try wss:// in `master`, and look at what listens there"
    } else {
        "something in between cuts WebSockets right behind their upgrade: try wss:// in `master`, another port or another network"
    }
}

impl JoinError {
    /// What was seen and what can be done.
    #[must_use]
    pub fn reason(&self) -> Reason {
        Reason::of_sentence(&self.to_string(), "the master's log says more")
    }

    /// Whether trying again can help without anybody changing something. A role tries again all the same, with its longest wait, since the
    /// other end may be the one that changes.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            JoinError::NotAMaster
            | JoinError::Version { .. }
            | JoinError::FalseMaster
            | JoinError::Unauthorized(_) => false,
            JoinError::Throttled(_)
            | JoinError::Superseded(_)
            | JoinError::Limit(_)
            | JoinError::Refused(_)
            | JoinError::Silent { .. }
            | JoinError::Closed { .. }
            | JoinError::Protocol(_)
            | JoinError::Socket(_) => true,
        }
    }

    fn refused(notice: Notice, role: Role) -> Self {
        match notice.code {
            Code::Unauthorized if role == Role::Server => JoinError::Unauthorized(notice),
            Code::Throttled => JoinError::Throttled(notice),
            Code::Superseded => JoinError::Superseded(notice),
            Code::Limit => JoinError::Limit(notice),
            _ => JoinError::Refused(notice),
        }
    }
}

/// Joins a master: waits for its challenge, sends HELLO and `first` in one flight, waits for WELCOME and checks the master's proof. Frames
/// that the master sent behind its WELCOME stay in the socket.
///
/// # Errors
/// When the master refuses, cannot prove itself, is none, or does not answer in time; the socket is no use then.
///
/// # Cancel safety
/// Not safe: the socket is in the middle of the authentication then.
pub async fn join(
    socket: &mut MessageSocket,
    key: &LinkKey,
    introduction: &Introduction,
    first: &[Frame],
) -> Result<Terms, JoinError> {
    join_quietly(socket, key, introduction, first, 0).await
}

/// The same, and asks the master to say nothing by itself for so many seconds (PROTOCOL 6.7). One that does not know that says PING as ever.
///
/// # Errors
/// As [`join`].
///
/// # Cancel safety
/// Not safe: the socket is in the middle of the authentication then.
pub async fn join_quietly(
    socket: &mut MessageSocket,
    key: &LinkKey,
    introduction: &Introduction,
    first: &[Frame],
    quiet_seconds: u32,
) -> Result<Terms, JoinError> {
    let challenge =
        Challenge::parse(&answer(socket, "challenge").await?).map_err(|error| match error {
            ChallengeError::NotAMaster => JoinError::NotAMaster,
            ChallengeError::Version(theirs) => JoinError::Version { theirs },
        })?;
    let nonce = Nonce(random::bytes());
    let claims = Claims {
        version: frame::VERSION,
        role: introduction.role,
        instance: introduction.instance,
        epoch: introduction.epoch,
        moves: introduction.moves,
        quiet_seconds,
        nonce,
        agent: introduction.agent.clone(),
    }
    .encode();
    let hello = Frame::Hello {
        proof: key.prove_hello(&challenge, &claims),
        claims,
    };
    // The master may be silent in the other direction as well: it reads only so much before it answers.
    let flight = async {
        socket.feed(hello.to_message()).await?;
        for frame in first {
            socket.feed(frame.to_message()).await?;
        }
        socket.flush().await
    };
    // A master that refuses may have closed while the flight left: its reason can still be read, whatever became of the flight.
    if tokio::time::timeout(AUTHENTICATION_TIMEOUT, flight)
        .await
        .is_err()
    {
        return Err(JoinError::Silent {
            awaited: "WELCOME",
            after: AUTHENTICATION_TIMEOUT,
        });
    }
    match Frame::decode(answer(socket, "WELCOME").await?) {
        Ok(Frame::Welcome { proof, terms })
            if key.verify_welcome(&challenge, &nonce.0, &terms, &proof) =>
        {
            Terms::decode(&terms).map_err(|error| JoinError::Protocol(error.to_string()))
        }
        Ok(Frame::Welcome { .. }) => Err(JoinError::FalseMaster),
        Ok(Frame::Error(notice)) => Err(JoinError::refused(notice, introduction.role)),
        Ok(other) => Err(JoinError::Protocol(format!(
            "{} before WELCOME",
            other.name()
        ))),
        Err(error) => Err(JoinError::Protocol(error.to_string())),
    }
}

async fn answer(socket: &mut MessageSocket, awaited: &'static str) -> Result<Bytes, JoinError> {
    match tokio::time::timeout(AUTHENTICATION_TIMEOUT, socket.receive()).await {
        Ok(Ok(Some(message))) => Ok(message.freeze()),
        Ok(Ok(None)) => Err(JoinError::Closed { awaited }),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(JoinError::Silent {
            awaited,
            after: AUTHENTICATION_TIMEOUT,
        }),
    }
}

/// A HELLO, before the master has judged it.
#[derive(Debug, Clone)]
pub struct Hello {
    /// What the role claims.
    pub claims: Claims,
    challenge: Challenge,
    text: Bytes,
    proof: [u8; PROOF],
}

impl Hello {
    /// Whether the role proved `key` over its claims, in constant time. The key of a client is known to everybody
    /// (`LinkKey::derive(None)`): its proof says that the claims are whole.
    #[must_use]
    pub fn proven(&self, key: &LinkKey) -> bool {
        key.verify_hello(&self.challenge, &self.text, &self.proof)
    }
}

/// Why a peer is not taken in before its proof is even looked at.
#[derive(Debug, thiserror::Error)]
pub enum HelloError {
    /// It sent no HELLO in time.
    #[error("no HELLO within {} s", .0.as_secs_f32())]
    Silent(Duration),
    /// It closed, or its connection was cut.
    #[error("it left before its HELLO")]
    Closed,
    /// It claims another version.
    #[error(
        "it speaks version {theirs} of the protocol, this is version {}; upgrade the older one",
        frame::VERSION
    )]
    Version {
        /// The role's.
        theirs: u8,
    },
    /// It sent something else than HELLO.
    #[error("{0} before HELLO")]
    OutOfState(&'static str),
    /// It sent something that is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The socket failed, or it is no WebSocket.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

impl HelloError {
    /// What to tell the peer with [`refuse`]; `None` when nobody is there to be told.
    #[must_use]
    pub fn notice(&self) -> Option<Notice> {
        let code = match self {
            HelloError::Closed => return None,
            HelloError::Socket(error) if !error.is_violation() => return None,
            HelloError::Silent(_) => Code::Timeout,
            HelloError::Version { .. } => Code::Version,
            HelloError::OutOfState(_) | HelloError::Frame(_) | HelloError::Socket(_) => {
                Code::Protocol
            }
        };
        Some(Notice::new(code, self.to_string()))
    }
}

/// The master's part before it judges: sends a fresh challenge and waits for HELLO until `deadline` from now.
///
/// # Errors
/// When the peer sends no HELLO in time: refuse it with [`HelloError::notice`].
///
/// # Cancel safety
/// Not safe: the socket is in the middle of the authentication then.
pub async fn hello(socket: &mut MessageSocket, deadline: Duration) -> Result<Hello, HelloError> {
    let challenge = Challenge::new(random::bytes());
    socket.limit_messages(MAX_FIRST);
    let received = async {
        socket
            .feed(Bytes::copy_from_slice(challenge.as_bytes()))
            .await?;
        socket.flush().await?;
        socket.receive().await
    };
    let message = match tokio::time::timeout(deadline, received).await {
        Err(_) => return Err(HelloError::Silent(deadline)),
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

/// The master's answer to a role that it takes in: WELCOME, proven with the key that the role proved.
///
/// # Errors
/// When the connection failed.
///
/// # Cancel safety
/// Not safe: the socket is in the middle of the authentication then.
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

/// The master's answer to a role that it does not take in: ERROR, and the WebSocket is closed in order, within two seconds.
///
/// # Cancel safety
/// Dropping the future cuts the connection.
pub async fn refuse(mut socket: MessageSocket, notice: &Notice) {
    let told = async {
        socket
            .feed(Frame::Error(notice.clone()).to_message())
            .await?;
        socket.flush().await
    };
    if let Ok(Ok(())) = tokio::time::timeout(REFUSAL_DEADLINE, told).await {
        socket.close(REFUSAL_DEADLINE).await;
    }
}

#[cfg(test)]
mod tests;
