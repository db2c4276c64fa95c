//! The sending end of a direction: splits it into chunks and selects the kind of each chunk.
//!
//! ```text
//! zstd:   whole frames ──RUNNING_AFTER bytes, and the budget allows──► a running frame
//!              ▲                                                              │
//!              └──── incompressible for a long time: a stored chunk ends it ──┘
//! ```

use std::{fmt, sync::Arc};

use bytes::BytesMut;

use super::{
    backoff::CompressionBackoff,
    chunk::{BodyEncoding, ChunkHeader, ChunkKind, MAX_CHUNK, STORED_HEADER},
    method::CompressMethod,
    pool::{Pool, Workspace},
    zstd::RunningEncoder,
};

/// The bytes that a direction moves before it gets a running frame.
///
/// Below this, the better ratio does not pay for the context.
const RUNNING_AFTER: u64 = 1024 * 1024;

/// The shortest chunk to compress, in bytes. Shorter chunks are stored: a keystroke does not
/// shrink.
const MIN_COMPRESSIBLE: usize = 64;

/// Returns the maximum length on the wire of `raw_length` bytes that are compressed in one call.
///
/// Incompressible data reaches this maximum.
#[must_use]
pub const fn max_wire_length(raw_length: usize) -> usize {
    raw_length.saturating_add(raw_length.div_ceil(MAX_CHUNK).saturating_mul(STORED_HEADER))
}

/// Compresses one direction of a stream.
pub struct Compressor {
    pool: Arc<Pool>,
    /// The running zstd frame, if one is open.
    running: Option<RunningEncoder>,
    /// The raw bytes compressed so far.
    moved: u64,
    backoff: CompressionBackoff,
    method: CompressMethod,
}

impl Compressor {
    /// Creates a compressor for a new direction. It allocates next to nothing until data moves.
    #[must_use]
    pub fn new(method: CompressMethod, pool: Arc<Pool>) -> Self {
        Compressor {
            pool,
            running: None,
            moved: 0,
            backoff: CompressionBackoff::new(),
            method,
        }
    }

    /// Compresses `raw` and appends the chunks to `out`: at most [`max_wire_length`] bytes.
    ///
    /// The receiver can decode the chunks immediately. With `null`, the output is `raw` itself.
    pub fn compress(&mut self, raw: &[u8], out: &mut BytesMut) {
        if self.method == CompressMethod::Null {
            out.extend_from_slice(raw);
            return;
        }
        for chunk in raw.chunks(MAX_CHUNK) {
            self.moved = self
                .moved
                .saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
            let attempt =
                chunk.len() >= MIN_COMPRESSIBLE && self.backoff.should_attempt(chunk.len());
            if !(attempt && self.compress_chunk(chunk, out)) {
                self.store(chunk, out);
            }
        }
    }

    /// Compresses the chunk and appends it. Returns `false` if the saving is too small.
    fn compress_chunk(&mut self, chunk: &[u8], out: &mut BytesMut) -> bool {
        let pool = Arc::clone(&self.pool);
        pool.with_workspace(|workspace| {
            let Some((encoding, body_length)) = self.make_body(chunk, workspace) else {
                self.backoff.record(chunk.len(), chunk.len());
                return false;
            };
            let worthwhile = self.backoff.record(chunk.len(), body_length);
            // A part of a running frame must be sent in any case: later parts refer to its
            // contents.
            let sent = worthwhile
                || matches!(
                    encoding,
                    BodyEncoding::RunningFirst | BodyEncoding::RunningNext
                );
            match workspace.scratch.body(body_length).filter(|_| sent) {
                Some(body) => {
                    append(
                        out,
                        &ChunkHeader {
                            kind: ChunkKind::Body(encoding),
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

    fn make_body(
        &mut self,
        chunk: &[u8],
        workspace: &mut Workspace,
    ) -> Option<(BodyEncoding, usize)> {
        let room = workspace.scratch.room();
        if self.method == CompressMethod::S2 {
            return workspace
                .s2
                .compress(chunk, room)
                .map(|length| (BodyEncoding::S2, length));
        }
        if self.running.is_none()
            && self.moved >= RUNNING_AFTER
            && self.backoff.last_attempt_paid_off()
        {
            self.running = self.pool.running_encoder().and_then(RunningEncoder::new);
        }
        match &mut self.running {
            Some(running) => running.compress(chunk, room),
            None => workspace
                .zstd_encoder
                .compress(chunk, room)
                .map(|length| (BodyEncoding::Zstd, length)),
        }
    }

    fn store(&mut self, chunk: &[u8], out: &mut BytesMut) {
        let ends_running = self.backoff.is_incompressible() && self.running.take().is_some();
        let kind = if ends_running {
            ChunkKind::StoredEnd
        } else {
            ChunkKind::Stored
        };
        append(
            out,
            &ChunkHeader {
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

fn append(out: &mut BytesMut, header: &ChunkHeader, body: &[u8]) {
    let (bytes, length) = header.write();
    out.reserve(length.saturating_add(body.len()));
    out.extend_from_slice(bytes.get(..length).unwrap_or_default());
    out.extend_from_slice(body);
}
