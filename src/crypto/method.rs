//! The names of the ways to seal a tunnel.

use std::{fmt, str::FromStr};

/// How the messages of a tunnel are sealed (PROTOCOL 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EncryptMethod {
    /// Authenticated, readable.
    Plain,
    /// AES-128 in CFB mode, then HMAC-SHA-256.
    Aes128Cfb,
    /// AES-128-GCM.
    Aes128Gcm,
    /// ChaCha20-Poly1305.
    Chacha20Poly1305,
}

/// No `encrypt_method` has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no encrypt_method; there are plain, aes-128-cfb, aes-128-gcm and chacha20-poly1305"
)]
pub struct UnknownEncryptMethod(pub String);

impl EncryptMethod {
    /// Every method, in the order of the documentation.
    pub const ALL: [EncryptMethod; 4] = [
        EncryptMethod::Plain,
        EncryptMethod::Aes128Cfb,
        EncryptMethod::Aes128Gcm,
        EncryptMethod::Chacha20Poly1305,
    ];

    /// The name in the configuration, in the handshake and in key derivation.
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
    fn a_method_reads_back_the_name_that_it_prints() {
        for method in EncryptMethod::ALL {
            assert_eq!(method.to_string().parse(), Ok(method));
        }
    }

    #[test]
    fn an_unknown_name_is_refused_and_the_known_ones_are_named() {
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
