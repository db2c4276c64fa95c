//! Tests of both ends of a direction together.

mod arbitrary;
mod running_frames;
mod vectors;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

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
