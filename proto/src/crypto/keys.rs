//! Derives the working keys from the configured keys (PROTOCOL 1).
//!
//! Derivation is slow on purpose (about 20 ms and 19 MiB) to make guessing slow. Derive each key
//! once, and not on tasks that move traffic. Secrets are cleared on drop and never printed.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::hkdf;
use crate::id::Id;

pub use super::strength::{Strength, generate, strength};

/// The memory of Argon2id in KiB. With [`PASSES`] and one lane, it is OWASP's recommendation.
const MEMORY_KIB: u32 = 19_456;
/// The passes of Argon2id over that memory.
const PASSES: u32 = 2;

/// The keys derived from a port key: its public identifier and the secret of the two ends.
#[derive(Debug, Clone)]
pub struct PortKeys {
    /// The key id. Servers register it and clients request it. It is not secret.
    pub id: Id,
    /// The pre-shared key of the tunnel handshake.
    pub psk: Psk,
}

impl PortKeys {
    /// Derives the keys from a port key. Takes about 20 ms.
    ///
    /// # Panics
    /// Panics if 19 MiB of memory cannot be allocated, or the text is longer than 4 GiB.
    #[must_use]
    pub fn derive(port_key: &str) -> Self {
        let root = root(port_key, b"rePort port key 1");
        PortKeys {
            id: Id(hkdf::derive(b"", &*root, &[b"rePort key id 1"])),
            psk: Psk(hkdf::derive(b"", &*root, &[b"rePort tunnel psk 1"])),
        }
    }
}

/// The pre-shared key of the tunnels of one port key.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Psk(pub(super) [u8; 32]);

/// The key that authenticates a link.
///
/// It is derived from the master key. A role without a master key (a client) uses a public value.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct LinkKey(pub(super) [u8; 32]);

impl LinkKey {
    /// Derives the link key from the master key. Takes about 20 ms.
    ///
    /// `None` selects the public key of roles without a master key, and returns at once.
    ///
    /// # Panics
    /// Panics if 19 MiB of memory cannot be allocated, or the text is longer than 4 GiB.
    #[must_use]
    pub fn derive(master_key: Option<&str>) -> Self {
        let root = master_key.map_or(Zeroizing::new([0; 32]), |key| {
            root(key, b"rePort master key 1")
        });
        LinkKey(hkdf::derive(b"", &*root, &[b"rePort link key 1"]))
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Psk(secret)")
    }
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("LinkKey(secret)")
    }
}

/// Computes `root` of PROTOCOL 1.2.
fn root(password: &str, salt: &[u8]) -> Zeroizing<[u8; 32]> {
    const PARAMETERS: Params = match Params::new(MEMORY_KIB, PASSES, 1, Some(32)) {
        Ok(parameters) => parameters,
        Err(_) => panic!("the parameters of Argon2id are in range"),
    };
    let mut root = Zeroizing::new([0; 32]);
    #[expect(
        clippy::expect_used,
        reason = "the parameters are constants; callers document the panic on lack of memory"
    )]
    Argon2::new(Algorithm::Argon2id, Version::V0x13, PARAMETERS)
        .hash_password_into(password.as_bytes(), salt, &mut *root)
        .expect("memory for Argon2id");
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_keys_derive_different_ids_and_secrets() {
        let (one, other) = (PortKeys::derive("one"), PortKeys::derive("other"));
        assert_ne!(one.id, other.id);
        assert_ne!(one.psk.0, other.psk.0);
        assert_ne!(
            one.psk.0,
            LinkKey::derive(Some("one")).0,
            "a port key and a master key with the same text derive different secrets"
        );
    }

    #[test]
    fn debug_output_hides_secrets() {
        let keys = PortKeys::derive("one");
        let printed = format!("{keys:?} {:?}", LinkKey::derive(None));
        assert_eq!(
            printed,
            format!(
                "PortKeys {{ id: {}, psk: Psk(secret) }} LinkKey(secret)",
                keys.id
            )
        );
    }
}
