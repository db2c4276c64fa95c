//! Property tests: arbitrary writes, pieces and wire bytes.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;

/// Generates the writes of one stream: text, noise and runs, short and long.
fn writes() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let length = prop_oneof![1_usize..100, 1_usize..20_000, 60_000_usize..140_000];
    let write = (0..4_u8, any::<u64>(), length).prop_map(|(kind, seed, length)| match kind {
        0 | 1 => text(seed, length),
        2 => noise(seed, length),
        _ => vec![seed.to_be_bytes()[0]; length],
    });
    proptest::collection::vec(write, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn output_does_not_depend_on_piece_boundaries(
        writes in writes(), cuts in proptest::collection::vec(1_usize..9_000, 1..20), warm in any::<bool>(),
    ) {
        for method in CompressMethod::ALL {
            let (mut compressor, mut decompressor) = pair(method, &pool());
            if warm {
                // Enough bytes for a running frame.
                let wire = compressed(&mut compressor, &text(9, 1_100_000));
                decompressed(&mut decompressor, wire).unwrap();
            }
            let mut wire = BytesMut::new();
            writes.iter().for_each(|write| compressor.compress(write, &mut wire));
            let (mut wire, mut raw, mut credit) = (wire.freeze(), Vec::new(), 0);
            let sent = wire.len();
            for (index, cut) in cuts.iter().cycle().enumerate() {
                if wire.is_empty() {
                    break;
                }
                decompressor.push(wire.split_to((*cut).min(wire.len())));
                // In every third round, push several pieces before reading.
                if index % 3 != 0 {
                    while let Some(chunk) = decompressor.next().unwrap() {
                        raw.extend_from_slice(&chunk.raw);
                        credit += chunk.wire_bytes;
                    }
                }
            }
            while let Some(chunk) = decompressor.next().unwrap() {
                raw.extend_from_slice(&chunk.raw);
                credit += chunk.wire_bytes;
            }
            prop_assert_eq!(decompressor.finish(), Ok(()));
            prop_assert_eq!(credit, sent);
            prop_assert!(raw == writes.concat(), "{}", method);
        }
    }

    #[test]
    fn every_write_decodes_immediately(writes in writes()) {
        for method in CompressMethod::ALL {
            let (mut compressor, mut decompressor) = pair(method, &pool());
            for write in &writes {
                let wire = compressed(&mut compressor, write);
                prop_assert!(decompressed(&mut decompressor, wire).as_ref() == Ok(write), "{}", method);
            }
        }
    }

    #[test]
    fn altered_chunks_decode_or_fail_within_bounds(
        seed in any::<u64>(), at in any::<proptest::sample::Index>(), bit in 0_u8..8, warm in any::<bool>(),
    ) {
        for method in CompressMethod::ALL {
            let (mut compressor, mut decompressor) = pair(method, &pool());
            if warm {
                let wire = compressed(&mut compressor, &text(9, 1_100_000));
                decompressed(&mut decompressor, wire).unwrap();
            }
            let mut wire = compressed(&mut compressor, &text(seed, 70_000)).to_vec();
            let at = at.index(wire.len());
            wire[at] ^= 1 << bit;
            if let Ok(raw) = decompressed(&mut decompressor, Bytes::from(wire)) {
                prop_assert!(raw.len() <= 70_000 + MAX_CHUNK);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn decompressor_does_not_panic_on_arbitrary_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        for method in CompressMethod::ALL {
            let _ = decompressed(&mut Decompressor::new(method, pool()), Bytes::from(bytes.clone()));
        }
    }

    #[test]
    fn decompressor_does_not_panic_on_arbitrary_bodies(
        kinds in proptest::collection::vec((1_u8..5, 0_u16..2000, any::<bool>(), proptest::collection::vec(any::<u8>(), 1..200)), 1..5),
    ) {
        for method in [CompressMethod::S2, CompressMethod::Zstd] {
            let mut wire = Vec::new();
            for (kind, more, framed, body) in &kinds {
                let magic: &[u8] = if *framed { &[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38] } else { &[] };
                let body_length = u16::try_from(magic.len() + body.len() - 1).unwrap();
                wire.push(if method == CompressMethod::S2 { 1 } else { *kind });
                wire.extend_from_slice(&(body_length + more).to_be_bytes());
                wire.extend_from_slice(&body_length.to_be_bytes());
                if method == CompressMethod::S2 && *framed {
                    // Declare the right length, so that the decoder reads the body.
                    let raw = u32::from(body_length + more) + 1;
                    wire.extend_from_slice(&[(raw & 0x7f) as u8 | 0x80, (raw >> 7) as u8 | 0x80, 0]);
                    wire.extend_from_slice(&magic[3..]);
                } else {
                    wire.extend_from_slice(magic);
                }
                wire.extend_from_slice(body);
            }
            let _ = decompressed(&mut Decompressor::new(method, pool()), Bytes::from(wire));
        }
    }
}
