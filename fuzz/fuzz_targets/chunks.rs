//! Decompresses arbitrary bytes in arbitrary pieces.
#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use report_proto::compress::{CompressMethod, Decompressor, MAX_CHUNK, Pool, PoolLimits};

fuzz_target!(|input: (bool, Vec<Vec<u8>>)| {
    let (zstd, pieces) = input;
    let method = if zstd {
        CompressMethod::Zstd
    } else {
        CompressMethod::S2
    };
    let mut decompressor = Decompressor::new(method, Arc::new(Pool::new(PoolLimits::default())));
    for piece in pieces {
        decompressor.push(Bytes::from(piece));
        loop {
            match decompressor.next() {
                Ok(Some(chunk)) => assert!(chunk.raw.len() <= MAX_CHUNK),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    let _ = decompressor.finish();
});
