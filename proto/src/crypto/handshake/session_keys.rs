//! The keys that a handshake yields.

use std::fmt;

use snow::HandshakeState;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::crypto::{
    hkdf,
    method::EncryptMethod,
    seal::{DirectionKeys, Opener, Sealer},
};

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
    pub(in crate::crypto) fn bytes(&self) -> [u8; 32] {
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
    pub(in crate::crypto) fn parts(&self) -> ([u8; 32], [u8; 32], [u8; 32]) {
        (self.hash, self.from_initiator, self.from_responder)
    }

    pub(super) fn split(mut noise: HandshakeState) -> Self {
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
