//! Tests of running zstd frames and of their budget.

use std::sync::Arc;

use bytes::Bytes;

use super::*;

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
