//! Sealing the messages of one attachment, one direction each (PROTOCOL 8).
//!
//! ```text
//! Open ──a message that does not open, or the last number used──► Failed (for ever)
//! ```
//!
//! Knows keys and bytes; not what a message means. Everything happens in place: the buffer that was filled is the one that is sent.

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

/// Bytes that a sealed message is longer than the message, for every method.
pub const OVERHEAD: usize = 16;

/// Why a message was not sealed or not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The peer's message does not open: it was altered, replayed, lost or put out of order on the way.
    #[error("a message does not open")]
    Corrupt,
    /// An earlier message failed, so that the state of both ends is no longer the same.
    #[error("an earlier message did not open")]
    Failed,
    /// All message numbers of the direction are used up.
    #[error("all message numbers are used up")]
    Exhausted,
    /// The message to seal begins behind the end of the buffer: a bug of ours.
    #[error("the message begins behind the end of the buffer")]
    Range,
}

/// Seals the messages of a direction, in the order in which they will be opened.
pub struct Sealer {
    next: u64,
    /// Gone after a failure.
    cipher: Option<SealWith>,
}

/// Opens the messages of a direction, in the order in which they were sealed.
pub struct Opener {
    next: u64,
    /// Gone after a failure.
    cipher: Option<OpenWith>,
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
    pub(super) fn new(direction: Direction) -> Self {
        Sealer {
            next: 0,
            cipher: Some(direction.sealing()),
        }
    }

    /// Seals `buffer[from..]` in place as the next message, and appends its [`OVERHEAD`] bytes of tag; reserve them when the buffer is
    /// made, or it may be copied here.
    ///
    /// # Errors
    /// When the numbers are used up, or `from` is behind the end of the buffer, which is then as it was.
    pub fn seal(&mut self, buffer: &mut BytesMut, from: usize) -> Result<(), SealError> {
        let cipher = self.cipher.as_mut().ok_or(SealError::Failed)?;
        let message = buffer.get_mut(from..).ok_or(SealError::Range)?;
        let number = take(&mut self.next)?;
        let Some(tag) = cipher.seal(number, message) else {
            self.cipher = None;
            return Err(SealError::Failed);
        };
        buffer.extend_from_slice(&tag);
        Ok(())
    }
}

impl Opener {
    pub(super) fn new(direction: Direction) -> Self {
        Opener {
            next: 0,
            cipher: Some(direction.opening()),
        }
    }

    /// Opens the next message in place and cuts off its tag. The tag is verified, in constant time, before anything is decrypted or
    /// while it is; what is in the buffer after an error means nothing.
    ///
    /// # Errors
    /// When the message is not the next one that the peer sealed. From then on nothing opens any more.
    pub fn open(&mut self, buffer: &mut BytesMut) -> Result<(), SealError> {
        let cipher = self.cipher.as_mut().ok_or(SealError::Failed)?;
        let opened = take(&mut self.next).and_then(|number| {
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
                self.cipher = None;
                return Err(error);
            }
        }
        Ok(())
    }
}

/// The key material of one direction (PROTOCOL 8.2).
pub(super) struct Direction {
    method: EncryptMethod,
    material: Zeroizing<[u8; 64]>,
}

impl Direction {
    /// From the handshake hash and the direction's key of the Noise split.
    pub(super) fn derive(method: EncryptMethod, hash: &[u8; 32], key: &[u8]) -> Self {
        let material = hkdf::derive(hash, key, &[b"rePort seal ", method.name().as_bytes()]);
        Direction {
            method,
            material: Zeroizing::new(material),
        }
    }

    fn sealing(self) -> SealWith {
        match self.method {
            EncryptMethod::Plain => SealWith::Plain(self.aead_key(&AES_128_GCM)),
            EncryptMethod::Aes128Cfb => SealWith::Cfb(Box::new((
                CfbEncryptor::new(&self.cut::<0, 16>(), &self.cut::<16, 16>()),
                self.mac_key(),
            ))),
            EncryptMethod::Aes128Gcm => SealWith::Aead(self.aead_key(&AES_128_GCM)),
            EncryptMethod::Chacha20Poly1305 => SealWith::Aead(self.aead_key(&CHACHA20_POLY1305)),
        }
    }

    fn opening(self) -> OpenWith {
        match self.method {
            EncryptMethod::Plain => OpenWith::Plain(self.aead_key(&AES_128_GCM)),
            EncryptMethod::Aes128Cfb => OpenWith::Cfb(Box::new((
                CfbDecryptor::new(&self.cut::<0, 16>(), &self.cut::<16, 16>()),
                self.mac_key(),
            ))),
            EncryptMethod::Aes128Gcm => OpenWith::Aead(self.aead_key(&AES_128_GCM)),
            EncryptMethod::Chacha20Poly1305 => OpenWith::Aead(self.aead_key(&CHACHA20_POLY1305)),
        }
    }

    /// `N` bytes of the material from `FROM` on.
    fn cut<const FROM: usize, const N: usize>(&self) -> Zeroizing<[u8; N]> {
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
        hmac::Key::new(HMAC_SHA256, &*self.cut::<32, 32>())
    }

    fn aead_key(&self, algorithm: &'static Algorithm) -> LessSafeKey {
        let material = self
            .material
            .split_at_checked(algorithm.key_len())
            .map_or(&[][..], |(key, _)| key);
        #[expect(
            clippy::expect_used,
            reason = "fails only for a key of another length than the algorithm's, which was asked for"
        )]
        LessSafeKey::new(
            UnboundKey::new(algorithm, material).expect("a key of the algorithm's length"),
        )
    }
}

enum SealWith {
    Plain(LessSafeKey),
    Cfb(Box<(CfbEncryptor, hmac::Key)>),
    Aead(LessSafeKey),
}

impl SealWith {
    /// Seals in place, and gives the tag; nothing when the library fails, which it has no reason to do.
    fn seal(&mut self, number: u64, message: &mut [u8]) -> Option<[u8; OVERHEAD]> {
        match self {
            SealWith::Plain(key) => {
                let tag = key
                    .seal_in_place_separate_tag(nonce(number), Aad::from(&*message), &mut [])
                    .ok()?;
                tag.as_ref().try_into().ok()
            }
            SealWith::Cfb(pair) => {
                let (cipher, mac) = &mut **pair;
                cipher.encrypt(message);
                authenticate(mac, number, message)
            }
            SealWith::Aead(key) => {
                let tag = key
                    .seal_in_place_separate_tag(nonce(number), Aad::empty(), message)
                    .ok()?;
                tag.as_ref().try_into().ok()
            }
        }
    }
}

enum OpenWith {
    Plain(LessSafeKey),
    Cfb(Box<(CfbDecryptor, hmac::Key)>),
    Aead(LessSafeKey),
}

impl OpenWith {
    fn open(&mut self, number: u64, message: &mut [u8], tag: &[u8]) -> Result<(), SealError> {
        match self {
            OpenWith::Plain(key) => verify_plain(key, number, message, tag),
            OpenWith::Cfb(pair) => {
                let (cipher, mac) = &mut **pair;
                let expected = authenticate(mac, number, message).ok_or(SealError::Corrupt)?;
                verify_slices_are_equal(&expected, tag).map_err(|_| SealError::Corrupt)?;
                cipher.decrypt(message);
                Ok(())
            }
            OpenWith::Aead(key) => key
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

/// The tag of `aes-128-cfb`.
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

/// The next message number; each is used once, and the last one never, so that the count cannot wrap.
fn take(next: &mut u64) -> Result<u64, SealError> {
    let number = *next;
    *next = number.checked_add(1).ok_or(SealError::Exhausted)?;
    Ok(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pair(method: EncryptMethod) -> (Sealer, Opener) {
        let direction = || Direction::derive(method, &[1; 32], &[2; 32]);
        (Sealer::new(direction()), Opener::new(direction()))
    }

    fn sealed(sealer: &mut Sealer, message: &[u8]) -> BytesMut {
        let mut buffer = BytesMut::from(message);
        sealer.seal(&mut buffer, 0).unwrap();
        assert_eq!(buffer.len(), message.len() + OVERHEAD);
        buffer
    }

    #[test]
    fn a_message_altered_in_any_byte_does_not_open_and_neither_does_anything_after_it() {
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
    fn a_message_that_is_too_short_for_a_tag_does_not_open() {
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
    fn a_message_that_is_replayed_left_out_or_exchanged_does_not_open() {
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
                "{method}: the first left out"
            );
        }
    }

    #[test]
    fn what_was_appended_or_cut_off_on_the_way_is_noticed() {
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
    fn plain_is_readable_and_nothing_else_is() {
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
            assert_eq!(&more[..], b"more", "what cannot be sealed is not touched");
            assert_eq!(
                opener.open(&mut BytesMut::zeroed(20)),
                Err(SealError::Exhausted)
            );
        }
    }

    #[test]
    fn a_message_that_begins_behind_the_buffer_is_refused_and_costs_no_number() {
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
    fn sealing_and_opening_stay_in_the_buffer() {
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
        fn what_was_sealed_opens(messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..20)) {
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
        fn what_was_not_sealed_does_not_open(garbage in proptest::collection::vec(any::<u8>(), 0..300)) {
            for method in EncryptMethod::ALL {
                prop_assert_eq!(pair(method).1.open(&mut BytesMut::from(&garbage[..])), Err(SealError::Corrupt));
            }
        }
    }
}
