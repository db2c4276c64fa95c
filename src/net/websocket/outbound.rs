//! The sending side of a WebSocket: encodes messages as frames, in few writes. Writes a large
//! payload from where it is; gathers small payloads and all headers in buffers in between.
//!
//! Knows frames, not the contents of messages.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};

use super::{
    ByteStream, MessageBody, SocketEnd,
    frame::{self, FrameHeader, MAX_HEADER_LENGTH, Opcode},
};
use crate::random;

/// Payloads shorter than this, in bytes, are copied behind their header: a separate slice of a
/// write costs about as much.
const COPY_THRESHOLD: usize = 2 * 1024;

/// The maximum number of slices in one write.
const MAX_SLICES: usize = 32;

/// The number of masking keys drawn at a time.
const KEY_BATCH: usize = 16;

/// The queue of bytes to write.
#[derive(Debug)]
pub(super) struct Outbound {
    /// Complete pieces, in order. Part of the first one may have been written.
    pieces: VecDeque<Bytes>,
    /// Headers and small payloads behind the pieces.
    gathered: BytesMut,
    waiting_bytes: usize,
    /// The masking keys, if this end masks its frames.
    masks: Option<MaskKeys>,
}

impl Outbound {
    /// Creates an empty queue.
    pub(super) fn new(end: SocketEnd) -> Self {
        let masks = (end == SocketEnd::Dialled).then(MaskKeys::default);
        Outbound {
            pieces: VecDeque::new(),
            gathered: BytesMut::new(),
            waiting_bytes: 0,
            masks,
        }
    }

    /// Returns the number of queued bytes.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Appends a message of `prefix` and `body`.
    pub(super) fn message(&mut self, prefix: &[u8], body: MessageBody) {
        let mask = self.masks.as_mut().map(MaskKeys::next);
        let length = prefix.len().saturating_add(body.len());
        self.gather(&FrameHeader::message(length, mask), prefix);
        let body = match (mask, body) {
            (_, body) if body.len() < COPY_THRESHOLD => {
                return self.gather_payload(mask, prefix.len(), &body);
            }
            (None, body) => body.freeze(),
            (Some(key), body) => {
                let mut body = body.into_owned();
                frame::apply_mask(&mut body, key, prefix.len());
                body.freeze()
            }
        };
        self.waiting_bytes = self.waiting_bytes.saturating_add(body.len());
        // The gathered bytes precede the body, which is queued without a copy.
        self.pieces.push_back(self.gathered.split().freeze());
        self.pieces.push_back(body);
    }

    /// Appends a control frame.
    pub(super) fn control(&mut self, opcode: Opcode, payload: &[u8]) {
        let mask = self.masks.as_mut().map(MaskKeys::next);
        self.gather(
            &FrameHeader {
                is_final: true,
                opcode,
                mask,
                length: payload.len() as u64,
            },
            payload,
        );
    }

    /// Writes until at most `enough` bytes are queued.
    pub(super) fn poll_write(
        &mut self,
        stream: &mut dyn ByteStream,
        context: &mut Context<'_>,
        enough: usize,
    ) -> Poll<io::Result<()>> {
        while self.waiting_bytes > enough {
            let written = ready!(self.poll_write_once(stream, context))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Releases the memory of an empty queue.
    pub(super) fn release_idle_buffers(&mut self) {
        if self.waiting_bytes == 0 {
            (self.pieces, self.gathered) = Default::default();
        }
    }

    fn poll_write_once(
        &mut self,
        stream: &mut dyn ByteStream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let pieces = self
            .pieces
            .iter()
            .map(|piece| &piece[..])
            .chain([&self.gathered[..]])
            .filter(|piece| !piece.is_empty());
        let count = slices
            .iter_mut()
            .zip(pieces)
            .map(|(slice, piece)| *slice = IoSlice::new(piece))
            .count();
        match slices.get(..count).unwrap_or_default() {
            // A small message is one piece, and a plain write is cheaper than a vectored one.
            [piece] => Pin::new(stream).poll_write(context, piece),
            pieces => Pin::new(stream).poll_write_vectored(context, pieces),
        }
    }

    fn advance(&mut self, mut written: usize) {
        self.waiting_bytes = self.waiting_bytes.saturating_sub(written);
        while let Some(first) = self.pieces.front_mut() {
            if first.len() > written {
                return first.advance(written);
            }
            written -= first.len();
            self.pieces.pop_front();
        }
        self.gathered.advance(written.min(self.gathered.len()));
    }

    /// Appends a header and the beginning of its payload.
    fn gather(&mut self, header: &FrameHeader, prefix: &[u8]) {
        let before = self.gathered.len();
        self.gathered.reserve(MAX_HEADER_LENGTH + prefix.len());
        header.encode(&mut self.gathered);
        self.waiting_bytes = self
            .waiting_bytes
            .saturating_add(self.gathered.len() - before);
        self.gather_payload(header.mask, 0, prefix);
    }

    /// Appends a part of a payload that begins at `offset` in it.
    fn gather_payload(&mut self, mask: Option<[u8; 4]>, offset: usize, part: &[u8]) {
        let before = self.gathered.len();
        self.gathered.extend_from_slice(part);
        self.waiting_bytes = self.waiting_bytes.saturating_add(part.len());
        if let (Some(key), Some(part)) = (mask, self.gathered.get_mut(before..)) {
            frame::apply_mask(part, key, offset);
        }
    }
}

/// Unpredictable masking keys (RFC 6455, 5.3).
#[derive(Debug, Default)]
struct MaskKeys {
    drawn: [[u8; 4]; KEY_BATCH],
    left: usize,
}

impl MaskKeys {
    fn next(&mut self) -> [u8; 4] {
        if self.left == 0 {
            let bytes: [u8; 4 * KEY_BATCH] = random::bytes();
            let (keys, _) = bytes.as_chunks();
            self.drawn
                .iter_mut()
                .zip(keys)
                .for_each(|(to, from)| *to = *from);
            self.left = KEY_BATCH;
        }
        self.left -= 1;
        self.drawn.get(self.left).copied().unwrap_or_default()
    }
}
