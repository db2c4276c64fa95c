//! S2 blocks.
//!
//! The encoder writes the Snappy subset of S2, because the Snappy compressor is faster. The decoder
//! reads all of S2.

use bytes::Bytes;

use super::{chunk::MAX_CHUNK, error::CompressError};

/// Encodes blocks. It allocates its table with the first block.
#[derive(Default)]
pub(super) struct S2Encoder(Option<Box<snap::raw::Encoder>>);

impl S2Encoder {
    /// Encodes `raw` as a block at the beginning of `to` and returns the block's length.
    ///
    /// `to` must have [`max_body_length`] bytes.
    pub(super) fn compress(&mut self, raw: &[u8], to: &mut [u8]) -> Option<usize> {
        self.0
            .get_or_insert_with(|| Box::new(snap::raw::Encoder::new()))
            .compress(raw, to)
            .ok()
    }
}

/// Returns the buffer size that compressing a chunk requires.
pub(super) fn max_body_length() -> usize {
    snap::raw::max_compress_len(MAX_CHUNK)
}

/// Decodes a block that must hold `raw_length` bytes.
///
/// The declared length is checked before anything is allocated.
pub(super) fn decompress(body: &[u8], raw_length: usize) -> Result<Bytes, CompressError> {
    match minlz::s2::decode_len(body) {
        Ok((declared, _)) if declared == raw_length => {}
        _ => return Err(CompressError::Body),
    }
    let mut raw = vec![0; raw_length];
    // Try the Snappy decoder first. It is faster, it reads everything that rePort writes, and it
    // rejects blocks with elements that only S2 has.
    let snappy = snap::raw::Decoder::new().decompress(body, &mut raw).ok();
    match snappy.or_else(|| minlz::s2::decode_into(&mut raw, body).ok()) {
        Some(length) if length == raw_length => Ok(Bytes::from(raw)),
        _ => Err(CompressError::Body),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Generates a literal, then random tags and operands, most of them valid: copies, repeated
    /// offsets (S2 only) and garbage.
    fn blocks() -> impl Strategy<Value = Vec<u8>> {
        let first =
            proptest::collection::vec(any::<u8>(), 20..30).prop_map(|bytes| literal(&bytes));
        let next = proptest::collection::vec(any::<u8>(), 1..20).prop_map(|bytes| literal(&bytes));
        let near = (0_u8..8, 1_u8..22).prop_map(|(length, offset)| vec![length << 2 | 1, offset]);
        let far =
            (0_u8..20, 0_u8..22).prop_map(|(length, offset)| vec![length << 2 | 2, offset, 0]);
        let further = (0_u8..20, 0_u8..22)
            .prop_map(|(length, offset)| vec![length << 2 | 3, offset, 0, 0, 0]);
        let repeat = (0_u8..6, 0_u8..20).prop_map(|(length, more)| {
            [
                &[length << 2 | 1, 0][..],
                &[more][..usize::from(length / 5)],
            ]
            .concat()
        });
        let garbage = proptest::collection::vec(any::<u8>(), 1..4);
        let element =
            prop_oneof![6 => next, 6 => near, 6 => far, 3 => further, 6 => repeat, 1 => garbage];
        (first, proptest::collection::vec(element, 1..5))
            .prop_map(|(first, more)| [vec![0], first, more.concat()].concat())
    }

    fn literal(bytes: &[u8]) -> Vec<u8> {
        [&[u8::try_from(bytes.len() - 1).unwrap() << 2], bytes].concat()
    }

    /// Sets the declared length of a block from [`blocks`] to the one that its tags produce, if
    /// any.
    fn with_true_length(mut block: Vec<u8>) -> Vec<u8> {
        for declared in 1..128 {
            block[0] = declared;
            if minlz::s2::decode(&block).is_ok() {
                break;
            }
        }
        block
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn decompress_matches_full_s2_decoder(block in blocks().prop_map(with_true_length)) {
            let expected = minlz::s2::decode(&block).ok();
            prop_assert_eq!(decompress(&block, usize::from(block[0])).ok().map(|raw| raw.to_vec()), expected);
        }

        #[test]
        fn snappy_and_s2_decoders_agree(block in blocks().prop_map(with_true_length)) {
            if let Ok(snappy) = snap::raw::Decoder::new().decompress_vec(&block) {
                prop_assert_eq!(minlz::s2::decode(&block).ok(), Some(snappy));
            }
        }
    }
}
