//! The texts of verifiers, of tokens and of their hashes.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest::{self, SHA256};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::policy::{TokenHash, Verifier};
use report_proto::{
    crypto::{CredentialVerifier, ParseCredentialError},
    id::Id,
};

/// The first characters of a token.
const TOKEN_PREFIX: &str = "rt1_";

/// The characters of a token: the prefix, and 32 bytes in base64url.
const TOKEN_LENGTH: usize = 47;

/// The verifier of a credential. Its text is `rv1_` with 86 characters, as `report keygen
/// --credential` prints it.
#[derive(Clone, utoipa::ToSchema)]
#[schema(value_type = String)]
pub struct VerifierText(CredentialVerifier);

/// A text that is not a verifier. Its words never contain the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the text {0} (write the verifier that \"report keygen --credential\" prints, and keep the \
     secret for the role)"
)]
pub struct InvalidVerifier(#[from] ParseCredentialError);

impl VerifierText {
    /// Returns the id of the credential.
    #[must_use]
    pub fn id(&self) -> Id {
        self.0.id()
    }

    /// Returns the keys for a record.
    #[must_use]
    pub fn verifier(&self) -> Verifier {
        let (public_key, welcome_key) = self.0.parts();
        Verifier {
            public_key: *public_key,
            welcome_key: *welcome_key,
        }
    }
}

impl From<CredentialVerifier> for VerifierText {
    fn from(verifier: CredentialVerifier) -> Self {
        VerifierText(verifier)
    }
}

impl FromStr for VerifierText {
    type Err = InvalidVerifier;

    fn from_str(text: &str) -> Result<Self, InvalidVerifier> {
        Ok(VerifierText(text.parse()?))
    }
}

impl fmt::Debug for VerifierText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Serialize for VerifierText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_text())
    }
}

impl<'de> Deserialize<'de> for VerifierText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// The SHA-256 of a token's text, as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, utoipa::ToSchema)]
#[schema(value_type = String)]
pub struct HashText(pub TokenHash);

/// A text that is not a hash. Its words never contain the text, which may be the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not the SHA-256 of a token (write 64 hexadecimal digits)")]
pub struct InvalidHash;

impl FromStr for HashText {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, InvalidHash> {
        let (first, second) = text.split_at_checked(32).ok_or(InvalidHash)?;
        let half = |text: &str| text.parse::<Id>().map_err(|_| InvalidHash);
        let (Id(first), Id(second)) = (half(first)?, half(second)?);
        let mut hash = [0; 32];
        let (start, end) = hash.split_at_mut(16);
        start.copy_from_slice(&first);
        end.copy_from_slice(&second);
        Ok(HashText(TokenHash(hash)))
    }
}

impl fmt::Debug for HashText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Serialize for HashText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let TokenHash(hash) = &self.0;
        let text: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for HashText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// The text of a token of the admin API: `rt1_` with 43 characters.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct TokenSecret(String);

/// A text that is not a token. Its words never contain the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not {TOKEN_PREFIX} followed by 43 characters of base64url")]
pub struct InvalidToken;

impl TokenSecret {
    /// Creates a token from random bytes.
    #[must_use]
    pub fn new(entropy: [u8; 32]) -> Self {
        let entropy = Zeroizing::new(entropy);
        let mut text = String::with_capacity(TOKEN_LENGTH);
        text.push_str(TOKEN_PREFIX);
        URL_SAFE_NO_PAD.encode_string(entropy.as_slice(), &mut text);
        TokenSecret(text)
    }

    /// Returns the text. Print it only for its owner.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the hash that the store holds. The token is random, so its hash needs no salt and no
    /// key stretching.
    #[must_use]
    pub fn hash(&self) -> TokenHash {
        let digest = digest::digest(&SHA256, self.0.as_bytes());
        let mut hash = [0; 32];
        for (to, from) in hash.iter_mut().zip(digest.as_ref()) {
            *to = *from;
        }
        TokenHash(hash)
    }
}

impl FromStr for TokenSecret {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let is_base64url = |text: &str| {
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        let rest = text.strip_prefix(TOKEN_PREFIX);
        if text.len() == TOKEN_LENGTH && rest.is_some_and(is_base64url) {
            Ok(TokenSecret(text.to_owned()))
        } else {
            Err(InvalidToken)
        }
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TokenSecret(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use report_proto::crypto::{Credential, CredentialSecret};

    #[test]
    fn tokens_round_trip_and_hide_their_text() {
        let token = TokenSecret::new([0xfb; 32]);
        let text = token.as_str();
        assert_eq!((text.len(), &text[..4]), (TOKEN_LENGTH, TOKEN_PREFIX));
        let again: TokenSecret = text.parse().unwrap();
        assert_eq!(again.hash(), token.hash());
        assert_ne!(TokenSecret::new([1; 32]).hash(), token.hash());
        assert_eq!(format!("{token:?}"), "TokenSecret(secret)");
        for text in [
            "",
            "rt1_",
            &text[..46],
            &text.replace('-', "+"),
            &format!("{text}A"),
        ] {
            assert_eq!(
                text.parse::<TokenSecret>().err(),
                Some(InvalidToken),
                "{text}"
            );
        }
    }

    #[test]
    fn hashes_are_hexadecimal_text() {
        // The value of the empty text, from FIPS 180-4 examples.
        let text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let hash: HashText = text.parse().unwrap();
        assert_eq!(hash.0, TokenSecret(String::new()).hash());
        assert_eq!(serde_json::to_value(hash).unwrap(), text);
        for text in [
            "",
            "e3",
            &text[..63],
            &text.replace('e', "g"),
            &format!("{text}0"),
        ] {
            assert_eq!(text.parse::<HashText>(), Err(InvalidHash), "{text}");
        }
    }

    #[test]
    fn verifiers_round_trip_and_secrets_are_refused_without_their_text() {
        let secret = CredentialSecret::new([7; 32]);
        let credential = Credential::derive(&secret);
        let text = credential.verifier().to_text();
        let verifier: VerifierText = text.parse().unwrap();
        assert_eq!(verifier.id(), credential.id());
        assert_eq!(serde_json::to_value(&verifier).unwrap(), text);
        let refused = serde_json::to_value(&*secret.to_text()).unwrap();
        let error = serde_json::from_value::<VerifierText>(refused).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("is the secret of a credential"), "{error}");
        assert!(!error.contains("rc1_"), "{error}");
        assert!(!format!("{verifier:?}").contains("rv1_"));
    }
}
