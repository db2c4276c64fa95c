//! Seals and opens the messages of one attachment, one direction each (PROTOCOL 8).
//!
//! ```text
//! Open ──a message fails to open, or its number is exhausted──► Failed (permanently)
//! ```
//!
//! This module works on keys and bytes. It does not know the contents of a message. All operations
//! are in place: the buffer that the caller fills is the one that is sent.

use std::fmt;

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    constant_time::verify_slices_are_equal,
    hmac::{self, HMAC_SHA256},
};
use bytes::BytesMut;
use zeroize::Zeroizing;

use super::{
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

/// Seals the messages of a direction. The peer must open them in the same order.
pub struct Sealer {
    /// The number of the next message.
    next: u64,
    /// `None` after a failure.
    cipher: Option<SealingCipher>,
}

/// Opens the messages of a direction, in the order in which they were sealed.
pub struct Opener {
    /// The number of the next message.
    next: u64,
    /// `None` after a failure.
    cipher: Option<OpeningCipher>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Sealer")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Opener")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl Sealer {
    pub(super) fn new(direction: DirectionKeys) -> Self {
        Sealer {
            next: 0,
            cipher: Some(direction.into_sealing_cipher()),
        }
    }

    /// Seals `buffer[from..]` in place as the next message and appends the tag.
    ///
    /// Reserve [`OVERHEAD`] bytes for the tag when you allocate the buffer. Otherwise appending may
    /// copy it.
    ///
    /// # Errors
    /// Returns an error if all message numbers are used, or if `from` is beyond the end of the
    /// buffer. The buffer is then unchanged.
    pub fn seal(&mut self, buffer: &mut BytesMut, from: usize) -> Result<(), SealError> {
        let cipher = self.cipher.as_mut().ok_or(SealError::Failed)?;
        let message = buffer.get_mut(from..).ok_or(SealError::Range)?;
        let number = next_number(&mut self.next)?;
        let Some(tag) = cipher.seal(number, message) else {
            self.cipher = None;
            return Err(SealError::Failed);
        };
        buffer.extend_from_slice(&tag);
        Ok(())
    }
}

impl Opener {
    pub(super) fn new(direction: DirectionKeys) -> Self {
        Opener {
            next: 0,
            cipher: Some(direction.into_opening_cipher()),
        }
    }

    /// Opens the next message in place and removes its tag.
    ///
    /// The tag is verified in constant time, before or during decryption. After an error the
    /// contents of the buffer are unspecified.
    ///
    /// # Errors
    /// Returns an error if the message is not the next one that the peer sealed. All later calls
    /// fail as well.
    pub fn open(&mut self, buffer: &mut BytesMut) -> Result<(), SealError> {
        let cipher = self.cipher.as_mut().ok_or(SealError::Failed)?;
        let opened = next_number(&mut self.next).and_then(|number| {
            let length = buffer
                .len()
                .checked_sub(OVERHEAD)
                .ok_or(SealError::Corrupt)?;
            let (message, tag) = buffer
                .split_at_mut_checked(length)
                .ok_or(SealError::Corrupt)?;
            cipher.open(number, message, tag)?;
            Ok(length)
        });
        match opened {
            Ok(length) => buffer.truncate(length),
            Err(error) => {
                // The two ends are out of step from here: drop the keys and refuse every later
                // message.
                self.cipher = None;
                return Err(error);
            }
        }
        Ok(())
    }
}

/// The keys of one direction (PROTOCOL 8.2).
pub(super) struct DirectionKeys {
    method: EncryptMethod,
    material: Zeroizing<[u8; 64]>,
}

impl DirectionKeys {
    /// Derives the keys from the handshake hash and the direction's key of the Noise split.
    pub(super) fn derive(method: EncryptMethod, hash: &[u8; 32], key: &[u8]) -> Self {
        let material = hkdf::derive(hash, key, &[b"rePort seal ", method.name().as_bytes()]);
        DirectionKeys {
            method,
            material: Zeroizing::new(material),
        }
    }

    fn into_sealing_cipher(self) -> SealingCipher {
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

    fn into_opening_cipher(self) -> OpeningCipher {
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

enum SealingCipher {
    Plain(LessSafeKey),
    Cfb(Box<(CfbEncryptor, hmac::Key)>),
    Aead(LessSafeKey),
}

impl SealingCipher {
    /// Seals in place and returns the tag, or `None` if the library fails, which is not expected.
    fn seal(&mut self, number: u64, message: &mut [u8]) -> Option<[u8; OVERHEAD]> {
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

enum OpeningCipher {
    Plain(LessSafeKey),
    Cfb(Box<(CfbDecryptor, hmac::Key)>),
    Aead(LessSafeKey),
}

impl OpeningCipher {
    fn open(&mut self, number: u64, message: &mut [u8], tag: &[u8]) -> Result<(), SealError> {
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

/// Returns the next message number.
///
/// Each number is used once. The last one is never used, so that the counter cannot wrap.
fn next_number(next: &mut u64) -> Result<u64, SealError> {
    let number = *next;
    *next = number.checked_add(1).ok_or(SealError::Exhausted)?;
    Ok(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair(method: EncryptMethod) -> (Sealer, Opener) {
        let direction = || DirectionKeys::derive(method, &[1; 32], &[2; 32]);
        (Sealer::new(direction()), Opener::new(direction()))
    }

    fn sealed(sealer: &mut Sealer, message: &[u8]) -> BytesMut {
        let mut buffer = BytesMut::from(message);
        sealer.seal(&mut buffer, 0).unwrap();
        assert_eq!(buffer.len(), message.len() + OVERHEAD);
        buffer
    }

    #[test]
    fn open_rejects_altered_message_and_all_later_ones() {
        for method in EncryptMethod::ALL {
            for index in 0..40 + OVERHEAD {
                let (mut sealer, mut opener) = pair(method);
                let mut altered = sealed(&mut sealer, &[5; 40]);
                altered[index] ^= 0x10;
                assert_eq!(
                    opener.open(&mut altered),
                    Err(SealError::Corrupt),
                    "{method}, byte {index}"
                );
                let mut good = sealed(&mut sealer, b"good");
                assert_eq!(opener.open(&mut good), Err(SealError::Failed), "{method}");
            }
        }
    }

    #[test]
    fn open_rejects_message_shorter_than_tag() {
        for method in EncryptMethod::ALL {
            for length in 0..OVERHEAD {
                let (_, mut opener) = pair(method);
                assert_eq!(
                    opener.open(&mut BytesMut::zeroed(length)),
                    Err(SealError::Corrupt),
                    "{method} {length}"
                );
                assert_eq!(
                    opener.open(&mut BytesMut::zeroed(50)),
                    Err(SealError::Failed),
                    "{method} {length}"
                );
            }
        }
    }

    #[test]
    fn open_rejects_replayed_and_skipped_messages() {
        for method in EncryptMethod::ALL {
            let messages = || {
                let (mut sealer, opener) = pair(method);
                (
                    [sealed(&mut sealer, b"same"), sealed(&mut sealer, b"same")],
                    opener,
                )
            };
            let ([first, _], mut opener) = messages();
            assert_eq!(opener.open(&mut first.clone()), Ok(()));
            assert_eq!(
                opener.open(&mut first.clone()),
                Err(SealError::Corrupt),
                "{method}: replayed"
            );
            let ([_, mut second], mut opener) = messages();
            assert_eq!(
                opener.open(&mut second),
                Err(SealError::Corrupt),
                "{method}: the first message skipped"
            );
        }
    }

    #[test]
    fn open_rejects_extended_and_truncated_messages() {
        for method in EncryptMethod::ALL {
            let (mut sealer, mut opener) = pair(method);
            let mut longer = sealed(&mut sealer, b"message");
            longer.extend_from_slice(&[0]);
            assert_eq!(
                opener.open(&mut longer),
                Err(SealError::Corrupt),
                "{method}"
            );
            let (mut sealer, mut opener) = pair(method);
            let mut shorter = sealed(&mut sealer, b"message");
            shorter.truncate(shorter.len() - 1);
            assert_eq!(
                opener.open(&mut shorter),
                Err(SealError::Corrupt),
                "{method}"
            );
        }
    }

    #[test]
    fn only_plain_is_readable() {
        let secret = b"a known plaintext of some length";
        for method in EncryptMethod::ALL {
            let buffer = sealed(&mut pair(method).0, secret);
            let readable = buffer
                .windows(8)
                .any(|window| secret.windows(8).any(|part| part == window));
            assert_eq!(readable, method == EncryptMethod::Plain, "{method}");
        }
    }

    #[test]
    fn message_numbers_do_not_wrap() {
        for method in EncryptMethod::ALL {
            let (mut sealer, mut opener) = pair(method);
            (sealer.next, opener.next) = (u64::MAX - 1, u64::MAX - 1);
            let mut last = sealed(&mut sealer, b"last");
            assert_eq!(opener.open(&mut last), Ok(()));
            let mut more = BytesMut::from(&b"more"[..]);
            assert_eq!(sealer.seal(&mut more, 0), Err(SealError::Exhausted));
            assert_eq!(&more[..], b"more", "the buffer is unchanged");
            assert_eq!(
                opener.open(&mut BytesMut::zeroed(20)),
                Err(SealError::Exhausted)
            );
        }
    }

    #[test]
    fn seal_rejects_start_beyond_buffer_without_using_a_number() {
        for method in EncryptMethod::ALL {
            let (mut sealer, mut opener) = pair(method);
            assert_eq!(
                sealer.seal(&mut BytesMut::zeroed(3), 4),
                Err(SealError::Range)
            );
            assert_eq!(opener.open(&mut sealed(&mut sealer, b"next")), Ok(()));
        }
    }

    #[test]
    fn seal_and_open_work_in_place() {
        for method in EncryptMethod::ALL {
            let (mut sealer, mut opener) = pair(method);
            let mut buffer = BytesMut::with_capacity(5 + 1000 + OVERHEAD);
            buffer.extend_from_slice(&[0; 1005]);
            let place = buffer.as_ptr();
            sealer.seal(&mut buffer, 5).unwrap();
            assert_eq!(buffer.as_ptr(), place, "{method}");
            let mut opened = buffer.split_off(5);
            opener.open(&mut opened).unwrap();
            assert_eq!(opened.as_ptr(), place.wrapping_add(5), "{method}");
            assert_eq!(opened, vec![0; 1000]);
        }
    }

    proptest! {
        #[test]
        fn sealed_messages_open(messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..20)) {
            for method in EncryptMethod::ALL {
                let (mut sealer, mut opener) = pair(method);
                for message in &messages {
                    let mut buffer = sealed(&mut sealer, message);
                    opener.open(&mut buffer).unwrap();
                    prop_assert_eq!(&buffer[..], &message[..]);
                }
            }
        }

        #[test]
        fn open_rejects_arbitrary_bytes(garbage in proptest::collection::vec(any::<u8>(), 0..300)) {
            for method in EncryptMethod::ALL {
                prop_assert_eq!(pair(method).1.open(&mut BytesMut::from(&garbage[..])), Err(SealError::Corrupt));
            }
        }
    }
}
