//! The keys of one direction, and the ciphers that use them (PROTOCOL 8.2).

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    constant_time::verify_slices_are_equal,
    hmac::{self, HMAC_SHA256},
};
use zeroize::Zeroizing;

use crate::crypto::{
    cfb::{CfbDecryptor, CfbEncryptor},
    hkdf,
    method::EncryptMethod,
};

/// The overhead of a sealed message in bytes: the tag. It is the same for every method.
pub const OVERHEAD: usize = 16;

/// A message that cannot be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The message fails authentication. It was altered, replayed, lost or reordered in transit.
    #[error("a message failed authentication")]
    Corrupt,
    /// An earlier message failed, so the two ends are no longer synchronized.
    #[error("an earlier message failed authentication")]
    Failed,
    /// All message numbers of the direction are used.
    #[error("all message numbers are used")]
    Exhausted,
    /// The message to seal starts beyond the end of the buffer. This is a bug in rePort.
    #[error("the message starts beyond the end of the buffer")]
    Range,
}

/// The keys of one direction (PROTOCOL 8.2).
pub(in crate::crypto) struct DirectionKeys {
    method: EncryptMethod,
    material: Zeroizing<[u8; 64]>,
}

impl DirectionKeys {
    /// Derives the keys from the handshake hash and the direction's key of the Noise split.
    pub(in crate::crypto) fn derive(method: EncryptMethod, hash: &[u8; 32], key: &[u8]) -> Self {
        let material = hkdf::derive(hash, key, &[b"rePort seal ", method.name().as_bytes()]);
        DirectionKeys {
            method,
            material: Zeroizing::new(material),
        }
    }

    pub(super) fn into_sealing_cipher(self) -> SealingCipher {
        match self.method {
            EncryptMethod::Plain => SealingCipher::Plain(self.aead_key(&AES_128_GCM)),
            EncryptMethod::Aes128Cfb => SealingCipher::Cfb(Box::new((
                CfbEncryptor::new(&self.key_bytes::<0, 16>(), &self.key_bytes::<16, 16>()),
                self.mac_key(),
            ))),
            EncryptMethod::Aes128Gcm => SealingCipher::Aead(self.aead_key(&AES_128_GCM)),
            EncryptMethod::Chacha20Poly1305 => {
                SealingCipher::Aead(self.aead_key(&CHACHA20_POLY1305))
            }
        }
    }

    pub(super) fn into_opening_cipher(self) -> OpeningCipher {
        match self.method {
            EncryptMethod::Plain => OpeningCipher::Plain(self.aead_key(&AES_128_GCM)),
            EncryptMethod::Aes128Cfb => OpeningCipher::Cfb(Box::new((
                CfbDecryptor::new(&self.key_bytes::<0, 16>(), &self.key_bytes::<16, 16>()),
                self.mac_key(),
            ))),
            EncryptMethod::Aes128Gcm => OpeningCipher::Aead(self.aead_key(&AES_128_GCM)),
            EncryptMethod::Chacha20Poly1305 => {
                OpeningCipher::Aead(self.aead_key(&CHACHA20_POLY1305))
            }
        }
    }

    /// Returns `N` bytes of the key material, starting at `FROM`.
    fn key_bytes<const FROM: usize, const N: usize>(&self) -> Zeroizing<[u8; N]> {
        const {
            assert!(
                FROM <= 64 && N <= 64 - FROM,
                "the key material has 64 bytes"
            )
        };
        let mut bytes = Zeroizing::new([0; N]);
        for (to, from) in bytes.iter_mut().zip(self.material.iter().skip(FROM)) {
            *to = *from;
        }
        bytes
    }

    fn mac_key(&self) -> hmac::Key {
        hmac::Key::new(HMAC_SHA256, &*self.key_bytes::<32, 32>())
    }

    fn aead_key(&self, algorithm: &'static Algorithm) -> LessSafeKey {
        let material = self
            .material
            .split_at_checked(algorithm.key_len())
            .map_or(&[][..], |(key, _)| key);
        #[expect(
            clippy::expect_used,
            reason = "fails only for a wrong key length, and the key is cut to the algorithm's length"
        )]
        LessSafeKey::new(
            UnboundKey::new(algorithm, material).expect("a key of the algorithm's length"),
        )
    }
}

pub(super) enum SealingCipher {
    Plain(LessSafeKey),
    Cfb(Box<(CfbEncryptor, hmac::Key)>),
    Aead(LessSafeKey),
}

impl SealingCipher {
    /// Seals in place and returns the tag, or `None` if the library fails, which is not expected.
    pub(super) fn seal(&mut self, number: u64, message: &mut [u8]) -> Option<[u8; OVERHEAD]> {
        match self {
            SealingCipher::Plain(key) => {
                let tag = key
                    .seal_in_place_separate_tag(nonce(number), Aad::from(&*message), &mut [])
                    .ok()?;
                tag.as_ref().try_into().ok()
            }
            SealingCipher::Cfb(pair) => {
                let (cipher, mac) = &mut **pair;
                cipher.encrypt(message);
                authenticate(mac, number, message)
            }
            SealingCipher::Aead(key) => {
                let tag = key
                    .seal_in_place_separate_tag(nonce(number), Aad::empty(), message)
                    .ok()?;
                tag.as_ref().try_into().ok()
            }
        }
    }
}

pub(super) enum OpeningCipher {
    Plain(LessSafeKey),
    Cfb(Box<(CfbDecryptor, hmac::Key)>),
    Aead(LessSafeKey),
}

impl OpeningCipher {
    pub(super) fn open(
        &mut self,
        number: u64,
        message: &mut [u8],
        tag: &[u8],
    ) -> Result<(), SealError> {
        match self {
            OpeningCipher::Plain(key) => verify_plain(key, number, message, tag),
            OpeningCipher::Cfb(pair) => {
                let (cipher, mac) = &mut **pair;
                let expected = authenticate(mac, number, message).ok_or(SealError::Corrupt)?;
                verify_slices_are_equal(&expected, tag).map_err(|_| SealError::Corrupt)?;
                cipher.decrypt(message);
                Ok(())
            }
            OpeningCipher::Aead(key) => key
                .open_in_place_separate_tag(nonce(number), Aad::empty(), tag, message)
                .map(|_| ())
                .map_err(|_| SealError::Corrupt),
        }
    }
}

fn verify_plain(
    key: &LessSafeKey,
    number: u64,
    message: &[u8],
    tag: &[u8],
) -> Result<(), SealError> {
    let mut tag: [u8; OVERHEAD] = tag.try_into().map_err(|_| SealError::Corrupt)?;
    key.open_in_place(nonce(number), Aad::from(message), &mut tag)
        .map(|_| ())
        .map_err(|_| SealError::Corrupt)
}

/// Computes the tag of `aes-128-cfb`: a truncated HMAC over the message number and the ciphertext.
fn authenticate(mac: &hmac::Key, number: u64, ciphertext: &[u8]) -> Option<[u8; OVERHEAD]> {
    let mut context = hmac::Context::with_key(mac);
    context.update(&number.to_be_bytes());
    context.update(ciphertext);
    context.sign().as_ref().first_chunk().copied()
}

fn nonce(number: u64) -> Nonce {
    let [a, b, c, d, e, f, g, h] = number.to_be_bytes();
    Nonce::assume_unique_for_key([0, 0, 0, 0, a, b, c, d, e, f, g, h])
}
