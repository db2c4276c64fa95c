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

use std::fmt;

use snow::{
    Builder, HandshakeState,
    params::{CipherChoice, DHChoice, HashChoice},
    resolvers::{CryptoResolver, DefaultResolver},
    types::{Cipher, Dh, Hash, Random},
};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{
    hkdf,
    keys::Psk,
    method::EncryptMethod,
    seal::{DirectionKeys, Opener, Sealer},
};
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

/// The keys of one attachment, before the method is chosen.
///
/// Choosing the method consumes them, so that no message number is used twice.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SessionKeys {
    hash: [u8; 32],
    from_initiator: [u8; 32],
    from_responder: [u8; 32],
    /// The secret of the resumed tunnel.
    secret: Option<TunnelSecret>,
}

/// A secret that only the two ends of a tunnel know.
///
/// It outlives the attachment whose handshake created it. It is never sent.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct TunnelSecret([u8; 32]);

impl TunnelSecret {
    /// Creates a secret that does not come from a handshake, for tests of its rejection.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        TunnelSecret(bytes)
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> [u8; 32] {
        self.0
    }
}

impl fmt::Debug for TunnelSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TunnelSecret")
    }
}

impl SessionKeys {
    /// Derives the secret of the tunnel that this handshake creates (PROTOCOL 7.6).
    #[must_use]
    pub fn tunnel_secret(&self) -> TunnelSecret {
        let input = Zeroizing::new([self.from_initiator, self.from_responder].concat());
        TunnelSecret(hkdf::derive(
            &self.hash,
            &input,
            &[b"rePort tunnel secret 1"],
        ))
    }

    /// Binds the keys to the tunnel that this attachment resumes (PROTOCOL 8.2).
    #[must_use]
    pub fn with_tunnel_secret(mut self, secret: &TunnelSecret) -> Self {
        self.secret = Some(secret.clone());
        self
    }

    /// Returns the client's sealer and opener.
    #[must_use]
    pub fn initiator(self, method: EncryptMethod) -> (Sealer, Opener) {
        (
            Sealer::new(self.direction(&self.from_initiator, method)),
            Opener::new(self.direction(&self.from_responder, method)),
        )
    }

    /// Returns the server's sealer and opener.
    #[must_use]
    pub fn responder(self, method: EncryptMethod) -> (Sealer, Opener) {
        (
            Sealer::new(self.direction(&self.from_responder, method)),
            Opener::new(self.direction(&self.from_initiator, method)),
        )
    }

    fn direction(&self, key: &[u8; 32], method: EncryptMethod) -> DirectionKeys {
        match &self.secret {
            None => DirectionKeys::derive(method, &self.hash, key),
            Some(secret) => DirectionKeys::derive(
                method,
                &self.hash,
                &Zeroizing::new([*key, secret.0].concat()),
            ),
        }
    }

    #[cfg(test)]
    pub(super) fn parts(&self) -> ([u8; 32], [u8; 32], [u8; 32]) {
        (self.hash, self.from_initiator, self.from_responder)
    }

    fn split(mut noise: HandshakeState) -> Self {
        let mut hash = [0; 32];
        for (to, from) in hash.iter_mut().zip(noise.get_handshake_hash()) {
            *to = *from;
        }
        let (from_initiator, from_responder) = noise.dangerously_get_raw_split();
        SessionKeys {
            hash,
            from_initiator,
            from_responder,
            secret: None,
        }
    }
}

impl fmt::Debug for SessionKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SessionKeys(secret)")
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

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    const ID: Id = Id([7; 16]);

    fn psk() -> Psk {
        Psk([42; 32])
    }

    fn first() -> (Initiator, Vec<u8>) {
        Initiator::start(&psk(), ID, b"offer", [1; 32]).unwrap()
    }

    #[test]
    fn both_ends_derive_same_keys_and_exchange_messages() {
        for method in EncryptMethod::ALL {
            let (initiator, first) = first();
            let (responder, offer) = Responder::read(&psk(), ID, &first, [2; 32]).unwrap();
            assert_eq!(offer, b"offer");
            let (second, server) = responder.finish(b"answer").unwrap();
            let (answer, client) = initiator.finish(&second).unwrap();
            assert_eq!(answer, b"answer");
            let (mut client, mut server) = (client.initiator(method), server.responder(method));
            for (sealer, opener) in [
                (&mut client.0, &mut server.1),
                (&mut server.0, &mut client.1),
            ] {
                let mut buffer = BytesMut::from(&b"hello"[..]);
                sealer.seal(&mut buffer, 0).unwrap();
                opener.open(&mut buffer).unwrap();
                assert_eq!(&buffer[..], b"hello");
            }
        }
    }

    /// Runs a handshake and returns the keys of both ends.
    fn session() -> (SessionKeys, SessionKeys) {
        let (initiator, first) = first();
        let (second, server) = Responder::read(&psk(), ID, &first, [2; 32])
            .unwrap()
            .0
            .finish(b"")
            .unwrap();
        (initiator.finish(&second).unwrap().1, server)
    }

    #[test]
    fn resumed_attachment_requires_tunnel_secret() {
        let (client, server) = session();
        let secret = client.tunnel_secret();
        assert_eq!(secret, server.tunnel_secret());
        let other = TunnelSecret([9; 32]);
        for method in EncryptMethod::ALL {
            let sealed = || {
                let mut buffer = BytesMut::from(&b"hello"[..]);
                session()
                    .0
                    .with_tunnel_secret(&secret)
                    .initiator(method)
                    .0
                    .seal(&mut buffer, 0)
                    .unwrap();
                buffer
            };
            let opens = |keys: SessionKeys| keys.responder(method).1.open(&mut sealed()).is_ok();
            assert!(opens(session().1.with_tunnel_secret(&secret)), "{method}");
            assert!(
                !opens(session().1.with_tunnel_secret(&other)),
                "{method}: another secret"
            );
            assert!(!opens(session().1), "{method}: no secret");
        }
    }

    #[test]
    fn directions_and_methods_have_distinct_keys() {
        let seal = |role: fn(SessionKeys, EncryptMethod) -> (Sealer, Opener), method| {
            let (responder, _) = Responder::read(&psk(), ID, &first().1, [2; 32]).unwrap();
            let mut buffer = BytesMut::from(&[0; 64][..]);
            role(responder.finish(b"").unwrap().1, method)
                .0
                .seal(&mut buffer, 0)
                .unwrap();
            buffer[64..].to_vec()
        };
        let mut tags: Vec<Vec<u8>> = EncryptMethod::ALL
            .into_iter()
            .flat_map(|method| {
                [
                    seal(SessionKeys::initiator, method),
                    seal(SessionKeys::responder, method),
                ]
            })
            .collect();
        tags.sort();
        tags.dedup();
        assert_eq!(tags.len(), 8);
    }

    #[test]
    fn read_rejects_first_message_for_another_key_or_port() {
        let (_, first) = first();
        let other_key = Responder::read(&Psk([43; 32]), ID, &first, [2; 32]);
        let other_port = Responder::read(&psk(), Id([8; 16]), &first, [2; 32]);
        assert!(matches!(other_key, Err(HandshakeError::KeyMismatch)));
        assert!(matches!(other_port, Err(HandshakeError::KeyMismatch)));
    }

    #[test]
    fn handshake_rejects_altered_messages() {
        let (_, first) = first();
        for index in 0..first.len() {
            let mut altered = first.clone();
            altered[index] ^= 1;
            assert!(
                Responder::read(&psk(), ID, &altered, [2; 32]).is_err(),
                "byte {index}"
            );
        }
        let (responder, _) = Responder::read(&psk(), ID, &first, [2; 32]).unwrap();
        let (second, _) = responder.finish(b"answer").unwrap();
        for index in 0..second.len() {
            // X25519 ignores the highest bit of a public key (RFC 7748), but the bit is hashed.
            let mut altered = second.clone();
            altered[index] ^= 0x80;
            let (initiator, _) = self::first();
            assert!(initiator.finish(&altered).is_err(), "byte {index}");
        }
    }

    #[test]
    fn read_rejects_too_short_and_too_long_messages() {
        let (_, first) = first();
        for length in 0..OVERHEAD {
            let read = Responder::read(&psk(), ID, &first[..length], [2; 32]);
            assert!(matches!(read, Err(HandshakeError::Length(got)) if got == length));
        }
        for length in OVERHEAD..first.len() {
            assert!(Responder::read(&psk(), ID, &first[..length], [2; 32]).is_err());
        }
        let endless = vec![0; MAX_MESSAGE + 1];
        assert!(matches!(
            Responder::read(&psk(), ID, &endless, [2; 32]),
            Err(HandshakeError::Length(_))
        ));
    }

    #[test]
    fn payload_is_limited_to_message_size() {
        let fits = vec![5; MAX_MESSAGE - OVERHEAD];
        let (_, message) = Initiator::start(&psk(), ID, &fits, [1; 32]).unwrap();
        assert_eq!(message.len(), MAX_MESSAGE);
        assert_eq!(
            Responder::read(&psk(), ID, &message, [2; 32]).unwrap().1,
            fits
        );
        let long = vec![5; MAX_MESSAGE - OVERHEAD + 1];
        assert!(matches!(
            Initiator::start(&psk(), ID, &long, [1; 32]),
            Err(HandshakeError::Payload(_))
        ));
    }

    #[test]
    fn replayed_first_message_yields_fresh_keys() {
        let (_, first) = first();
        let keys = |ephemeral| {
            let (responder, _) = Responder::read(&psk(), ID, &first, ephemeral).unwrap();
            responder.finish(b"").unwrap().1.parts()
        };
        assert_ne!(keys([2; 32]), keys([3; 32]));
    }

    #[test]
    fn one_time_random_returns_key_once() {
        let mut ephemeral = OneTimeRandom(Some(Zeroizing::new([9; 32])));
        let mut to = [0; 32];
        assert!(ephemeral.try_fill_bytes(&mut to).is_ok());
        assert_eq!(to, [9; 32]);
        assert!(ephemeral.try_fill_bytes(&mut to).is_err());
    }

    #[test]
    fn debug_output_hides_secrets() {
        let (initiator, _) = first();
        let printed = format!("{:?} {initiator:?} {:?}", psk(), TunnelSecret([42; 32]));
        assert!(
            !printed.contains("42") && !printed.contains("2a"),
            "{printed}"
        );
    }
}
