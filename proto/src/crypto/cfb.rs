//! AES-128 in CFB mode with 128-bit segments (PROTOCOL 8.2).
//!
//! One cipher state runs over messages of any length. The buffered types of `cfb-mode` dispatch
//! once for every 16 bytes. This module processes only the unaligned head and tail of a message
//! byte by byte. The aligned middle goes through the block calls, at the speed of the cipher
//! itself.
//!
//! CFB encrypts and does not authenticate. [`super::seal`] adds the authentication.

use aes::{
    Aes128,
    cipher::{
        Array, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, KeyInit,
        consts::U16,
    },
};
use cfb_mode::{Decryptor, Encryptor};
use zeroize::{Zeroize, ZeroizeOnDrop};

const BLOCK: usize = 16;

type Block = Array<u8, U16>;

/// Encrypts one direction.
pub struct CfbEncryptor(CfbState);

/// Decrypts one direction.
pub struct CfbDecryptor(CfbState);

impl CfbEncryptor {
    /// Creates an encryptor from a key and an initialization vector.
    #[must_use]
    pub fn new(key: &[u8; BLOCK], iv: &[u8; BLOCK]) -> Self {
        CfbEncryptor(CfbState::new(key, iv))
    }

    /// Encrypts the next bytes of the direction in place.
    pub fn encrypt(&mut self, data: &mut [u8]) {
        let (head, middle, tail) = self.0.split_blocks(data);
        self.0
            .apply_bytewise(head, |byte, key| (byte ^ key, byte ^ key));
        if let Some(last) = middle.len().checked_sub(1) {
            Encryptor::inner_iv_init(&self.0.cipher, &self.0.feedback).encrypt_blocks(middle);
            // The last ciphertext block is the input of the next keystream block.
            self.0.feedback = middle.get(last).copied().unwrap_or_default();
        }
        self.0
            .apply_bytewise(tail, |byte, key| (byte ^ key, byte ^ key));
    }
}

impl CfbDecryptor {
    /// Creates a decryptor from a key and an initialization vector.
    #[must_use]
    pub fn new(key: &[u8; BLOCK], iv: &[u8; BLOCK]) -> Self {
        CfbDecryptor(CfbState::new(key, iv))
    }

    /// Decrypts the next bytes of the direction in place.
    pub fn decrypt(&mut self, data: &mut [u8]) {
        let (head, middle, tail) = self.0.split_blocks(data);
        self.0.apply_bytewise(head, |byte, key| (byte ^ key, byte));
        // Copy the last ciphertext block first: the call overwrites it with plaintext.
        if let Some(last) = middle.last().copied() {
            Decryptor::inner_iv_init(&self.0.cipher, &self.0.feedback).decrypt_blocks(middle);
            self.0.feedback = last;
        }
        self.0.apply_bytewise(tail, |byte, key| (byte ^ key, byte));
    }
}

/// The state of a direction between two calls.
struct CfbState {
    cipher: Aes128,
    /// The ciphertext block that the next keystream block is made from.
    ///
    /// Within a partial block, its first `position` bytes are already those of the partial block.
    feedback: Block,
    /// The keystream of the partial block; unused at position 0.
    keystream: Block,
    /// Processed bytes of the partial block, 0 to 15.
    position: usize,
}

impl CfbState {
    fn new(key: &[u8; BLOCK], iv: &[u8; BLOCK]) -> Self {
        CfbState {
            cipher: Aes128::new(&(*key).into()),
            feedback: (*iv).into(),
            keystream: Block::default(),
            position: 0,
        }
    }

    /// Splits `data` into the rest of the partial block, whole blocks, and the next partial block.
    fn split_blocks<'a>(
        &self,
        data: &'a mut [u8],
    ) -> (&'a mut [u8], &'a mut [Block], &'a mut [u8]) {
        let partial = BLOCK.saturating_sub(self.position) % BLOCK;
        let (head, rest) = data.split_at_mut(partial.min(data.len()));
        let (middle, tail) = Block::slice_as_chunks_mut(rest);
        (head, middle, tail)
    }

    /// Processes less than a block.
    ///
    /// `step` maps an input byte and a keystream byte to the output byte and the ciphertext byte.
    fn apply_bytewise(&mut self, data: &mut [u8], step: impl Fn(u8, u8) -> (u8, u8)) {
        if data.is_empty() {
            return;
        }
        if self.position == 0 {
            self.keystream = self.feedback;
            self.cipher.encrypt_block(&mut self.keystream);
        }
        let pairs = self
            .feedback
            .iter_mut()
            .zip(&self.keystream)
            .skip(self.position);
        for (byte, (feedback, key)) in data.iter_mut().zip(pairs) {
            (*byte, *feedback) = step(*byte, *key);
        }
        self.position = self.position.saturating_add(data.len()) % BLOCK;
    }
}

impl Drop for CfbState {
    fn drop(&mut self) {
        self.feedback.as_mut_slice().zeroize();
        self.keystream.as_mut_slice().zeroize();
    }
}

// `Aes128` clears its round keys on drop.
impl ZeroizeOnDrop for CfbState {}

#[cfg(test)]
mod tests {
    use aes::cipher::KeyIvInit;
    use cfb_mode::{BufDecryptor, BufEncryptor};
    use proptest::prelude::*;

    use super::*;

    /// NIST SP 800-38A, F.3.13 and F.3.14: CFB128-AES128.
    const KEY: [u8; 16] = 0x2b7e_1516_28ae_d2a6_abf7_1588_09cf_4f3c_u128.to_be_bytes();
    const IV: [u8; 16] = 0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f_u128.to_be_bytes();
    const PLAINTEXT: [u128; 4] = [
        0x6bc1_bee2_2e40_9f96_e93d_7e11_7393_172a,
        0xae2d_8a57_1e03_ac9c_9eb7_6fac_45af_8e51,
        0x30c8_1c46_a35c_e411_e5fb_c119_1a0a_52ef,
        0xf69f_2445_df4f_9b17_ad2b_417b_e66c_3710,
    ];
    const CIPHERTEXT: [u128; 4] = [
        0x3b3f_d92e_b72d_ad20_3334_49f8_e83c_fb4a,
        0xc8a6_4537_a0b3_a93f_cde3_cdad_9f1c_e58b,
        0x2675_1f67_a3cb_b140_b180_8cf1_87a4_f4df,
        0xc04b_0535_7c5d_1c0e_eac4_c66f_9ff7_f2e6,
    ];

    fn bytes(blocks: [u128; 4]) -> Vec<u8> {
        blocks
            .iter()
            .flat_map(|block| block.to_be_bytes())
            .collect()
    }

    #[test]
    fn cfb_matches_nist_vectors_for_every_piece_length() {
        for length in 1..=64 {
            let (mut encryptor, mut decryptor) =
                (CfbEncryptor::new(&KEY, &IV), CfbDecryptor::new(&KEY, &IV));
            let mut data = bytes(PLAINTEXT);
            data.chunks_mut(length)
                .for_each(|piece| encryptor.encrypt(piece));
            assert_eq!(data, bytes(CIPHERTEXT), "pieces of {length}");
            data.chunks_mut(length)
                .for_each(|piece| decryptor.decrypt(piece));
            assert_eq!(data, bytes(PLAINTEXT), "pieces of {length}");
        }
    }

    /// Generates messages with many lengths near block boundaries.
    fn messages() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let length = prop_oneof![
            0_usize..40,
            (0_usize..6).prop_map(|blocks| blocks * 16),
            1400_usize..1500,
            2000_usize..5000
        ];
        let message = length.prop_flat_map(|length| proptest::collection::vec(any::<u8>(), length));
        proptest::collection::vec(message, 0..12)
    }

    proptest! {
        #[test]
        fn cfb_matches_buffered_types_of_cfb_mode(
            key in any::<[u8; 16]>(), iv in any::<[u8; 16]>(), messages in messages(),
        ) {
            let (mut encryptor, mut decryptor) = (CfbEncryptor::new(&key, &iv), CfbDecryptor::new(&key, &iv));
            let mut encrypt = BufEncryptor::<Aes128>::new(&key.into(), &iv.into());
            let mut decrypt = BufDecryptor::<Aes128>::new(&key.into(), &iv.into());
            for message in messages {
                let (mut ours, mut theirs) = (message.clone(), message.clone());
                encryptor.encrypt(&mut ours);
                encrypt.encrypt(&mut theirs);
                prop_assert_eq!(&ours, &theirs);
                decryptor.decrypt(&mut ours);
                decrypt.decrypt(&mut theirs);
                prop_assert_eq!(&ours, &theirs);
                prop_assert_eq!(ours, message);
            }
        }

        #[test]
        fn output_does_not_depend_on_piece_lengths(
            data in proptest::collection::vec(any::<u8>(), 0..3000), cuts in proptest::collection::vec(1_usize..70, 1..40),
        ) {
            let (mut whole, mut pieces) = (data.clone(), data);
            CfbEncryptor::new(&KEY, &IV).encrypt(&mut whole);
            let (mut encryptor, mut rest) = (CfbEncryptor::new(&KEY, &IV), &mut pieces[..]);
            for cut in cuts.into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at_mut(cut.min(rest.len()));
                encryptor.encrypt(piece);
                rest = after;
            }
            prop_assert_eq!(whole, pieces);
        }
    }
}
