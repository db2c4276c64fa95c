//! The receiving end of a direction: puts chunks together from the pieces that arrive, and decodes them.
//!
//! ```text
//! Header ──► Stored (handed on piece by piece, never copied) ──► Header
//!        ──► Body (put together, decoded whole)              ──► Header
//!        ──► Failed (for ever)
//! ```

use std::{collections::VecDeque, fmt, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};

use super::{
    chunk::{BODY_HEADER, Body, Header, Kind},
    error::CompressError,
    method::CompressMethod,
    pool::Pool,
    s2,
    zstd::RunningDecoder,
};

/// Places for pieces that a direction may keep while it is idle.
const KEPT_PLACES: usize = 8;

/// Raw bytes, and what they took on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// At least one byte; a chunk, or a part of a stored one.
    pub raw: Bytes,
    /// Bytes that were pushed and are used up with this: what to give credit for when `raw` has been delivered.
    pub wire_bytes: usize,
}

/// Decompresses one direction of a stream.
pub struct Decompressor {
    pool: Arc<Pool>,
    /// What was pushed and not yet looked at; no piece is empty.
    pieces: VecDeque<Bytes>,
    reading: Reading,
    running: Option<RunningDecoder>,
    method: CompressMethod,
}

/// What the next byte belongs to.
enum Reading {
    /// A header of which `filled` bytes are there.
    Header {
        bytes: [u8; BODY_HEADER],
        filled: usize,
    },
    /// A stored chunk that has `remaining` bytes to go; `header` bytes of header have not been accounted for.
    Stored { remaining: usize, header: usize },
    /// A body, of which `partial` has been put together.
    Body {
        how: Body,
        header: Header,
        partial: BytesMut,
    },
    /// Nothing: an earlier chunk was corrupt.
    Failed,
}

impl Reading {
    const START: Reading = Reading::Header {
        bytes: [0; BODY_HEADER],
        filled: 0,
    };
}

impl Decompressor {
    /// For a direction that has not begun. Costs no memory to speak of until data arrives.
    #[must_use]
    pub fn new(method: CompressMethod, pool: Arc<Pool>) -> Self {
        Decompressor {
            pool,
            pieces: VecDeque::new(),
            reading: Reading::START,
            running: None,
            method,
        }
    }

    /// Takes the next bytes of the direction, cut anywhere. Until they are asked for they are held as they came, each with the buffer
    /// that it is part of; so their number is to be bounded by credit for [`Chunk::wire_bytes`].
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() && !matches!(self.reading, Reading::Failed) {
            self.pieces.push_back(piece);
        }
    }

    /// The next raw bytes, or nothing until more has been pushed. Neither `null` nor stored chunks are copied or waited for. Ask when
    /// the bytes before have been delivered, not earlier: twenty bytes on the wire can become 64 KiB.
    ///
    /// # Errors
    /// When the peer sent no valid chunk; the direction is then lost, and every later call fails.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator's end is final, and this is none"
    )]
    pub fn next(&mut self) -> Result<Option<Chunk>, CompressError> {
        let chunk = if self.method == CompressMethod::Null {
            Ok(self.whole_piece())
        } else {
            self.read()
        };
        let chunk = chunk.inspect_err(|_| self.fail());
        if self.pieces.is_empty() && self.pieces.capacity() > KEPT_PLACES {
            self.pieces = VecDeque::new();
        }
        chunk
    }

    /// How many bytes [`Decompressor::next`] decodes in its next chunk, as its header says: 0 when that is stored, or its header is not complete.
    ///
    /// # Errors
    /// As [`Decompressor::next`].
    pub fn decodes_next(&mut self) -> Result<usize, CompressError> {
        if self.method == CompressMethod::Null {
            return Ok(0);
        }
        if matches!(self.reading, Reading::Header { .. }) {
            self.read_header().inspect_err(|_| self.fail())?;
        }
        match &self.reading {
            Reading::Body { header, .. } => Ok(header.raw_length),
            Reading::Header { .. } | Reading::Stored { .. } => Ok(0),
            Reading::Failed => Err(CompressError::Failed),
        }
    }

    fn fail(&mut self) {
        self.reading = Reading::Failed;
        self.running = None;
        self.pieces = VecDeque::new();
    }

    /// That the direction may end here. Call it when the peer ended it and [`Decompressor::next`] gives nothing.
    ///
    /// # Errors
    /// When the direction is inside a chunk, or was lost before.
    pub fn finish(&self) -> Result<(), CompressError> {
        match self.reading {
            Reading::Header { filled: 0, .. } if self.pieces.is_empty() => Ok(()),
            Reading::Failed => Err(CompressError::Failed),
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
        if matches!(self.reading, Reading::Header { .. }) && !self.read_header()? {
            return Ok(None);
        }
        match self.reading {
            Reading::Header { .. } => Ok(None),
            Reading::Stored { remaining, header } => Ok(self.read_stored(remaining, header)),
            Reading::Body { .. } => self.read_body(),
            Reading::Failed => Err(CompressError::Failed),
        }
    }

    /// Completes the header, if what is there suffices, and goes on to what it announces.
    fn read_header(&mut self) -> Result<bool, CompressError> {
        let Reading::Header {
            mut bytes,
            mut filled,
        } = self.reading
        else {
            return Ok(true);
        };
        loop {
            let needed = match (filled, bytes) {
                (0, _) => 1,
                (_, [kind, ..]) => Kind::read(kind, self.method)?.header_length(),
            };
            if filled >= needed {
                break;
            }
            let (Some(byte), Some(place)) = (self.take_byte(), bytes.get_mut(filled)) else {
                self.reading = Reading::Header { bytes, filled };
                return Ok(false);
            };
            *place = byte;
            filled = filled.saturating_add(1);
        }
        let header = Header::read(bytes.get(..filled).unwrap_or_default(), self.method)?;
        if header.kind == Kind::StoredEnd {
            self.running = None;
        }
        self.reading = match header.kind {
            Kind::Stored | Kind::StoredEnd => Reading::Stored {
                remaining: header.raw_length,
                header: filled,
            },
            Kind::Body(how) => Reading::Body {
                how,
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
            Reading::START
        } else {
            Reading::Stored {
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
        let Reading::Body {
            how,
            header,
            mut partial,
        } = std::mem::replace(&mut self.reading, Reading::START)
        else {
            return Ok(None);
        };
        let body = loop {
            let missing = header.body_length.saturating_sub(partial.len());
            match self.take_piece(missing) {
                Some(piece) if piece.len() == header.body_length => break piece,
                Some(piece) => {
                    // Copied, so that the buffers of many small pieces are not held.
                    partial.reserve(missing);
                    partial.extend_from_slice(&piece);
                }
                None if missing == 0 => break partial.freeze(),
                None => {
                    self.reading = Reading::Body {
                        how,
                        header,
                        partial,
                    };
                    return Ok(None);
                }
            }
        };
        let wire_bytes = header.kind.header_length().saturating_add(body.len());
        let raw = self.decode(how, &body, header.raw_length)?;
        Ok(Some(Chunk { raw, wire_bytes }))
    }

    fn decode(
        &mut self,
        how: Body,
        body: &[u8],
        raw_length: usize,
    ) -> Result<Bytes, CompressError> {
        match how {
            Body::S2 => s2::decompress(body, raw_length),
            Body::Zstd => {
                self.running = None;
                self.pool
                    .with_bench(|bench| bench.zstd_decoder.decompress(body, raw_length))
            }
            Body::RunningFirst => self.begin_running()?.decompress(body, raw_length),
            Body::RunningNext => self
                .running
                .as_mut()
                .ok_or(CompressError::NotRunning)?
                .decompress(body, raw_length),
        }
    }

    /// The context for a running frame: the one that is there, or one out of the budget.
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

    /// The next contiguous bytes, at least one and at most `limit`; nothing when there are none, or none are asked for.
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
