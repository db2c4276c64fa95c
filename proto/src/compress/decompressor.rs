//! The receiving end of a direction: reassembles chunks from received pieces and decodes them.
//!
//! ```text
//! Header ──► Stored (returned piece by piece, never copied) ──► Header
//!        ──► Body (reassembled, decoded whole)              ──► Header
//!        ──► Failed (permanently)
//! ```

use std::{collections::VecDeque, fmt, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};

use super::{
    chunk::{BODY_HEADER, BodyEncoding, ChunkHeader, ChunkKind},
    error::CompressError,
    method::CompressMethod,
    pool::Pool,
    s2,
    zstd::RunningDecoder,
};

/// The capacity of the piece queue that an idle direction may keep.
const MAX_IDLE_CAPACITY: usize = 8;

/// Decoded bytes and their cost on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The decoded bytes, at least one: a whole chunk, or a part of a stored chunk.
    pub raw: Bytes,
    /// The pushed bytes that this chunk consumes. Grant credit for them once `raw` is delivered.
    pub wire_bytes: usize,
}

/// Decompresses one direction of a stream.
pub struct Decompressor {
    pool: Arc<Pool>,
    /// The pushed pieces that are not read yet. No piece is empty.
    pieces: VecDeque<Bytes>,
    reading: ReadState,
    /// The running zstd frame, if one is open.
    running: Option<RunningDecoder>,
    method: CompressMethod,
}

/// The part of a chunk that the next byte belongs to.
enum ReadState {
    /// A header with `filled` bytes received.
    Header {
        bytes: [u8; BODY_HEADER],
        filled: usize,
    },
    /// A stored chunk with `remaining` bytes to receive.
    ///
    /// The next [`Chunk`] must account for `header` bytes of header.
    Stored { remaining: usize, header: usize },
    /// A body with `partial` reassembled so far.
    Body {
        encoding: BodyEncoding,
        header: ChunkHeader,
        partial: BytesMut,
    },
    /// None: an earlier chunk was corrupt.
    Failed,
}

impl ReadState {
    const START: ReadState = ReadState::Header {
        bytes: [0; BODY_HEADER],
        filled: 0,
    };
}

impl Decompressor {
    /// Creates a decompressor for a new direction. It allocates next to nothing until data arrives.
    #[must_use]
    pub fn new(method: CompressMethod, pool: Arc<Pool>) -> Self {
        Decompressor {
            pool,
            pieces: VecDeque::new(),
            reading: ReadState::START,
            running: None,
            method,
        }
    }

    /// Adds the next bytes of the direction, split at any position.
    ///
    /// Each piece keeps its whole underlying buffer alive until it is read. The caller must
    /// therefore bound the pushed bytes by credit for [`Chunk::wire_bytes`].
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() && !matches!(self.reading, ReadState::Failed) {
            self.pieces.push_back(piece);
        }
    }

    /// Returns the next raw bytes, or `None` until more bytes are pushed.
    ///
    /// The bytes of `null` and of stored chunks are returned without a copy, and before the chunk
    /// is complete. Call this only after the previous bytes are delivered: 20 bytes on the wire can
    /// become 64 KiB.
    ///
    /// # Errors
    /// Returns an error if the peer sent an invalid chunk. All later calls fail as well.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator ends at `None`, and this method may return bytes after it"
    )]
    pub fn next(&mut self) -> Result<Option<Chunk>, CompressError> {
        let chunk = if self.method == CompressMethod::Null {
            Ok(self.whole_piece())
        } else {
            self.read()
        };
        let chunk = chunk.inspect_err(|_| self.fail());
        if self.pieces.is_empty() && self.pieces.capacity() > MAX_IDLE_CAPACITY {
            self.pieces = VecDeque::new();
        }
        chunk
    }

    /// Returns the decoded length that the next chunk's header declares.
    ///
    /// Returns 0 if that chunk is stored or its header is incomplete.
    ///
    /// # Errors
    /// The same as for [`Decompressor::next`].
    pub fn next_decoded_length(&mut self) -> Result<usize, CompressError> {
        if self.method == CompressMethod::Null {
            return Ok(0);
        }
        if matches!(self.reading, ReadState::Header { .. }) {
            self.read_header().inspect_err(|_| self.fail())?;
        }
        match &self.reading {
            ReadState::Body { header, .. } => Ok(header.raw_length),
            ReadState::Header { .. } | ReadState::Stored { .. } => Ok(0),
            ReadState::Failed => Err(CompressError::Failed),
        }
    }

    fn fail(&mut self) {
        self.reading = ReadState::Failed;
        self.running = None;
        self.pieces = VecDeque::new();
    }

    /// Checks that the direction may end here.
    ///
    /// Call this after the peer has ended the direction and [`Decompressor::next`] returns `None`.
    ///
    /// # Errors
    /// Returns an error if the direction ends inside a chunk, or has failed before.
    pub fn finish(&self) -> Result<(), CompressError> {
        match self.reading {
            ReadState::Header { filled: 0, .. } if self.pieces.is_empty() => Ok(()),
            ReadState::Failed => Err(CompressError::Failed),
            _ => Err(CompressError::Truncated),
        }
    }

    fn whole_piece(&mut self) -> Option<Chunk> {
        self.pieces.pop_front().map(|raw| Chunk {
            wire_bytes: raw.len(),
            raw,
        })
    }

    fn read(&mut self) -> Result<Option<Chunk>, CompressError> {
        if matches!(self.reading, ReadState::Header { .. }) && !self.read_header()? {
            return Ok(None);
        }
        match self.reading {
            ReadState::Header { .. } => Ok(None),
            ReadState::Stored { remaining, header } => Ok(self.read_stored(remaining, header)),
            ReadState::Body { .. } => self.read_body(),
            ReadState::Failed => Err(CompressError::Failed),
        }
    }

    /// Reads the header from the available bytes and enters the state for its chunk.
    ///
    /// Returns `false` if more bytes are needed.
    fn read_header(&mut self) -> Result<bool, CompressError> {
        let ReadState::Header {
            mut bytes,
            mut filled,
        } = self.reading
        else {
            return Ok(true);
        };
        loop {
            let needed = match (filled, bytes) {
                (0, _) => 1,
                (_, [kind, ..]) => ChunkKind::read(kind, self.method)?.header_length(),
            };
            if filled >= needed {
                break;
            }
            let (Some(byte), Some(place)) = (self.take_byte(), bytes.get_mut(filled)) else {
                self.reading = ReadState::Header { bytes, filled };
                return Ok(false);
            };
            *place = byte;
            filled = filled.saturating_add(1);
        }
        let header = ChunkHeader::read(bytes.get(..filled).unwrap_or_default(), self.method)?;
        if header.kind == ChunkKind::StoredEnd {
            self.running = None;
        }
        self.reading = match header.kind {
            ChunkKind::Stored | ChunkKind::StoredEnd => ReadState::Stored {
                remaining: header.raw_length,
                header: filled,
            },
            ChunkKind::Body(encoding) => ReadState::Body {
                encoding,
                header,
                partial: BytesMut::new(),
            },
        };
        Ok(true)
    }

    fn read_stored(&mut self, remaining: usize, header: usize) -> Option<Chunk> {
        let raw = self.take_piece(remaining)?;
        let remaining = remaining.saturating_sub(raw.len());
        self.reading = if remaining == 0 {
            ReadState::START
        } else {
            ReadState::Stored {
                remaining,
                header: 0,
            }
        };
        Some(Chunk {
            wire_bytes: raw.len().saturating_add(header),
            raw,
        })
    }

    fn read_body(&mut self) -> Result<Option<Chunk>, CompressError> {
        let ReadState::Body {
            encoding,
            header,
            mut partial,
        } = std::mem::replace(&mut self.reading, ReadState::START)
        else {
            return Ok(None);
        };
        let body = loop {
            let missing = header.body_length.saturating_sub(partial.len());
            match self.take_piece(missing) {
                Some(piece) if piece.len() == header.body_length => break piece,
                Some(piece) => {
                    // Copy the piece, so that many small pieces do not keep their large buffers
                    // alive.
                    partial.reserve(missing);
                    partial.extend_from_slice(&piece);
                }
                None if missing == 0 => break partial.freeze(),
                None => {
                    self.reading = ReadState::Body {
                        encoding,
                        header,
                        partial,
                    };
                    return Ok(None);
                }
            }
        };
        let wire_bytes = header.kind.header_length().saturating_add(body.len());
        let raw = self.decode(encoding, &body, header.raw_length)?;
        Ok(Some(Chunk { raw, wire_bytes }))
    }

    fn decode(
        &mut self,
        encoding: BodyEncoding,
        body: &[u8],
        raw_length: usize,
    ) -> Result<Bytes, CompressError> {
        match encoding {
            BodyEncoding::S2 => s2::decompress(body, raw_length),
            BodyEncoding::Zstd => {
                self.running = None;
                self.pool
                    .with_workspace(|workspace| workspace.zstd_decoder.decompress(body, raw_length))
            }
            BodyEncoding::RunningFirst => self.begin_running()?.decompress(body, raw_length),
            BodyEncoding::RunningNext => self
                .running
                .as_mut()
                .ok_or(CompressError::NotRunning)?
                .decompress(body, raw_length),
        }
    }

    /// Returns the context for a new running frame: the current one, restarted, or one from the
    /// budget.
    fn begin_running(&mut self) -> Result<&mut RunningDecoder, CompressError> {
        let running = match self.running.take() {
            Some(mut running) => {
                running.restart()?;
                running
            }
            None => self
                .pool
                .running_decoder()
                .and_then(RunningDecoder::new)
                .ok_or(CompressError::TooManyRunning)?,
        };
        Ok(self.running.insert(running))
    }

    fn take_byte(&mut self) -> Option<u8> {
        self.take_piece(1)?.first().copied()
    }

    /// Takes the next contiguous bytes: at least one, at most `limit`.
    ///
    /// Returns `None` if no bytes are available or `limit` is 0.
    fn take_piece(&mut self, limit: usize) -> Option<Bytes> {
        if limit == 0 {
            return None;
        }
        let piece = self.pieces.front_mut()?;
        if piece.len() <= limit {
            return self.pieces.pop_front();
        }
        Some(piece.copy_to_bytes(limit))
    }
}

impl fmt::Debug for Decompressor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Decompressor")
            .field("method", &self.method)
            .field("running", &self.running.is_some())
            .finish_non_exhaustive()
    }
}
