//! The proofs of HELLO and WELCOME (PROTOCOL 4.2 to 4.4).
//!
//! Each end proves to the other that it knows the link key.

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    hmac::{self, HMAC_SHA256},
};

use super::{challenge::Challenge, keys::LinkKey};

impl LinkKey {
    /// Computes the role's proof over its encoded claims.
    #[must_use]
    pub fn prove_hello(&self, challenge: &Challenge, claims: &[u8]) -> [u8; 32] {
        self.authenticate(&[b"rePort hello", challenge.as_bytes(), claims])
    }

    /// Verifies a role's proof in constant time.
    #[must_use]
    pub fn verify_hello(&self, challenge: &Challenge, claims: &[u8], proof: &[u8; 32]) -> bool {
        verify_slices_are_equal(&self.prove_hello(challenge, claims), proof).is_ok()
    }

    /// Computes the master's proof over its encoded terms and the nonce of the role's claims.
    #[must_use]
    pub fn prove_welcome(&self, challenge: &Challenge, nonce: &[u8; 32], terms: &[u8]) -> [u8; 32] {
        self.authenticate(&[b"rePort welcome", challenge.as_bytes(), nonce, terms])
    }

    /// Verifies the master's proof in constant time.
    #[must_use]
    pub fn verify_welcome(
        &self,
        challenge: &Challenge,
        nonce: &[u8; 32],
        terms: &[u8],
        proof: &[u8; 32],
    ) -> bool {
        verify_slices_are_equal(&self.prove_welcome(challenge, nonce, terms), proof).is_ok()
    }

    fn authenticate(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&hmac::Key::new(HMAC_SHA256, &self.0));
        for part in parts {
            context.update(part);
        }
        let mut proof = [0; 32];
        for (to, from) in proof.iter_mut().zip(context.sign().as_ref()) {
            *to = *from;
        }
        proof
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proof_covers_key_challenge_nonce_and_text() {
        let (key, other) = (LinkKey([1; 32]), LinkKey([2; 32]));
        let (challenge, later) = (Challenge::new([3; 24]), Challenge::new([4; 24]));
        let hello = key.prove_hello(&challenge, b"claims");
        assert!(key.verify_hello(&challenge, b"claims", &hello));
        assert!(
            !other.verify_hello(&challenge, b"claims", &hello),
            "another key"
        );
        assert!(
            !key.verify_hello(&later, b"claims", &hello),
            "another challenge: a replay"
        );
        assert!(
            !key.verify_hello(&challenge, b"claim5", &hello),
            "other claims"
        );

        let welcome = key.prove_welcome(&challenge, &[5; 32], b"terms");
        assert!(key.verify_welcome(&challenge, &[5; 32], b"terms", &welcome));
        assert!(
            !other.verify_welcome(&challenge, &[5; 32], b"terms", &welcome),
            "another key: a rogue master"
        );
        assert!(
            !key.verify_welcome(&later, &[5; 32], b"terms", &welcome),
            "another challenge"
        );
        assert!(
            !key.verify_welcome(&challenge, &[6; 32], b"terms", &welcome),
            "another nonce: a replay"
        );
        assert!(
            !key.verify_welcome(&challenge, &[5; 32], b"term5", &welcome),
            "other terms"
        );
    }

    #[test]
    fn roles_without_master_key_share_public_link_key() {
        let (one, another) = (LinkKey::derive(None), LinkKey::derive(None));
        let challenge = Challenge::new([3; 24]);
        assert!(another.verify_hello(
            &challenge,
            b"claims",
            &one.prove_hello(&challenge, b"claims")
        ));
        assert!(!LinkKey::derive(Some("rePortserver")).verify_hello(
            &challenge,
            b"claims",
            &one.prove_hello(&challenge, b"claims")
        ));
    }
}
