//! Keys, proofs, the tunnel handshake, sealing.
//!
//! Knows bytes; not sockets, not frames, and it draws no random numbers: nonces and ephemeral keys are arguments.
//!
//! | file | what it owns | PROTOCOL |
//! |---|---|---|
//! | [`keys`] | from a key as written to the keys that are used | 1 |
//! | [`strength`] | how hard a key is to guess; making a strong one | 14.3 |
//! | [`challenge`], `proof` | the authentication of a link | 4 |
//! | [`handshake`] | Noise, from a port key to the keys of one attachment | 7 |
//! | [`seal`], [`cfb`] | the messages of one attachment | 8 |
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod cfb;
pub mod challenge;
pub mod handshake;
mod hkdf;
pub mod keys;
pub mod method;
mod proof;
pub mod seal;
pub mod strength;
#[cfg(test)]
mod vectors;

pub use challenge::{Challenge, ChallengeError};
pub use handshake::{HandshakeError, SessionKeys, TunnelSecret};
pub use keys::{LinkKey, PortKeys, Psk};
pub use method::{EncryptMethod, UnknownEncryptMethod};
pub use seal::{Opener, SealError, Sealer};
