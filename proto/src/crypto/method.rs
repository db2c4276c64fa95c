//! The encryption methods of a tunnel.

use std::{fmt, str::FromStr};

/// The method that seals the messages of a tunnel (PROTOCOL 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EncryptMethod {
    /// Authenticated, not encrypted.
    Plain,
    /// AES-128 in CFB mode, then HMAC-SHA-256.
    Aes128Cfb,
    /// AES-128-GCM.
    Aes128Gcm,
    /// ChaCha20-Poly1305.
    Chacha20Poly1305,
}

/// An unknown `encrypt_method`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown encrypt_method `{0}` (use plain, aes-128-cfb, aes-128-gcm or chacha20-poly1305)")]
pub struct UnknownEncryptMethod(pub String);

impl EncryptMethod {
    /// All methods, in the order of the documentation.
    pub const ALL: [EncryptMethod; 4] = [
        EncryptMethod::Plain,
        EncryptMethod::Aes128Cfb,
        EncryptMethod::Aes128Gcm,
        EncryptMethod::Chacha20Poly1305,
    ];

    /// Returns the name used in the configuration, the handshake and key derivation.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            EncryptMethod::Plain => "plain",
            EncryptMethod::Aes128Cfb => "aes-128-cfb",
            EncryptMethod::Aes128Gcm => "aes-128-gcm",
            EncryptMethod::Chacha20Poly1305 => "chacha20-poly1305",
        }
    }
}

impl fmt::Display for EncryptMethod {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for EncryptMethod {
    type Err = UnknownEncryptMethod;

    fn from_str(text: &str) -> Result<Self, UnknownEncryptMethod> {
        Self::ALL
            .into_iter()
            .find(|method| method.name() == text)
            .ok_or_else(|| UnknownEncryptMethod(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn method_names_round_trip() {
        for method in EncryptMethod::ALL {
            assert_eq!(method.to_string().parse(), Ok(method));
        }
    }

    #[test]
    fn unknown_method_error_lists_known_methods() {
        let message = "aes-256-cfb"
            .parse::<EncryptMethod>()
            .unwrap_err()
            .to_string();
        assert!(message.contains("`aes-256-cfb`"), "{message}");
        for method in EncryptMethod::ALL {
            assert!(message.contains(method.name()), "{message}");
        }
    }
}
