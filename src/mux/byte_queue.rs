//! A queue of bytes in pieces, for what was sent and not acknowledged and for what was received and not taken. Small pieces are
//! joined, so that a peer or an application that moves single bytes does not cost a piece for each.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Pieces up to this many bytes are joined with the one before, while that is no longer than this either: then the cost of a piece
/// (about 60 bytes) stays under a twentieth of what it carries.
const SMALL_BYTES: usize = 2048;

/// Places that an empty queue keeps, so that a stream that flows does not allocate for each piece.
const PLACES_KEPT: usize = 4;

/// Bytes in order, in pieces.
#[derive(Debug, Default)]
pub struct ByteQueue {
    pieces: VecDeque<Bytes>,
}

impl ByteQueue {
    /// Appends a piece.
    pub fn push(&mut self, piece: Bytes) {
        match self.pieces.back_mut() {
            Some(last) if last.len() <= SMALL_BYTES && piece.len() <= SMALL_BYTES => {
                let mut joined = BytesMut::with_capacity(last.len().saturating_add(piece.len()));
                joined.extend_from_slice(last);
                joined.extend_from_slice(&piece);
                *last = joined.freeze();
            }
            _ if piece.is_empty() => {}
            _ => self.pieces.push_back(piece),
        }
    }

    /// Takes the first piece.
    pub fn pop(&mut self) -> Option<Bytes> {
        let piece = self.pieces.pop_front();
        self.give_back_memory();
        piece
    }

    /// Copies each piece: what it is a part of, a message or a buffer that was read into, is no longer kept.
    pub fn compact(&mut self) {
        for piece in &mut self.pieces {
            *piece = Bytes::copy_from_slice(piece);
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.pieces = VecDeque::new();
    }

    /// Drops `count` bytes from the front, or all there are. Returns how many whole pieces went.
    pub fn advance(&mut self, mut count: usize) -> usize {
        let mut gone: usize = 0;
        while let Some(first) = self.pieces.front_mut() {
            if count < first.len() {
                drop(first.split_to(count));
                break;
            }
            count = count.saturating_sub(first.len());
            self.pieces.pop_front();
            gone = gone.saturating_add(1);
        }
        self.give_back_memory();
        gone
    }

    /// The piece at `index`.
    pub fn piece(&self, index: usize) -> Option<&Bytes> {
        self.pieces.get(index)
    }

    /// An idle stream keeps no more than the places for a few pieces.
    fn give_back_memory(&mut self) {
        if self.pieces.is_empty() && self.pieces.capacity() > PLACES_KEPT {
            self.pieces = VecDeque::new();
        }
    }
}
