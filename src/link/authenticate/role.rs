//! The role's side: joins a master.

use std::time::Duration;

use bytes::Bytes;

use super::AUTHENTICATION_TIMEOUT;
use crate::{
    net::{
        Reason,
        websocket::{MessageSocket, SocketError},
    },
    random,
};
use report_proto::{
    crypto::{Challenge, ChallengeError, LinkKey},
    frame::{self, Claims, Code, Frame, Nonce, Notice, Role, Terms},
    id::Id,
};

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

impl RoleIdentity {
    /// Returns the encoded claims of a HELLO.
    fn claims(&self, quiet_seconds: u32, nonce: Nonce) -> Bytes {
        Claims {
            version: frame::VERSION,
            role: self.role,
            instance: self.instance,
            epoch: self.epoch,
            moves: self.moves,
            quiet_seconds,
            nonce,
            agent: self.agent.clone(),
        }
        .encode()
    }
}

/// An error of [`join`].
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The peer speaks WebSocket, but is not a master.
    #[error(
        "authentication: the peer is not a rePort master; check the address and the path in `master`"
    )]
    NotAMaster,
    /// The master speaks another version of the protocol.
    #[error(
        "authentication: the master speaks version {theirs} of the protocol, this is version {}; upgrade the older one",
        frame::VERSION
    )]
    Version {
        /// The master's version.
        theirs: u8,
    },
    /// The master does not know the master key.
    #[error(
        "authentication: the master could not prove the master key (false master); compare `master_key` at both ends"
    )]
    FalseMaster,
    /// The master refused the role's proof.
    #[error(
        "authentication: the master refused the master key ({0}); compare `master_key` at both ends"
    )]
    Unauthorized(Notice),
    /// Too many wrong proofs came from this address.
    #[error(
        "authentication: the master throttles this address after wrong keys ({0}); wait, and compare `master_key` at both ends"
    )]
    Throttled(Notice),
    /// A newer link of this process is up.
    #[error(
        "authentication: a newer link of this instance is up ({0}); no action is needed, it carries the traffic"
    )]
    Superseded(Notice),
    /// A limit of the master is reached.
    #[error("authentication: a limit of the master is reached ({0}); raise it there")]
    Limit(Notice),
    /// The master refused the link for another reason.
    #[error("authentication: the master refused the link ({0}); see the master's log")]
    Refused(Notice),
    /// The master sent nothing for [`AUTHENTICATION_TIMEOUT`].
    #[error("authentication: no {awaited} from the master within {} s; check whether another program listens there", .after.as_secs_f32())]
    TimedOut {
        /// The missing message.
        awaited: &'static str,
        /// The timeout.
        after: Duration,
    },
    /// The master closed the WebSocket instead of answering.
    #[error(
        "authentication: the master closed the link before its {awaited}; see the master's log, or a middlebox cuts WebSockets: try \
         wss:// in `master`, or another port"
    )]
    Closed {
        /// The missing message.
        awaited: &'static str,
    },
    /// The master sent a malformed or unexpected message.
    #[error(
        "authentication: the master broke the protocol: {0}; a middlebox alters the data, or one end is too old: try \
         wss:// in `master`, and the same version at both ends"
    )]
    Protocol(String),
    /// The connection failed.
    #[error("authentication: {0}; {remedy}", remedy = remedy(.0))]
    Socket(#[from] SocketError),
}

/// Returns the remedy for a socket that fails directly after its upgrade.
fn remedy(error: &SocketError) -> &'static str {
    if error.is_violation() {
        "the peer that answered 101 does not speak WebSocket, or a middlebox alters the data: try wss:// in `master`, and check what listens there"
    } else {
        "a middlebox cuts WebSockets directly after their upgrade: try wss:// in `master`, another port or another network"
    }
}

impl JoinError {
    /// Returns the evidence and the remedy.
    #[must_use]
    pub fn reason(&self) -> Reason {
        Reason::from_sentence(&self.to_string(), "see the master's log")
    }

    /// Whether another attempt can succeed without a change at either end. A role retries in any
    /// case: the other end may change. For an error that is not retryable it waits longer.
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
            | JoinError::TimedOut { .. }
            | JoinError::Closed { .. }
            | JoinError::Protocol(_)
            | JoinError::Socket(_) => true,
        }
    }

    fn from_notice(notice: Notice, role: Role) -> Self {
        match notice.code {
            // A client's key is public, so only a server can have a wrong one.
            Code::Unauthorized if role == Role::Server => JoinError::Unauthorized(notice),
            Code::Throttled => JoinError::Throttled(notice),
            Code::Superseded => JoinError::Superseded(notice),
            Code::Limit => JoinError::Limit(notice),
            _ => JoinError::Refused(notice),
        }
    }
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
    let claims = identity.claims(quiet_seconds, nonce);
    let hello = Frame::Hello {
        proof: key.prove_hello(&challenge, &claims),
        claims,
    };
    send_flight(socket, hello, first).await?;
    match Frame::decode(receive_from_master(socket, "WELCOME").await?) {
        // The proof comes first: unverified terms are not parsed.
        Ok(Frame::Welcome { proof, terms })
            if key.verify_welcome(&challenge, &nonce.0, &terms, &proof) =>
        {
            Terms::decode(&terms).map_err(|error| JoinError::Protocol(error.to_string()))
        }
        Ok(Frame::Welcome { .. }) => Err(JoinError::FalseMaster),
        Ok(Frame::Error(notice)) => Err(JoinError::from_notice(notice, identity.role)),
        Ok(other) => Err(JoinError::Protocol(format!(
            "{} before WELCOME",
            other.name()
        ))),
        Err(error) => Err(JoinError::Protocol(error.to_string())),
    }
}

/// Sends HELLO and the role's first frames.
async fn send_flight(
    socket: &mut MessageSocket,
    hello: Frame,
    first: &[Frame],
) -> Result<(), JoinError> {
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
    Ok(())
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
