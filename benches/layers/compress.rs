//! Compression and decompression of a stream, write by write.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput};
use report_proto::compress::{CompressMethod, Compressor, Decompressor, Pool, PoolLimits};

use crate::data;

/// The length of each kind of data in bytes.
///
/// It exceeds zstd's window many times, so that repetition of the data does not improve the ratio.
const LENGTH: usize = 8 * 1024 * 1024;

const WRITES: [usize; 2] = [16 * 1024, 64 * 1024];

/// The name, the method and the number of running frames of each variant.
const VARIANTS: [(&str, CompressMethod, usize); 4] = [
    ("null", CompressMethod::Null, 0),
    ("s2", CompressMethod::S2, 0),
    ("zstd", CompressMethod::Zstd, 1),
    ("zstd-self-contained", CompressMethod::Zstd, 0),
];

fn pool(running: usize) -> Arc<Pool> {
    Arc::new(Pool::new(PoolLimits {
        running_encoders: running,
        running_decoders: running,
    }))
}

fn kinds_of_data() -> [(&'static str, Vec<u8>); 3] {
    [
        ("text", data::text(LENGTH)),
        ("binary", data::binary(LENGTH)),
        ("random", data::random(LENGTH)),
    ]
}

/// Measures every method on every kind of data.
pub(crate) fn bench(criterion: &mut Criterion) {
    for (kind, data) in kinds_of_data() {
        for (variant, method, running) in VARIANTS {
            let mut group = criterion.benchmark_group(format!("compress/{variant}/{kind}"));
            for size in WRITES {
                group.throughput(Throughput::Bytes(size as u64));
                let mut compressor = Compressor::new(method, pool(running));
                let mut writes = data.chunks_exact(size).cycle();
                let mut wire = BytesMut::with_capacity(2 * size);
                group.bench_function(BenchmarkId::new("compress", size), |bencher| {
                    bencher.iter(|| {
                        wire.clear();
                        compressor.compress(writes.next().expect("an endless circle"), &mut wire);
                        wire.len()
                    });
                });
                let sent = compressed(&data, size, method, running);
                let mut pieces = sent.iter().cycle();
                let mut decompressor = Decompressor::new(method, pool(running));
                group.bench_function(BenchmarkId::new("decompress", size), |bencher| {
                    bencher.iter(|| {
                        decompressor.push(pieces.next().expect("an endless circle").clone());
                        let mut raw = 0;
                        while let Some(chunk) = decompressor.next().expect("valid chunks") {
                            raw += chunk.raw.len();
                        }
                        raw
                    });
                });
            }
        }
    }
}

fn compressed(data: &[u8], size: usize, method: CompressMethod, running: usize) -> Vec<Bytes> {
    let mut compressor = Compressor::new(method, pool(running));
    let wire = |write| {
        let mut wire = BytesMut::new();
        compressor.compress(write, &mut wire);
        wire.freeze()
    };
    data.chunks_exact(size).map(wire).collect()
}

/// Prints the compression ratio of each method for each kind of data.
pub(crate) fn print_ratios() {
    println!("\ncompress: raw bytes per byte on the wire, writes of 16 and 64 KiB");
    for (kind, data) in kinds_of_data() {
        for (variant, method, running) in VARIANTS {
            let [short, long] = WRITES.map(|size| {
                let wire: usize = compressed(&data, size, method, running)
                    .iter()
                    .map(Bytes::len)
                    .sum();
                data.len() as f64 / wire as f64
            });
            println!("  {kind:<7} {variant:<20} {short:>5.2} {long:>5.2}");
        }
    }
}
