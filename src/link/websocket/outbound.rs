//! The sending side of a WebSocket: messages as frames, in as few writes as there can be. A large payload is written from where it is; small ones,
//! and all headers, are gathered in a buffer between them.
//!
//! Knows frames; not what is in a message.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};

use super::{
    Body, ByteStream, End,
    frame::{self, Header, LONGEST_HEADER, Opcode},
};
use crate::random;

/// Payloads shorter than this are copied behind their header: a piece of a write costs about as much.
const COPIED_BELOW: usize = 2 * 1024;

/// Pieces of one write at most.
const PIECES: usize = 32;

/// Keys that are drawn at a time.
const KEYS: usize = 16;

/// What waits to be written.
#[derive(Debug)]
pub struct Outbound {
    /// Whole pieces, in order; of the first one a part may have left.
    pieces: VecDeque<Bytes>,
    /// What follows them.
    gathered: BytesMut,
    waiting_bytes: usize,
    /// Unless frames leave unmasked.
    masks: Option<Masks>,
}

impl Outbound {
    /// Nothing waits.
    pub fn new(end: End) -> Self {
        let masks = (end == End::Dialled).then(Masks::default);
        Outbound {
            pieces: VecDeque::new(),
            gathered: BytesMut::new(),
            waiting_bytes: 0,
            masks,
        }
    }

    /// Bytes that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Appends a message of `prefix` and `body`.
    pub fn message(&mut self, prefix: &[u8], body: Body) {
        let mask = self.masks.as_mut().map(Masks::next);
        let length = prefix.len().saturating_add(body.len());
        self.gather(&Header::message(length, mask), prefix);
        let body = match (mask, body) {
            (_, body) if body.len() < COPIED_BELOW => {
                return self.gather_payload(mask, prefix.len(), &body);
            }
            (None, body) => body.freeze(),
            (Some(key), body) => {
                let mut body = body.into_own();
                frame::apply_mask(&mut body, key, prefix.len());
                body.freeze()
            }
        };
        self.waiting_bytes = self.waiting_bytes.saturating_add(body.len());
        self.pieces.push_back(self.gathered.split().freeze());
        self.pieces.push_back(body);
    }

    /// Appends a frame about the WebSocket itself.
    pub fn control(&mut self, opcode: Opcode, payload: &[u8]) {
        let mask = self.masks.as_mut().map(Masks::next);
        self.gather(
            &Header {
                is_final: true,
                opcode,
                mask,
                length: payload.len() as u64,
            },
            payload,
        );
    }

    /// Writes until no more than `enough` bytes wait.
    pub fn poll_write(
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

    /// Keeps no memory that is not needed.
    pub fn rest(&mut self) {
        if self.waiting_bytes == 0 {
            (self.pieces, self.gathered) = Default::default();
        }
    }

    fn poll_write_once(
        &mut self,
        stream: &mut dyn ByteStream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); PIECES];
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
            // A small message is one piece, and a call for one piece costs the system less.
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
    fn gather(&mut self, header: &Header, prefix: &[u8]) {
        let before = self.gathered.len();
        self.gathered.reserve(LONGEST_HEADER + prefix.len());
        header.encode(&mut self.gathered);
        self.waiting_bytes = self
            .waiting_bytes
            .saturating_add(self.gathered.len() - before);
        self.gather_payload(header.mask, 0, prefix);
    }

    /// Appends a part of a payload, which begins at `offset` in it.
    fn gather_payload(&mut self, mask: Option<[u8; 4]>, offset: usize, part: &[u8]) {
        let before = self.gathered.len();
        self.gathered.extend_from_slice(part);
        self.waiting_bytes = self.waiting_bytes.saturating_add(part.len());
        if let (Some(key), Some(part)) = (mask, self.gathered.get_mut(before..)) {
            frame::apply_mask(part, key, offset);
        }
    }
}

/// Keys that nobody can guess (RFC 6455, 5.3).
#[derive(Debug, Default)]
struct Masks {
    drawn: [[u8; 4]; KEYS],
    left: usize,
}

impl Masks {
    fn next(&mut self) -> [u8; 4] {
        if self.left == 0 {
            let bytes: [u8; 4 * KEYS] = random::bytes();
            let (keys, _) = bytes.as_chunks();
            self.drawn
                .iter_mut()
                .zip(keys)
                .for_each(|(to, from)| *to = *from);
            self.left = KEYS;
        }
        self.left -= 1;
        self.drawn.get(self.left).copied().unwrap_or_default()
    }
}
