//! Encoding and decoding of link frames.

use bytes::{BufMut, Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput};
use report_proto::frame::{AttachHeader, Frame, data_header};

use crate::data::{self, SIZES};

/// Measures DATA as a link writes and reads it, the smallest control frame and the largest.
pub(crate) fn bench(criterion: &mut Criterion) {
    data_frames(criterion);
    control_frames(criterion);
}

fn data_frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame/data");
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        let payload = Bytes::from(data::random(size));
        // A link writes the header, and the channel appends its payload.
        let mut scratch = BytesMut::with_capacity(2 * size);
        group.bench_function(BenchmarkId::new("encode", size), |bencher| {
            bencher.iter(|| {
                scratch.clear();
                scratch.put_slice(&data_header(7));
                scratch.put_slice(&payload);
                scratch.len()
            });
        });
        let message = Frame::Data {
            channel: 7,
            payload,
        }
        .to_message();
        group.bench_function(BenchmarkId::new("decode", size), |bencher| {
            bencher.iter(|| decoded(&message))
        });
    }
}

fn control_frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame/control");
    let header = AttachHeader {
        port: report_proto::id::Id([7; 16]),
        instance: Some(report_proto::id::Id([8; 16])),
        avoid: Vec::new(),
    };
    let attach = Frame::Attach {
        channel: 7,
        header,
        message: Bytes::from(data::random(300)),
    };
    for (name, frame) in [("ping", Frame::Ping(1)), ("attach", attach)] {
        let message = frame.to_message();
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("encode", name), |bencher| {
            bencher.iter(|| frame.to_message())
        });
        group.bench_function(BenchmarkId::new("decode", name), |bencher| {
            bencher.iter(|| decoded(&message))
        });
    }
}

fn decoded(message: &Bytes) -> Frame {
    Frame::decode(message.clone()).expect("a valid frame")
}
