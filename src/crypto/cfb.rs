//! AES-128 in CFB mode with 128-bit segments as one running state over messages of any length (PROTOCOL 8.2).
//!
//! The buffered types of `cfb-mode` dispatch once for every 16 bytes; here only the two ends of a message go byte by byte, and the
//! aligned middle through the block calls, at the speed of the cipher itself. Hides, and does not authenticate: [`super::seal`] does.

use aes::{
    Aes128,
    cipher::{Array, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, KeyInit, consts::U16},
};
use cfb_mode::{Decryptor, Encryptor};
use zeroize::{Zeroize, ZeroizeOnDrop};

const BLOCK: usize = 16;

type Block = Array<u8, U16>;

/// The encrypting end of a direction.
pub struct CfbEncryptor(State);

/// The decrypting end of a direction.
pub struct CfbDecryptor(State);

impl CfbEncryptor {
    /// A direction that begins with this key and initialisation vector.
    #[must_use]
    pub fn new(key: &[u8; BLOCK], iv: &[u8; BLOCK]) -> Self {
        CfbEncryptor(State::new(key, iv))
    }

    /// Encrypts the next bytes of the direction in place.
    pub fn encrypt(&mut self, data: &mut [u8]) {
        let (head, middle, tail) = self.0.cut(data);
        self.0.bytewise(head, |byte, key| (byte ^ key, byte ^ key));
        if let Some(last) = middle.len().checked_sub(1) {
            Encryptor::inner_iv_init(&self.0.cipher, &self.0.feedback).encrypt_blocks(middle);
            self.0.feedback = middle.get(last).copied().unwrap_or_default();
        }
        self.0.bytewise(tail, |byte, key| (byte ^ key, byte ^ key));
    }
}

impl CfbDecryptor {
    /// A direction that begins with this key and initialisation vector.
    #[must_use]
    pub fn new(key: &[u8; BLOCK], iv: &[u8; BLOCK]) -> Self {
        CfbDecryptor(State::new(key, iv))
    }

    /// Decrypts the next bytes of the direction in place.
    pub fn decrypt(&mut self, data: &mut [u8]) {
        let (head, middle, tail) = self.0.cut(data);
        self.0.bytewise(head, |byte, key| (byte ^ key, byte));
        if let Some(last) = middle.last().copied() {
            Decryptor::inner_iv_init(&self.0.cipher, &self.0.feedback).decrypt_blocks(middle);
            self.0.feedback = last;
        }
        self.0.bytewise(tail, |byte, key| (byte ^ key, byte));
    }
}

/// Where a direction stands between two calls.
struct State {
    cipher: Aes128,
    /// The ciphertext block that the next keystream comes from: the first `position` bytes are already those of the block under way,
    /// once its keystream has been made.
    feedback: Block,
    /// The keystream of the block under way; meaningless at position 0.
    keystream: Block,
    /// Bytes of the block under way that are done, 0 to 15.
    position: usize,
}

impl State {
    fn new(key: &[u8; BLOCK], iv: &[u8; BLOCK]) -> Self {
        State { cipher: Aes128::new(&(*key).into()), feedback: (*iv).into(), keystream: Block::default(), position: 0 }
    }

    /// The end of the block under way, the whole blocks after it, and the beginning of the next.
    fn cut<'a>(&self, data: &'a mut [u8]) -> (&'a mut [u8], &'a mut [Block], &'a mut [u8]) {
        let under_way = BLOCK.saturating_sub(self.position) % BLOCK;
        let (head, rest) = data.split_at_mut(under_way.min(data.len()));
        let (middle, tail) = Block::slice_as_chunks_mut(rest);
        (head, middle, tail)
    }

    /// Passes less than a block through; `step` gives the output and the ciphertext byte for an input and a keystream byte.
    fn bytewise(&mut self, data: &mut [u8], step: impl Fn(u8, u8) -> (u8, u8)) {
        if data.is_empty() {
            return;
        }
        if self.position == 0 {
            self.keystream = self.feedback;
            self.cipher.encrypt_block(&mut self.keystream);
        }
        let pairs = self.feedback.iter_mut().zip(&self.keystream).skip(self.position);
        for (byte, (feedback, key)) in data.iter_mut().zip(pairs) {
            (*byte, *feedback) = step(*byte, *key);
        }
        self.position = self.position.saturating_add(data.len()) % BLOCK;
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.feedback.as_mut_slice().zeroize();
        self.keystream.as_mut_slice().zeroize();
    }
}

// The cipher clears its round keys itself.
impl ZeroizeOnDrop for State {}
