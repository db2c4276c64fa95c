//! From a key as the user wrote it to the keys that are used (PROTOCOL 1).
//!
//! Deriving is meant to be slow (some 20 ms and 19 MiB), so that guessing is: do it once for each key and away from the tasks that
//! move traffic. Secrets are cleared when they are dropped, and never printed.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::hkdf;
use crate::id::Id;

pub use super::strength::{Strength, generate, strength};

/// Memory of Argon2id in KiB: with [`PASSES`] and one lane, OWASP's recommendation.
const MEMORY_KIB: u32 = 19_456;
/// Passes of Argon2id over that memory.
const PASSES: u32 = 2;

/// What a port key gives: the name that the master knows, and the secret of the two ends.
#[derive(Debug, Clone)]
pub struct PortKeys {
    /// The key id, under which the port is registered and asked for; not secret.
    pub id: Id,
    /// The tunnel's pre-shared key.
    pub psk: Psk,
}

impl PortKeys {
    /// Derives both from a port key, in about 20 ms.
    ///
    /// # Panics
    /// When there is no memory for 19 MiB of work space, or the text is longer than 4 GiB.
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

/// Authenticates a link: derived from the master key, or known to everybody where there is none (a client).
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct LinkKey(pub(super) [u8; 32]);

impl LinkKey {
    /// Derives the link key from the master key, in about 20 ms; `None` for a role that has none, at once.
    ///
    /// # Panics
    /// When there is no memory for 19 MiB of work space, or the text is longer than 4 GiB.
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

/// `root` of PROTOCOL 1.2.
fn root(password: &str, salt: &[u8]) -> Zeroizing<[u8; 32]> {
    const PARAMETERS: Params = match Params::new(MEMORY_KIB, PASSES, 1, Some(32)) {
        Ok(parameters) => parameters,
        Err(_) => panic!("the parameters of Argon2id are in range"),
    };
    let mut root = Zeroizing::new([0; 32]);
    #[expect(
        clippy::expect_used,
        reason = "the parameters are constants; a text over 4 GiB or no memory is documented as a panic"
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
    fn different_keys_give_different_ids_and_secrets() {
        let (one, other) = (PortKeys::derive("one"), PortKeys::derive("other"));
        assert_ne!(one.id, other.id);
        assert_ne!(one.psk.0, other.psk.0);
        assert_ne!(
            one.psk.0,
            LinkKey::derive(Some("one")).0,
            "a port key and a master key of the same text have nothing in common"
        );
    }

    #[test]
    fn no_secret_is_printed() {
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
