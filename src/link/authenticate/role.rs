//! The role's side: joins a master.

use bytes::Bytes;

use super::{
    AUTHENTICATION_TIMEOUT,
    join_error::{JoinError, ProtocolFault},
    link_secret::LinkSecret,
};
use crate::{net::websocket::MessageSocket, random};
use report_proto::{
    crypto::{Challenge, ChallengeError},
    frame::{self, Claims, Frame, Nonce, Role, Slot, Terms},
    id::Id,
};

/// The identity that a role claims in HELLO.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleIdentity {
    /// The kind of role.
    pub role: Role,
    /// The random id of the process.
    pub instance: Id,
    /// The slot of the link.
    pub slot: Slot,
    /// The number of the link. It grows with each link of the process.
    pub epoch: u64,
    /// Whether the previous link of the slot continues for a while.
    pub moves: bool,
    /// Free text for the master's log.
    pub agent: String,
}

impl RoleIdentity {
    /// Returns the encoded claims of a HELLO or SIGNED_HELLO.
    fn claims(&self, quiet_seconds: u32, nonce: Nonce, credential: Option<Id>) -> Bytes {
        Claims {
            version: frame::VERSION,
            role: self.role,
            instance: self.instance,
            slot: self.slot,
            epoch: self.epoch,
            moves: self.moves,
            quiet_seconds,
            nonce,
            credential,
            agent: self.agent.clone(),
        }
        .encode()
    }
}

/// Joins a master: waits for its challenge, sends HELLO or SIGNED_HELLO and `first` in one flight,
/// waits for WELCOME and verifies the master's proof. Frames after WELCOME stay in the socket.
///
/// # Errors
/// The master refuses the role, cannot prove the secret, is not a master, or does not answer in
/// time.
/// The socket is unusable afterwards.
///
/// # Cancel safety
/// Not safe: the authentication would be incomplete, and the socket unusable.
pub async fn join(
    socket: &mut MessageSocket,
    secret: &LinkSecret,
    identity: &RoleIdentity,
    first: &[Frame],
) -> Result<Terms, JoinError> {
    join_with_quiet_period(socket, secret, identity, first, 0).await
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
    secret: &LinkSecret,
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
    let claims = identity.claims(quiet_seconds, nonce, secret.credential());
    send_flight(socket, secret.hello(&challenge, claims), first).await?;
    let key = secret.welcome_key();
    match Frame::decode(receive_from_master(socket, "WELCOME").await?) {
        // The proof comes first: unverified terms are not parsed.
        Ok(Frame::Welcome { proof, terms })
            if key.verify_welcome(&challenge, &nonce.0, &terms, &proof) =>
        {
            Terms::decode(&terms).map_err(|error| JoinError::Protocol(ProtocolFault::Frame(error)))
        }
        Ok(Frame::Welcome { .. }) => Err(JoinError::of_false_master(secret)),
        Ok(Frame::Error(notice)) => Err(JoinError::from_notice(notice, secret)),
        Ok(other) => Err(JoinError::Protocol(ProtocolFault::OutOfState(other.name()))),
        Err(error) => Err(JoinError::Protocol(ProtocolFault::Frame(error))),
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
