//! S2 blocks: written as their Snappy subset, which is the faster compressor; read whole.

use bytes::Bytes;

use super::{chunk::MAX_CHUNK, error::CompressError};

/// Makes blocks; its table is made with the first one.
#[derive(Default)]
pub(super) struct Encoder(Option<Box<snap::raw::Encoder>>);

impl Encoder {
    /// Writes `raw` as a block to the beginning of `to`, which has [`longest_body`] bytes, and returns its length.
    pub(super) fn compress(&mut self, raw: &[u8], to: &mut [u8]) -> Option<usize> {
        self.0
            .get_or_insert_with(|| Box::new(snap::raw::Encoder::new()))
            .compress(raw, to)
            .ok()
    }
}

/// Room that compressing a chunk needs.
pub(super) fn longest_body() -> usize {
    snap::raw::max_compress_len(MAX_CHUNK)
}

/// Reads a block that must hold `raw_length` bytes. Nothing is allocated before the length that it declares has been compared.
pub(super) fn decompress(body: &[u8], raw_length: usize) -> Result<Bytes, CompressError> {
    match minlz::s2::decode_len(body) {
        Ok((declared, _)) if declared == raw_length => {}
        _ => return Err(CompressError::Body),
    }
    let mut raw = vec![0; raw_length];
    // Snappy's decoder first: it is the faster one, it reads all that rePort writes, and it refuses what only S2 has.
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

    /// A literal, then random tags and operands, most of them valid: copies, repeated offsets (which only S2 has), garbage.
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

    /// The length that a block of [`blocks`] would have to declare, if it holds what its tags say.
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
        fn both_decoders_together_read_what_the_full_one_reads(block in blocks().prop_map(with_true_length)) {
            let expected = minlz::s2::decode(&block).ok();
            prop_assert_eq!(decompress(&block, usize::from(block[0])).ok().map(|raw| raw.to_vec()), expected);
        }

        #[test]
        fn what_snappy_accepts_is_the_same_in_s2(block in blocks().prop_map(with_true_length)) {
            if let Ok(snappy) = snap::raw::Decoder::new().decompress_vec(&block) {
                prop_assert_eq!(minlz::s2::decode(&block).ok(), Some(snappy));
            }
        }
    }
}
