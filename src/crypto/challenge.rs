//! The master's first message, which to a stranger is 32 random bytes (PROTOCOL 4.1).

use aws_lc_rs::digest::{self, SHA256};

/// The version of the protocol that this program speaks.
pub const VERSION: u8 = 1;

/// Bytes of the nonce; the rest of the challenge says the version.
const NONCE_LENGTH: usize = 24;

/// The master's challenge to a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge([u8; 32]);

/// Why a first message is no challenge that we can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    /// The peer is no master, of no version.
    #[error("the peer is not a rePort master")]
    NotAMaster,
    /// The peer is a master of another version.
    #[error(
        "the master speaks version {0} of the protocol, we speak {VERSION}: upgrade the older one"
    )]
    Version(u8),
}

impl Challenge {
    /// The master's challenge over a nonce that was never used before.
    #[must_use]
    pub fn new(nonce: [u8; NONCE_LENGTH]) -> Self {
        Self::of_version(VERSION, nonce)
    }

    /// Reads the first message of a link.
    ///
    /// # Errors
    /// When it is not a challenge of our version; a master of another version is told from somebody who is none.
    pub fn parse(message: &[u8]) -> Result<Self, ChallengeError> {
        let bytes: [u8; 32] = message.try_into().map_err(|_| ChallengeError::NotAMaster)?;
        let (nonce, _) = bytes
            .split_first_chunk::<NONCE_LENGTH>()
            .ok_or(ChallengeError::NotAMaster)?;
        let says = |version: &u8| Self::of_version(*version, *nonce).0 == bytes;
        if says(&VERSION) {
            return Ok(Challenge(bytes));
        }
        Err((0..=u8::MAX)
            .find(says)
            .map_or(ChallengeError::NotAMaster, ChallengeError::Version))
    }

    /// The message.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn of_version(version: u8, nonce: [u8; NONCE_LENGTH]) -> Self {
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
    fn a_challenge_is_read_back() {
        let challenge = Challenge::new([9; 24]);
        assert_eq!(Challenge::parse(challenge.as_bytes()), Ok(challenge));
    }

    #[test]
    fn a_master_of_another_version_is_named() {
        for version in [0, 2, 255] {
            let challenge = Challenge::of_version(version, [9; 24]);
            assert_eq!(
                Challenge::parse(challenge.as_bytes()),
                Err(ChallengeError::Version(version))
            );
        }
    }

    #[test]
    fn whoever_sends_something_else_is_no_master() {
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
