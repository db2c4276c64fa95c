//! The master's side: verifies, accepts or refuses a role.

use std::time::Duration;

use bytes::Bytes;

use super::MAX_FIRST;
use crate::{
    net::websocket::{MessageSocket, SocketError},
    random,
};
use report_proto::{
    crypto::{Challenge, CredentialVerifier, LinkKey},
    frame::{self, Claims, Code, Frame, FrameError, Notice, PROOF_LENGTH, SIGNATURE_LENGTH, Terms},
    id::Id,
};

/// The time that a refused peer has to read the reason.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(2);

/// A received HELLO or SIGNED_HELLO that the master has not verified yet.
#[derive(Debug, Clone)]
pub struct Hello {
    /// The role's claims.
    pub claims: Claims,
    challenge: Challenge,
    text: Bytes,
    proof: HelloProof,
}

/// The proof of a role.
#[derive(Debug, Clone)]
enum HelloProof {
    /// The MAC of a HELLO.
    Mac([u8; PROOF_LENGTH]),
    /// The signature of a SIGNED_HELLO, and the credential that it is for.
    Signature(Id, Box<[u8; SIGNATURE_LENGTH]>),
}

impl Hello {
    /// Returns the credential that the role claims to hold, if it sent SIGNED_HELLO.
    #[must_use]
    pub fn credential(&self) -> Option<Id> {
        match &self.proof {
            HelloProof::Signature(id, _) => Some(*id),
            HelloProof::Mac(_) => None,
        }
    }

    /// Whether the role's proof over its claims matches `key`. Compares in constant time. The key
    /// of clients is public (`LinkKey::derive(None)`): a client's proof only shows that its claims
    /// are intact. Always `false` for a SIGNED_HELLO.
    #[must_use]
    pub fn verify_proof(&self, key: &LinkKey) -> bool {
        match &self.proof {
            HelloProof::Mac(proof) => key.verify_hello(&self.challenge, &self.text, proof),
            HelloProof::Signature(..) => false,
        }
    }

    /// Whether the role's signature over its claims matches the verifier of its credential. Always
    /// `false` for a HELLO.
    #[must_use]
    pub fn verify_signature(&self, verifier: &CredentialVerifier) -> bool {
        match &self.proof {
            HelloProof::Signature(id, signature) => {
                *id == verifier.id()
                    && verifier.verify_hello(&self.challenge, &self.text, signature)
            }
            HelloProof::Mac(_) => false,
        }
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
    /// The peer signed claims that name no credential.
    #[error("a SIGNED_HELLO without `credential`")]
    NoCredential,
    /// The peer sent another frame than HELLO or SIGNED_HELLO.
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
            HelloError::NoCredential
            | HelloError::OutOfState(_)
            | HelloError::Frame(_)
            | HelloError::Socket(_) => Code::Protocol,
        };
        Some(Notice::new(code, self.to_string()))
    }
}

/// Receives HELLO or SIGNED_HELLO at the master: sends a fresh challenge and waits for at most
/// `deadline`.
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
    read_hello(challenge, Frame::decode(message.freeze())?)
}

/// Reads the first frame of a role.
fn read_hello(challenge: Challenge, frame: Frame) -> Result<Hello, HelloError> {
    let (claims, text, proof) = match frame {
        Frame::Hello {
            proof,
            claims: text,
        } => (read_claims(&text)?, text, HelloProof::Mac(proof)),
        Frame::SignedHello {
            signature,
            claims: text,
        } => {
            let claims = read_claims(&text)?;
            let id = claims.credential.ok_or(HelloError::NoCredential)?;
            let proof = HelloProof::Signature(id, Box::new(signature));
            (claims, text, proof)
        }
        other => return Err(HelloError::OutOfState(other.name())),
    };
    Ok(Hello {
        claims,
        challenge,
        text,
        proof,
    })
}

fn read_claims(text: &[u8]) -> Result<Claims, HelloError> {
    let claims = Claims::decode(text)?;
    if claims.version == frame::VERSION {
        Ok(claims)
    } else {
        Err(HelloError::Version {
            theirs: claims.version,
        })
    }
}

/// Accepts a role at the master: sends WELCOME with a proof of the key that the role proved, or of
/// the welcome key of its credential.
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
