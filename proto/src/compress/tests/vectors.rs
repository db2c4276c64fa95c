//! Tests against `tests/vectors/chunks.json`.

use bytes::Bytes;
use serde::Deserialize;

use super::*;

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

#[test]
fn decompressor_matches_chunk_vectors() {
    let vectors: ChunkVectors =
        serde_json::from_str(include_str!("../../../../tests/vectors/chunks.json")).unwrap();
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
