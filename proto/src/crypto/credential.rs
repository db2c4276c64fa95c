//! Credentials: secrets of accounts that replace the master key (PROTOCOL 1.6, 4.2.1).
//!
//! A role holds the secret and signs its claims. A master holds the verifier, which admits no link:
//! it checks signatures, and contains the key with which the master proves itself to the role.

use std::{fmt, str::FromStr, sync::Arc};

use aws_lc_rs::{
    digest::{self, SHA256},
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{challenge::Challenge, hkdf, keys::LinkKey};
use crate::id::Id;

/// The first characters of a secret.
const SECRET_PREFIX: &str = "rc1_";

/// The first characters of a verifier.
const VERIFIER_PREFIX: &str = "rv1_";

/// The length of a signature in bytes.
const SIGNATURE_LENGTH: usize = 64;

/// The channel binding of a signature. Version 1 of the protocol binds none.
const BINDING: &[u8] = b"";

/// The bytes that a decoded text may have at most, before its length is checked.
const DECODED_MAX: usize = 96;

/// A text that is not the expected part of a credential. Its words never contain the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseCredentialError {
    /// A verifier, where the secret is expected.
    #[error("is the verifier of a credential, not its secret")]
    Verifier,
    /// A secret, where the verifier is expected.
    #[error("is the secret of a credential, not its verifier")]
    Secret,
    /// The text has another form.
    #[error("is not {prefix} followed by {length} characters of base64url")]
    Malformed {
        /// The expected first characters.
        prefix: &'static str,
        /// The number of characters after them.
        length: usize,
    },
}

/// The secret of a credential. Its text is `rc1_` with 43 characters.
///
/// It consists of random bytes, so its derivation needs no key stretching.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct CredentialSecret([u8; 32]);

impl CredentialSecret {
    /// Creates a secret from random bytes.
    #[must_use]
    pub fn new(entropy: [u8; 32]) -> Self {
        CredentialSecret(entropy)
    }

    /// Returns the text of the secret. Print it only for its owner.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        // Long enough for the whole text, so that no copy stays in memory that was outgrown.
        let mut text = Zeroizing::new(String::with_capacity(64));
        text.push_str(SECRET_PREFIX);
        URL_SAFE_NO_PAD.encode_string(self.0.as_slice(), &mut text);
        text
    }
}

impl FromStr for CredentialSecret {
    type Err = ParseCredentialError;

    fn from_str(text: &str) -> Result<Self, ParseCredentialError> {
        if text.starts_with(VERIFIER_PREFIX) {
            return Err(ParseCredentialError::Verifier);
        }
        let bytes = text.strip_prefix(SECRET_PREFIX).and_then(decode::<32>);
        bytes
            .map(|bytes| CredentialSecret(*bytes))
            .ok_or(ParseCredentialError::Malformed {
                prefix: SECRET_PREFIX,
                length: 43,
            })
    }
}

impl fmt::Debug for CredentialSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("CredentialSecret(secret)")
    }
}

/// The keys of a credential, for the role that holds its secret.
#[derive(Clone)]
pub struct Credential {
    id: Id,
    signing: Arc<Ed25519KeyPair>,
    welcome: LinkKey,
}

impl Credential {
    /// Derives the keys from the secret.
    #[must_use]
    pub fn derive(secret: &CredentialSecret) -> Self {
        let seed: Zeroizing<[u8; 32]> = Zeroizing::new(hkdf::derive(
            b"",
            &secret.0,
            &[b"rePort credential signature 1"],
        ));
        #[expect(
            clippy::expect_used,
            reason = "fails only for a seed of another length, or without memory"
        )]
        let signing =
            Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).expect("a seed of 32 bytes");
        let public_key: [u8; 32] = first_bytes(signing.public_key().as_ref());
        Credential {
            id: credential_id(&public_key),
            signing: Arc::new(signing),
            welcome: LinkKey(hkdf::derive(
                b"",
                &secret.0,
                &[b"rePort credential welcome 1"],
            )),
        }
    }

    /// Returns the public name of the credential.
    #[must_use]
    pub fn id(&self) -> Id {
        self.id
    }

    /// Returns the key with which a master that knows the verifier proves itself.
    #[must_use]
    pub fn welcome_key(&self) -> &LinkKey {
        &self.welcome
    }

    /// Returns the master's part of the credential.
    #[must_use]
    pub fn verifier(&self) -> CredentialVerifier {
        CredentialVerifier {
            public_key: first_bytes(self.signing.public_key().as_ref()),
            welcome: self.welcome.clone(),
        }
    }

    /// Signs the encoded claims of a link.
    #[must_use]
    pub fn sign_hello(&self, challenge: &Challenge, claims: &[u8]) -> [u8; SIGNATURE_LENGTH] {
        let signature = self.signing.sign(&transcript(challenge, claims));
        first_bytes(signature.as_ref())
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Credential({})", self.id)
    }
}

/// The master's part of a credential. Its text is `rv1_` with 86 characters.
///
/// A thief of verifiers cannot link to a master, but can pretend to be one. Never log the text.
#[derive(Clone)]
pub struct CredentialVerifier {
    public_key: [u8; 32],
    welcome: LinkKey,
}

impl CredentialVerifier {
    /// Creates a verifier from the parts of [`parts`](Self::parts).
    #[must_use]
    pub fn from_parts(public_key: [u8; 32], welcome_key: [u8; 32]) -> Self {
        CredentialVerifier {
            public_key,
            welcome: LinkKey(welcome_key),
        }
    }

    /// Returns the public key and the welcome key.
    #[must_use]
    pub fn parts(&self) -> (&[u8; 32], &[u8; 32]) {
        (&self.public_key, &self.welcome.0)
    }

    /// Returns the public name of the credential.
    #[must_use]
    pub fn id(&self) -> Id {
        credential_id(&self.public_key)
    }

    /// Returns the key with which the master proves itself to the role.
    #[must_use]
    pub fn welcome_key(&self) -> &LinkKey {
        &self.welcome
    }

    /// Returns the text of the verifier.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = VERIFIER_PREFIX.to_owned();
        let parts = Zeroizing::new([self.public_key, self.welcome.0].concat());
        URL_SAFE_NO_PAD.encode_string(parts.as_slice(), &mut text);
        text
    }

    /// Whether the role that signed the claims holds the secret.
    #[must_use]
    pub fn verify_hello(
        &self,
        challenge: &Challenge,
        claims: &[u8],
        signature: &[u8; SIGNATURE_LENGTH],
    ) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.public_key)
            .verify(&transcript(challenge, claims), signature)
            .is_ok()
    }
}

impl FromStr for CredentialVerifier {
    type Err = ParseCredentialError;

    fn from_str(text: &str) -> Result<Self, ParseCredentialError> {
        if text.starts_with(SECRET_PREFIX) {
            return Err(ParseCredentialError::Secret);
        }
        let bytes = text.strip_prefix(VERIFIER_PREFIX).and_then(decode::<64>);
        let bytes = bytes.ok_or(ParseCredentialError::Malformed {
            prefix: VERIFIER_PREFIX,
            length: 86,
        })?;
        let (public_key, welcome_key) = bytes.split_at(32);
        Ok(CredentialVerifier::from_parts(
            first_bytes(public_key),
            first_bytes(welcome_key),
        ))
    }
}

impl fmt::Debug for CredentialVerifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CredentialVerifier({})", self.id())
    }
}

/// Returns the bytes that a role signs (PROTOCOL 4.2.1).
fn transcript(challenge: &Challenge, claims: &[u8]) -> Vec<u8> {
    let binding_length = u16::try_from(BINDING.len()).unwrap_or(u16::MAX);
    [
        b"rePort signed hello".as_slice(),
        challenge.as_bytes(),
        &binding_length.to_be_bytes(),
        BINDING,
        claims,
    ]
    .concat()
}

fn credential_id(public_key: &[u8; 32]) -> Id {
    let mut hash = digest::Context::new(&SHA256);
    hash.update(b"rePort credential id 1");
    hash.update(public_key);
    Id(first_bytes(hash.finish().as_ref()))
}

/// Decodes text that stands for exactly `N` bytes. Each value has one text.
fn decode<const N: usize>(text: &str) -> Option<Zeroizing<[u8; N]>> {
    let mut decoded = Zeroizing::new([0_u8; DECODED_MAX]);
    let length = URL_SAFE_NO_PAD
        .decode_slice(text, decoded.as_mut_slice())
        .ok()?;
    let bytes: [u8; N] = decoded.get(..length)?.try_into().ok()?;
    Some(Zeroizing::new(bytes))
}

/// Returns the first `N` bytes, with zeros in place of missing ones.
fn first_bytes<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut first = [0; N];
    for (to, from) in first.iter_mut().zip(bytes) {
        *to = *from;
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(byte: u8) -> Credential {
        Credential::derive(&CredentialSecret::new([byte; 32]))
    }

    #[test]
    fn signature_covers_secret_challenge_and_claims() {
        let (one, other) = (credential(1), credential(2));
        let (challenge, later) = (Challenge::new([3; 24]), Challenge::new([4; 24]));
        let verifier = one.verifier();
        let signature = one.sign_hello(&challenge, b"claims");
        assert!(verifier.verify_hello(&challenge, b"claims", &signature));
        assert!(
            !verifier.verify_hello(&later, b"claims", &signature),
            "another challenge: a replay"
        );
        assert!(
            !verifier.verify_hello(&challenge, b"claim5", &signature),
            "other claims"
        );
        let foreign = other.sign_hello(&challenge, b"claims");
        assert!(
            !verifier.verify_hello(&challenge, b"claims", &foreign),
            "another secret"
        );
        assert!(!verifier.verify_hello(&challenge, b"claims", &[0; 64]));
    }

    #[test]
    fn texts_round_trip_and_name_the_same_credential() {
        let secret = CredentialSecret::new([7; 32]);
        let text = secret.to_text();
        assert_eq!((text.len(), &text[..4]), (47, "rc1_"));
        let again: CredentialSecret = text.parse().unwrap();
        assert!(again == secret);
        let credential = Credential::derive(&secret);
        let verifier = credential.verifier();
        let text = verifier.to_text();
        assert_eq!((text.len(), &text[..4]), (90, "rv1_"));
        let read: CredentialVerifier = text.parse().unwrap();
        assert_eq!(read.parts(), verifier.parts());
        assert_eq!(read.id(), credential.id());
        let (public_key, welcome_key) = verifier.parts();
        let from_parts = CredentialVerifier::from_parts(*public_key, *welcome_key);
        assert_eq!(from_parts.to_text(), text);
        assert_eq!(read.welcome_key().0, credential.welcome_key().0);
    }

    #[test]
    fn other_texts_are_errors_that_do_not_repeat_them() {
        let secret = CredentialSecret::new([0xfb; 32]).to_text();
        let verifier = credential(7).verifier().to_text();
        assert_eq!(
            verifier.parse::<CredentialSecret>(),
            Err(ParseCredentialError::Verifier)
        );
        let swapped = secret.parse::<CredentialVerifier>();
        assert_eq!(swapped.err(), Some(ParseCredentialError::Secret));
        for text in [
            String::new(),
            "rc1_".to_owned(),
            "hush4711".to_owned(),
            secret[4..].to_owned(),
            format!("rc2_{}", &secret[4..]),
            secret[..46].to_owned(),
            format!("{}A", *secret),
            format!("{}=", *secret),
            format!(" {}", *secret),
            secret.replace('-', "+"),
            // Other bits beyond the last byte: a second text of the same bytes.
            format!("{}5", &secret[..46]),
            format!("rc1_{}", "A".repeat(5_000)),
            "rc1_中".to_owned(),
        ] {
            let error = text.parse::<CredentialSecret>().expect_err(&text);
            assert!(matches!(error, ParseCredentialError::Malformed { .. }));
            assert!(!error.to_string().contains("hush4711"), "{error}");
        }
        for text in ["rv1_", "rv1_AAAA", &verifier[..89], &format!("{verifier}A")] {
            assert!(text.parse::<CredentialVerifier>().is_err(), "{text}");
        }
    }

    #[test]
    fn debug_output_hides_secrets() {
        let secret = CredentialSecret::new([7; 32]);
        let credential = Credential::derive(&secret);
        assert_eq!(
            format!("{secret:?} {credential:?} {:?}", credential.verifier()),
            format!(
                "CredentialSecret(secret) Credential({id}) CredentialVerifier({id})",
                id = credential.id()
            )
        );
    }
}
