//! The handshake that begins each attachment: `Noise_NNpsk0_25519_ChaChaPoly_SHA256` (PROTOCOL 7).
//!
//! ```text
//!  client                                   server
//!  Initiator::start ──first message──►  Responder::read
//!  Initiator::finish ◄─second message── Responder::finish
//!         └────────────── SessionKeys ───────────┘
//! ```
//! The first handshake of a tunnel also yields the [`TunnelSecret`]. The keys of every later
//! attachment are derived from it as well, so only the two ends of the tunnel can resume it.
//!
//! This module handles the port's keys and opaque payloads. It does not know the contents of an
//! offer or the transport. Ephemeral keys are arguments: 32 unpredictable bytes, never used twice.

mod session_keys;
#[cfg(test)]
mod tests;

use std::fmt;

use snow::{
    Builder, HandshakeState,
    params::{CipherChoice, DHChoice, HashChoice},
    resolvers::{CryptoResolver, DefaultResolver},
    types::{Cipher, Dh, Hash, Random},
};
use zeroize::Zeroizing;

pub use self::session_keys::{SessionKeys, TunnelSecret};
use super::keys::Psk;
use crate::id::Id;

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_SHA256";
const PROLOGUE: &[u8] = b"rePort tunnel 1";

/// The overhead of a handshake message over its payload in bytes: an ephemeral key and a tag.
pub const OVERHEAD: usize = 32 + 16;

/// The maximum length of a handshake message in bytes: the limit of Noise.
pub const MAX_MESSAGE: usize = 65_535;

/// A failed handshake.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer's message does not decrypt. The peer has another port key, or the message was
    /// altered.
    #[error("the handshake message does not decrypt: the other end has another port_key")]
    KeyMismatch,
    /// The length of the peer's message is invalid.
    #[error("invalid handshake message of {0} bytes")]
    Length(usize),
    /// The local payload does not fit into a message.
    #[error("a handshake payload of {0} bytes is too long")]
    Payload(usize),
    /// The Noise library rejected valid input. This is a bug in rePort.
    #[error("the Noise library failed: {0}")]
    Noise(snow::Error),
}

/// The client's side, after it has sent the first message.
pub struct Initiator(HandshakeState);

/// The server's side, after it has read the first message.
pub struct Responder(HandshakeState);

impl Initiator {
    /// Writes the first message, which carries `payload`.
    ///
    /// # Errors
    /// Returns an error if the payload is longer than [`MAX_MESSAGE`] minus [`OVERHEAD`].
    pub fn start(
        psk: &Psk,
        id: Id,
        payload: &[u8],
        ephemeral: [u8; 32],
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        let mut noise = build(psk, id, ephemeral, |builder| builder.build_initiator())?;
        let message = write(&mut noise, payload)?;
        Ok((Initiator(noise), message))
    }

    /// Reads the second message. Returns its payload and the session keys.
    ///
    /// # Errors
    /// Returns an error if the message is not a valid answer from a peer with the same port key.
    pub fn finish(mut self, message: &[u8]) -> Result<(Vec<u8>, SessionKeys), HandshakeError> {
        let payload = read(&mut self.0, message)?;
        Ok((payload, SessionKeys::split(self.0)))
    }
}

impl Responder {
    /// Reads the first message. Returns its payload.
    ///
    /// The message may be a replay. The caller must not act on it until a sealed message has been
    /// opened (PROTOCOL 7.5).
    ///
    /// # Errors
    /// Returns an error if the message does not come from a peer with the same port key.
    pub fn read(
        psk: &Psk,
        id: Id,
        message: &[u8],
        ephemeral: [u8; 32],
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        let mut noise = build(psk, id, ephemeral, |builder| builder.build_responder())?;
        let payload = read(&mut noise, message)?;
        Ok((Responder(noise), payload))
    }

    /// Writes the second message, which carries `payload`. Returns it with the session keys.
    ///
    /// # Errors
    /// Returns an error if the payload is longer than [`MAX_MESSAGE`] minus [`OVERHEAD`].
    pub fn finish(mut self, payload: &[u8]) -> Result<(Vec<u8>, SessionKeys), HandshakeError> {
        let message = write(&mut self.0, payload)?;
        Ok((message, SessionKeys::split(self.0)))
    }
}

impl fmt::Debug for Initiator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Initiator")
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Responder")
    }
}

fn build(
    psk: &Psk,
    id: Id,
    ephemeral: [u8; 32],
    role: impl FnOnce(Builder<'_>) -> Result<HandshakeState, snow::Error>,
) -> Result<HandshakeState, HandshakeError> {
    let prologue = [PROLOGUE, &id.0].concat();
    let pattern = PATTERN.parse().map_err(HandshakeError::Noise)?;
    Builder::with_resolver(
        pattern,
        Box::new(FixedEphemeralResolver(Zeroizing::new(ephemeral))),
    )
    .prologue(&prologue)
    .and_then(|builder| builder.psk(0, &psk.0))
    .and_then(role)
    .map_err(HandshakeError::Noise)
}

fn write(noise: &mut HandshakeState, payload: &[u8]) -> Result<Vec<u8>, HandshakeError> {
    let length = payload.len().saturating_add(OVERHEAD);
    if length > MAX_MESSAGE {
        return Err(HandshakeError::Payload(payload.len()));
    }
    let mut message = vec![0; length];
    let written = noise
        .write_message(payload, &mut message)
        .map_err(HandshakeError::Noise)?;
    message.truncate(written);
    Ok(message)
}

fn read(noise: &mut HandshakeState, message: &[u8]) -> Result<Vec<u8>, HandshakeError> {
    let length = message
        .len()
        .checked_sub(OVERHEAD)
        .filter(|_| message.len() <= MAX_MESSAGE);
    let mut payload = vec![0; length.ok_or(HandshakeError::Length(message.len()))?];
    let read = noise
        .read_message(message, &mut payload)
        .map_err(|error| match error {
            snow::Error::Decrypt | snow::Error::Dh => HandshakeError::KeyMismatch,
            snow::Error::Input => HandshakeError::Length(message.len()),
            other => HandshakeError::Noise(other),
        })?;
    payload.truncate(read);
    Ok(payload)
}

/// Resolves snow's default primitives, with a given ephemeral key in place of a random source.
struct FixedEphemeralResolver(Zeroizing<[u8; 32]>);

impl CryptoResolver for FixedEphemeralResolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(OneTimeRandom(Some(self.0.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// Returns the ephemeral key on the first call, and an error on later calls.
struct OneTimeRandom(Option<Zeroizing<[u8; 32]>>);

impl Random for OneTimeRandom {
    fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), snow::Error> {
        let key = self
            .0
            .take()
            .filter(|key| key.len() == to.len())
            .ok_or(snow::Error::Rng)?;
        to.copy_from_slice(&*key);
        Ok(())
    }
}
