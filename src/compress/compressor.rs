//! The sending end of a direction: cuts it into chunks, and decides for each what kind it is.
//!
//! ```text
//! zstd:   whole frames ──RUNNING_AFTER bytes, and a place in the budget──► a running frame
//!              ▲                                                                │
//!              └──────── nothing shrinks for long: a stored chunk ends it ──────┘
//! ```

use std::{fmt, sync::Arc};

use bytes::BytesMut;

use super::{
    backoff::Backoff,
    chunk::{Body, Header, Kind, MAX_CHUNK, STORED_HEADER},
    method::CompressMethod,
    pool::{Bench, Pool},
    zstd::RunningEncoder,
};

/// Bytes that a direction moves before it gets a running frame: below, the better ratio does not pay for the context.
const RUNNING_AFTER: u64 = 1024 * 1024;

/// Shorter chunks are stored: a key stroke does not shrink.
const SHORTEST_ATTEMPT: usize = 64;

/// Bytes on the wire of `raw_length` bytes that do not shrink, the most there can be when they are compressed in one call.
#[must_use]
pub const fn max_wire_length(raw_length: usize) -> usize {
    raw_length.saturating_add(raw_length.div_ceil(MAX_CHUNK).saturating_mul(STORED_HEADER))
}

/// Compresses one direction of a stream.
pub struct Compressor {
    pool: Arc<Pool>,
    running: Option<RunningEncoder>,
    /// Raw bytes so far.
    moved: u64,
    backoff: Backoff,
    method: CompressMethod,
}

impl Compressor {
    /// For a direction that has not begun. Costs no memory to speak of until it moves data.
    #[must_use]
    pub fn new(method: CompressMethod, pool: Arc<Pool>) -> Self {
        Compressor {
            pool,
            running: None,
            moved: 0,
            backoff: Backoff::new(),
            method,
        }
    }

    /// Appends to `out` what carries all of `raw`: at most [`max_wire_length`] bytes, which can be decoded at once. With `null`, that
    /// is `raw` itself.
    pub fn compress(&mut self, raw: &[u8], out: &mut BytesMut) {
        if self.method == CompressMethod::Null {
            out.extend_from_slice(raw);
            return;
        }
        for chunk in raw.chunks(MAX_CHUNK) {
            self.moved = self
                .moved
                .saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
            let attempt = chunk.len() >= SHORTEST_ATTEMPT && self.backoff.attempt(chunk.len());
            if !(attempt && self.compress_chunk(chunk, out)) {
                self.store(chunk, out);
            }
        }
    }

    /// Appends the chunk compressed, unless that is not worth it.
    fn compress_chunk(&mut self, chunk: &[u8], out: &mut BytesMut) -> bool {
        let pool = Arc::clone(&self.pool);
        pool.with_bench(|bench| {
            let Some((how, body_length)) = self.make_body(chunk, bench) else {
                self.backoff.record(chunk.len(), chunk.len());
                return false;
            };
            let worth = self.backoff.record(chunk.len(), body_length);
            // A running frame counts on the receiver's having seen what went into it.
            let sent = worth || matches!(how, Body::RunningFirst | Body::RunningNext);
            match bench.scratch.body(body_length).filter(|_| sent) {
                Some(body) => {
                    append(
                        out,
                        &Header {
                            kind: Kind::Body(how),
                            raw_length: chunk.len(),
                            body_length,
                        },
                        body,
                    );
                    true
                }
                None => false,
            }
        })
    }

    fn make_body(&mut self, chunk: &[u8], bench: &mut Bench) -> Option<(Body, usize)> {
        let room = bench.scratch.room();
        if self.method == CompressMethod::S2 {
            return bench
                .s2
                .compress(chunk, room)
                .map(|length| (Body::S2, length));
        }
        if self.running.is_none() && self.moved >= RUNNING_AFTER && self.backoff.is_hopeful() {
            self.running = self.pool.running_encoder().and_then(RunningEncoder::new);
        }
        match &mut self.running {
            Some(running) => running.compress(chunk, room),
            None => bench
                .zstd_encoder
                .compress(chunk, room)
                .map(|length| (Body::Zstd, length)),
        }
    }

    fn store(&mut self, chunk: &[u8], out: &mut BytesMut) {
        let ends_running = self.backoff.is_hopeless() && self.running.take().is_some();
        let kind = if ends_running {
            Kind::StoredEnd
        } else {
            Kind::Stored
        };
        append(
            out,
            &Header {
                kind,
                raw_length: chunk.len(),
                body_length: chunk.len(),
            },
            chunk,
        );
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Compressor")
            .field("method", &self.method)
            .field("moved", &self.moved)
            .field("running", &self.running.is_some())
            .finish_non_exhaustive()
    }
}

fn append(out: &mut BytesMut, header: &Header, body: &[u8]) {
    let (bytes, length) = header.write();
    out.reserve(length.saturating_add(body.len()));
    out.extend_from_slice(bytes.get(..length).unwrap_or_default());
    out.extend_from_slice(body);
}
