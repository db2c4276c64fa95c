//! Tests of both ends of a direction together, and against `tests/vectors/chunks.json`.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use serde::Deserialize;

use super::{
    Chunk, CompressError, CompressMethod, Compressor, Decompressor, MAX_CHUNK, Pool, PoolLimits,
    chunk::{BODY_HEADER, STORED_HEADER},
    max_wire_length,
};

fn pool() -> Arc<Pool> {
    Arc::new(Pool::new(PoolLimits::default()))
}

fn pair(method: CompressMethod, pool: &Arc<Pool>) -> (Compressor, Decompressor) {
    (
        Compressor::new(method, Arc::clone(pool)),
        Decompressor::new(method, Arc::clone(pool)),
    )
}

fn compressed(compressor: &mut Compressor, raw: &[u8]) -> Bytes {
    let mut wire = BytesMut::new();
    compressor.compress(raw, &mut wire);
    assert!(wire.len() <= max_wire_length(raw.len()));
    wire.freeze()
}

/// Decompresses `wire` and checks that the credit adds up.
fn decompressed(decompressor: &mut Decompressor, wire: Bytes) -> Result<Vec<u8>, CompressError> {
    let (mut raw, mut credit, pushed) = (Vec::new(), 0, wire.len());
    decompressor.push(wire);
    loop {
        let expected = decompressor.next_decoded_length()?;
        let Some(chunk) = decompressor.next()? else {
            break;
        };
        assert!(!chunk.raw.is_empty() && chunk.raw.len() <= MAX_CHUNK.max(pushed));
        assert!(
            expected == 0 || expected == chunk.raw.len(),
            "the header declares {expected} bytes, the chunk has {}",
            chunk.raw.len()
        );
        raw.extend_from_slice(&chunk.raw);
        credit += chunk.wire_bytes;
    }
    if decompressor.finish().is_ok() {
        assert_eq!(credit, pushed);
    }
    Ok(raw)
}

/// Generates text with repeated words, different for each seed.
fn text(seed: u64, length: usize) -> Vec<u8> {
    let words = [
        "tunnel", "master", "server", "client", "stream", "a", "the", "of", "link", "channel",
        "\n", "window", "byte",
    ];
    let mut random = Random(seed);
    let mut text = Vec::with_capacity(length + 16);
    while text.len() < length {
        text.extend_from_slice(words[random.below(words.len())].as_bytes());
        text.push(b' ');
        text.extend_from_slice(random.below(1000).to_string().as_bytes());
    }
    text.truncate(length);
    text
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..length)
        .map(|_| random.next().to_be_bytes()[0])
        .collect()
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}

/// Returns the kinds of the chunks in `wire`, which holds whole chunks.
fn kinds(mut wire: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let Some(kind) = wire.first() {
        let field = |at: usize| usize::from(u16::from_be_bytes([wire[at], wire[at + 1]])) + 1;
        let length = if matches!(kind, 0 | 5) {
            STORED_HEADER + field(1)
        } else {
            BODY_HEADER + field(3)
        };
        kinds.push(*kind);
        wire = &wire[length..];
    }
    kinds
}

#[test]
fn text_compresses_and_round_trips() {
    for (method, percent) in [(CompressMethod::S2, 60), (CompressMethod::Zstd, 35)] {
        let (mut compressor, mut decompressor) = pair(method, &pool());
        let raw = text(1, 200_000);
        let wire = compressed(&mut compressor, &raw);
        assert!(
            wire.len() * 100 < raw.len() * percent,
            "{method}: {} of {}",
            wire.len(),
            raw.len()
        );
        assert_eq!(decompressed(&mut decompressor, wire), Ok(raw));
    }
}

#[test]
fn null_passes_bytes_through_without_copying() {
    let (mut compressor, mut decompressor) = pair(CompressMethod::Null, &pool());
    let raw = text(1, 100_000);
    let wire = compressed(&mut compressor, &raw);
    assert_eq!(wire, raw);
    let place = wire.as_ptr();
    decompressor.push(wire);
    let chunk = decompressor.next().unwrap().unwrap();
    assert_eq!(
        (chunk.raw.as_ptr(), chunk.wire_bytes),
        (place, raw.len()),
        "not copied"
    );
    assert_eq!(decompressor.finish(), Ok(()));
}

#[test]
fn stored_chunks_are_returned_early_and_without_copying() {
    for method in [CompressMethod::S2, CompressMethod::Zstd] {
        let (_, mut decompressor) = pair(method, &pool());
        let wire = Bytes::from([&[0, 0x03, 0xe7][..], &[7; 1000]].concat());
        for (range, header) in [(0..3 + 400, 3), (403..500, 0), (500..1003, 0)] {
            let piece = wire.slice(range);
            decompressor.push(piece.clone());
            let chunk = decompressor.next().unwrap().unwrap();
            assert_eq!(
                chunk,
                Chunk {
                    raw: piece.slice(header..),
                    wire_bytes: piece.len()
                }
            );
            assert_eq!(chunk.raw.as_ptr(), piece[header..].as_ptr());
            assert_eq!(decompressor.next(), Ok(None));
        }
        assert_eq!(decompressor.finish(), Ok(()));
    }
}

#[test]
fn incompressible_data_is_stored() {
    for method in [CompressMethod::S2, CompressMethod::Zstd] {
        let (mut compressor, mut decompressor) = pair(method, &pool());
        let raw = noise(1, 3_000_000);
        let wire = compressed(&mut compressor, &raw);
        assert_eq!(
            wire.len(),
            max_wire_length(raw.len()),
            "{method}: everything is stored"
        );
        assert_eq!(decompressed(&mut decompressor, wire), Ok(raw));
    }
}

#[test]
fn compressor_resumes_when_data_becomes_compressible() {
    for method in [CompressMethod::S2, CompressMethod::Zstd] {
        let (mut compressor, mut decompressor) = pair(method, &pool());
        for raw in [noise(1, 30_000_000), text(1, 10_000_000)] {
            let wire = compressed(&mut compressor, &raw);
            assert_eq!(
                decompressed(&mut decompressor, wire.clone()),
                Ok(raw),
                "{method}"
            );
            if kinds(&wire).iter().any(|kind| *kind != 0) {
                assert!(wire.len() < 9_000_000, "{method}: {}", wire.len());
            }
        }
    }
}

#[test]
fn keystrokes_are_stored() {
    for method in [CompressMethod::S2, CompressMethod::Zstd] {
        let (mut compressor, _) = pair(method, &pool());
        assert_eq!(
            &compressed(&mut compressor, b"aaaaaaaa")[..],
            b"\0\0\x07aaaaaaaa"
        );
    }
}

#[test]
fn bulk_stream_takes_running_frame_and_returns_it() {
    let limits = PoolLimits {
        running_encoders: 1,
        running_decoders: 1,
    };
    let pool = Arc::new(Pool::new(limits));
    let (mut compressor, mut decompressor) = pair(CompressMethod::Zstd, &pool);
    let raw = text(1, 2_000_000);
    let wire = compressed(&mut compressor, &raw);
    let sent = kinds(&wire);
    assert_eq!(sent[0], 2, "self-contained at first");
    assert_eq!(
        sent.iter().filter(|kind| **kind == 3).count(),
        1,
        "one running frame: {sent:?}"
    );
    assert_eq!(sent.last(), Some(&4), "{sent:?}");
    assert_eq!(decompressed(&mut decompressor, wire), Ok(raw));
    assert!(pool.running_encoder().is_none() && pool.running_decoder().is_none());

    let (mut other, mut other_end) = pair(CompressMethod::Zstd, &pool);
    let raw = text(2, 2_000_000);
    let wire = compressed(&mut other, &raw);
    assert!(
        kinds(&wire).iter().all(|kind| *kind == 2),
        "no budget: self-contained"
    );
    assert_eq!(decompressed(&mut other_end, wire), Ok(raw));

    drop(compressor);
    drop(decompressor);
    let raw = text(3, 100_000);
    let wire = compressed(&mut other, &raw);
    assert_eq!(kinds(&wire), [3, 4], "the budget has a free context");
    assert_eq!(decompressed(&mut other_end, wire), Ok(raw));
}

#[test]
fn running_frame_restarts_after_incompressible_chunks() {
    let pool = pool();
    let (mut compressor, mut decompressor) = pair(CompressMethod::Zstd, &pool);
    let mut sent = Vec::new();
    for (index, raw) in [
        text(1, 1_500_000),
        noise(1, 60_000),
        b"x".to_vec(),
        text(2, 60_000),
        text(3, 10),
    ]
    .into_iter()
    .enumerate()
    {
        let wire = compressed(&mut compressor, &raw);
        sent.extend(kinds(&wire));
        assert_eq!(
            decompressed(&mut decompressor, wire),
            Ok(raw),
            "part {index}"
        );
    }
    assert_eq!(
        sent[sent.len() - 4..],
        [0, 0, 3, 0],
        "a new running frame starts after the incompressible part: {sent:?}"
    );
}

#[test]
fn incompressible_stream_returns_contexts_at_both_ends() {
    let pool = Arc::new(Pool::new(PoolLimits {
        running_encoders: 1,
        running_decoders: 1,
    }));
    let (mut compressor, mut decompressor) = pair(CompressMethod::Zstd, &pool);
    for raw in [text(1, 2_000_000), noise(1, 5_000_000)] {
        let wire = compressed(&mut compressor, &raw);
        assert_eq!(decompressed(&mut decompressor, wire), Ok(raw));
    }
    assert!(pool.running_encoder().is_some() && pool.running_decoder().is_some());
    for raw in [noise(2, 5_000_000), text(1, 4_000_000)] {
        let wire = compressed(&mut compressor, &raw);
        assert_eq!(
            decompressed(&mut decompressor, wire),
            Ok(raw),
            "the stream may get another context later"
        );
    }
}

#[test]
fn decompressor_rejects_more_running_frames_than_offered() {
    let sender = Arc::new(Pool::new(PoolLimits {
        running_encoders: 2,
        running_decoders: 0,
    }));
    let receiver = Arc::new(Pool::new(PoolLimits {
        running_encoders: 0,
        running_decoders: 1,
    }));
    let raw = text(1, 2_000_000);
    let direction = || {
        let mut compressor = Compressor::new(CompressMethod::Zstd, Arc::clone(&sender));
        let wire = compressed(&mut compressor, &raw);
        (
            compressor,
            wire,
            Decompressor::new(CompressMethod::Zstd, Arc::clone(&receiver)),
        )
    };
    let (_one, first_wire, mut first) = direction();
    let (_other, second_wire, mut second) = direction();
    assert_eq!(decompressed(&mut first, first_wire).as_ref(), Ok(&raw));
    assert_eq!(
        decompressed(&mut second, second_wire),
        Err(CompressError::TooManyRunning)
    );
}

#[test]
fn failed_direction_stays_failed_and_frees_its_context() {
    let pool = Arc::new(Pool::new(PoolLimits {
        running_encoders: 1,
        running_decoders: 1,
    }));
    let (mut compressor, mut decompressor) = pair(CompressMethod::Zstd, &pool);
    let raw = text(1, 1_500_000);
    let wire = compressed(&mut compressor, &raw);
    decompressed(&mut decompressor, wire.clone()).unwrap();
    assert!(pool.running_decoder().is_none());
    assert_eq!(
        decompressed(&mut decompressor, Bytes::from_static(&[1, 0, 0])),
        Err(CompressError::Kind(1))
    );
    assert!(pool.running_decoder().is_some(), "the context is returned");
    assert_eq!(
        decompressed(&mut decompressor, wire),
        Err(CompressError::Failed)
    );
    assert_eq!(decompressor.finish(), Err(CompressError::Failed));
}

#[test]
fn idle_stream_is_small() {
    assert!(size_of::<Compressor>() < 200, "{}", size_of::<Compressor>());
    assert!(
        size_of::<Decompressor>() < 200,
        "{}",
        size_of::<Decompressor>()
    );
}

#[test]
fn body_pieces_do_not_keep_their_buffers_alive() {
    let (mut compressor, mut decompressor) = pair(CompressMethod::S2, &pool());
    let wire = compressed(&mut compressor, &text(1, 60_000));
    for at in 0..wire.len() - 1 {
        let buffer = Bytes::copy_from_slice(&wire[at..=at]);
        decompressor.push(buffer.clone());
        assert_eq!(decompressor.next(), Ok(None));
        assert!(buffer.is_unique(), "byte {at}");
    }
}

#[test]
fn decompressor_matches_chunk_vectors() {
    #[derive(Deserialize)]
    struct ChunkVectors {
        good: Vec<ChunkVector>,
        corrupt: Vec<ChunkVector>,
        truncated: Vec<ChunkVector>,
    }
    #[derive(Deserialize)]
    struct ChunkVector {
        method: String,
        what: String,
        wire: String,
        #[serde(default)]
        raw: String,
    }
    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal digits"))
            .collect()
    }
    fn read(vector: &ChunkVector) -> (Result<Vec<u8>, CompressError>, Decompressor) {
        let mut decompressor = Decompressor::new(vector.method.parse().unwrap(), pool());
        (
            decompressed(&mut decompressor, Bytes::from(bytes(&vector.wire))),
            decompressor,
        )
    }
    let vectors: ChunkVectors =
        serde_json::from_str(include_str!("../../../tests/vectors/chunks.json")).unwrap();
    for vector in &vectors.good {
        let (raw, decompressor) = read(vector);
        assert_eq!(
            raw,
            Ok(bytes(&vector.raw)),
            "{}: {}",
            vector.method,
            vector.what
        );
        assert_eq!(
            decompressor.finish(),
            Ok(()),
            "{}: {}",
            vector.method,
            vector.what
        );
    }
    for vector in &vectors.corrupt {
        assert!(
            read(vector).0.is_err(),
            "{}: {}",
            vector.method,
            vector.what
        );
    }
    for vector in &vectors.truncated {
        let (raw, decompressor) = read(vector);
        assert!(raw.is_ok(), "{}: {}", vector.method, vector.what);
        assert_eq!(
            decompressor.finish(),
            Err(CompressError::Truncated),
            "{}: {}",
            vector.method,
            vector.what
        );
    }
    assert!(vectors.good.len() > 5 && vectors.corrupt.len() > 10 && vectors.truncated.len() > 2);
}

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
