//! Variable-length integers of RFC 9000, section 16. The two high bits of the first byte encode the
//! length.

use bytes::BufMut;

/// The largest value that can be encoded.
pub(super) const MAX: u64 = (1 << 62) - 1;

/// The number of bytes that the largest value takes.
pub(super) const MAX_BYTES: usize = 8;

/// Appends `value`, which is at most [`MAX`]. A larger value is written as [`MAX`].
pub(super) fn encode(out: &mut impl BufMut, value: u64) {
    match value.min(MAX) {
        small @ 0..0x40 => out.put_u8(small as u8),
        short @ 0x40..0x4000 => out.put_u16(short as u16 | 0x4000),
        medium @ 0x4000..0x4000_0000 => out.put_u32(medium as u32 | 0x8000_0000),
        large => out.put_u64(large | 0xc000_0000_0000_0000),
    }
}

/// Returns the number of bytes that [`encode`] appends.
pub(super) fn length(value: u64) -> usize {
    match value {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        0x4000..0x4000_0000 => 4,
        _ => MAX_BYTES,
    }
}

/// Takes a value from the front of `input`. Returns `None` and leaves `input` unchanged if the
/// input is truncated.
pub(super) fn decode(input: &mut &[u8]) -> Option<u64> {
    let (&first, _) = input.split_first()?;
    let length = 1_usize << (first >> 6);
    let (bytes, rest) = input.split_at_checked(length)?;
    *input = rest;
    let mask = u64::MAX >> 2 >> (64_usize.saturating_sub(length.saturating_mul(8)));
    Some(
        bytes
            .iter()
            .fold(0, |value: u64, &byte| value << 8 | u64::from(byte))
            & mask,
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rfc_examples_encode_and_decode() {
        let examples: [(&[u8], u64); 4] = [
            (&[0x25], 37),
            (&[0x7b, 0xbd], 15293),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (
                &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c],
                151_288_809_941_952_652,
            ),
        ];
        for (bytes, value) in examples {
            let mut input = bytes;
            assert_eq!(decode(&mut input), Some(value));
            let mut out = Vec::new();
            encode(&mut out, value);
            assert_eq!(out, bytes);
        }
    }

    proptest! {
        #[test]
        fn every_value_round_trips(value in 0..=MAX) {
            let mut out = Vec::new();
            encode(&mut out, value);
            prop_assert!(out.len() <= MAX_BYTES);
            prop_assert_eq!(out.len(), length(value));
            let mut input = &out[..];
            prop_assert_eq!(decode(&mut input), Some(value));
            prop_assert!(input.is_empty());
            let mut cut = &out[..out.len() - 1];
            prop_assert_eq!(decode(&mut cut), None);
        }
    }
}
