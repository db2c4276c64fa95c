//! A queue of bytes in pieces, for unacknowledged sent data and for unread received data. It joins
//! small pieces, so that a peer or an application that moves single bytes does not cost one piece
//! per byte.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// A piece of up to this many bytes is joined to the previous piece, if that is also no longer than
/// this. The overhead of a piece (about 60 bytes) then stays below a twentieth of its content.
const SMALL_BYTES: usize = 2048;

/// The capacity that an empty queue keeps, so that an active stream does not allocate for each
/// piece.
const EMPTY_CAPACITY: usize = 4;

/// Joins two pieces that are short enough.
pub(super) fn join_small(first: &[u8], second: &[u8]) -> Option<Bytes> {
    if first.len() > SMALL_BYTES || second.len() > SMALL_BYTES {
        return None;
    }
    let mut joined = BytesMut::with_capacity(first.len().saturating_add(second.len()));
    joined.extend_from_slice(first);
    joined.extend_from_slice(second);
    Some(joined.freeze())
}

/// An ordered sequence of bytes in pieces.
#[derive(Debug, Default)]
pub(super) struct ByteQueue {
    pieces: VecDeque<Bytes>,
}

impl ByteQueue {
    /// Appends a piece.
    pub(super) fn push(&mut self, piece: Bytes) {
        let last = self.pieces.back_mut();
        match last.and_then(|last| Some((join_small(last, &piece)?, last))) {
            Some((joined, last)) => *last = joined,
            None if piece.is_empty() => {}
            None => self.pieces.push_back(piece),
        }
    }

    /// Removes and returns the first piece.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let piece = self.pieces.pop_front();
        self.release_memory();
        piece
    }

    /// Copies each piece into memory of exactly its size. This releases the messages and read
    /// buffers that the pieces were parts of.
    pub(super) fn compact(&mut self) {
        for piece in &mut self.pieces {
            *piece = Bytes::copy_from_slice(piece);
        }
    }

    /// Drops all bytes.
    pub(super) fn clear(&mut self) {
        self.pieces = VecDeque::new();
    }

    /// Drops `count` bytes from the front, or all bytes if there are fewer. Returns the number of
    /// whole pieces that were dropped.
    pub(super) fn advance(&mut self, mut count: usize) -> usize {
        let mut dropped: usize = 0;
        while let Some(first) = self.pieces.front_mut() {
            if count < first.len() {
                drop(first.split_to(count));
                break;
            }
            count = count.saturating_sub(first.len());
            self.pieces.pop_front();
            dropped = dropped.saturating_add(1);
        }
        self.release_memory();
        dropped
    }

    /// Returns the piece at `index`.
    pub(super) fn piece(&self, index: usize) -> Option<&Bytes> {
        self.pieces.get(index)
    }

    /// Limits the capacity of an empty queue, so that an idle stream keeps little memory.
    fn release_memory(&mut self) {
        if self.pieces.is_empty() && self.pieces.capacity() > EMPTY_CAPACITY {
            self.pieces = VecDeque::new();
        }
    }
}
