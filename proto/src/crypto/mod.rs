//! Keys, link authentication, the tunnel handshake and sealing.
//!
//! This layer works on bytes. It does not know sockets or frames. It does not draw random numbers:
//! nonces and ephemeral keys are arguments.
//!
//! | file | contents | PROTOCOL |
//! |---|---|---|
//! | [`keys`] | derivation of working keys from configured keys | 1 |
//! | [`strength`] | estimate of key strength; generation of strong keys | 14.3 |
//! | [`challenge`], `proof` | authentication of a link | 4 |
//! | [`credential`] | secrets of accounts in place of the master key; their verifiers | 1.6, 4.2.1 |
//! | [`handshake`] | Noise handshake: from a port key to the keys of one attachment | 7 |
//! | [`seal`], [`cfb`] | encryption and authentication of an attachment's messages | 8 |

pub mod cfb;
pub mod challenge;
pub mod credential;
pub mod handshake;
mod hkdf;
pub mod keys;
pub mod method;
mod proof;
pub mod seal;
pub mod strength;
#[cfg(test)]
mod tests;

pub use challenge::{Challenge, ChallengeError};
pub use credential::{Credential, CredentialSecret, CredentialVerifier, ParseCredentialError};
pub use handshake::{HandshakeError, SessionKeys, TunnelSecret};
pub use keys::{LinkKey, PortKeys, Psk};
pub use method::{EncryptMethod, UnknownEncryptMethod};
pub use seal::{Opener, SealError, Sealer};
