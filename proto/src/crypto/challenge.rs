//! The challenge: the master's first message on a link (PROTOCOL 4.1).
//!
//! An observer without knowledge of the protocol sees 32 random bytes.

use aws_lc_rs::digest::{self, SHA256};

pub use crate::constants::LINK_VERSION as VERSION;

/// The length of the nonce in bytes. The rest of the challenge encodes the version.
const NONCE_LENGTH: usize = 24;

/// The master's challenge to a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge([u8; 32]);

/// A first message that is not a challenge of the current version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    /// The peer is not a master of any version.
    #[error("the peer is not a rePort master")]
    NotAMaster,
    /// The peer is a master of another version.
    #[error(
        "the master speaks protocol version {0}, this program version {VERSION} (upgrade the older one)"
    )]
    Version(u8),
}

impl Challenge {
    /// Creates the master's challenge from a nonce that was never used before.
    #[must_use]
    pub fn new(nonce: [u8; NONCE_LENGTH]) -> Self {
        Self::with_version(VERSION, nonce)
    }

    /// Parses the first message of a link.
    ///
    /// # Errors
    /// Returns an error if the message is not a challenge of the current version. The error
    /// distinguishes a master of another version from a peer that is not a master.
    pub fn parse(message: &[u8]) -> Result<Self, ChallengeError> {
        let bytes: [u8; 32] = message.try_into().map_err(|_| ChallengeError::NotAMaster)?;
        let (nonce, _) = bytes
            .split_first_chunk::<NONCE_LENGTH>()
            .ok_or(ChallengeError::NotAMaster)?;
        let matches_version = |version: &u8| Self::with_version(*version, *nonce).0 == bytes;
        if matches_version(&VERSION) {
            return Ok(Challenge(bytes));
        }
        // The version is hashed with the nonce, so only a search over all versions can find it.
        Err((0..=u8::MAX)
            .find(matches_version)
            .map_or(ChallengeError::NotAMaster, ChallengeError::Version))
    }

    /// Returns the message.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn with_version(version: u8, nonce: [u8; NONCE_LENGTH]) -> Self {
        let mut hash = digest::Context::new(&SHA256);
        hash.update(b"rePort link");
        hash.update(&[version]);
        hash.update(&nonce);
        let hash = hash.finish();
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().zip(nonce.iter().chain(hash.as_ref())) {
            *to = *from;
        }
        Challenge(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenge_round_trips() {
        let challenge = Challenge::new([9; 24]);
        assert_eq!(Challenge::parse(challenge.as_bytes()), Ok(challenge));
    }

    #[test]
    fn parse_reports_version_of_another_master() {
        for version in [0, 2, 255] {
            let challenge = Challenge::with_version(version, [9; 24]);
            assert_eq!(
                Challenge::parse(challenge.as_bytes()),
                Err(ChallengeError::Version(version))
            );
        }
    }

    #[test]
    fn parse_rejects_other_messages() {
        for message in [
            &b""[..],
            b"HTTP/1.1 400 Bad Request",
            &[0; 31],
            &[0; 32],
            &[0; 33],
        ] {
            assert_eq!(Challenge::parse(message), Err(ChallengeError::NotAMaster));
        }
    }
}
