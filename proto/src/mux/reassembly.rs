//! Received bytes of a stream that follow a gap. A gap arises when the lanes of a tunnel differ in
//! speed, and closes when the slower lane has delivered.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{MuxError, byte_queue::join_small};

/// Pieces beyond a gap, by offset. They do not overlap.
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    pieces: BTreeMap<u64, Piece>,
    bytes: u64,
}

#[derive(Debug)]
struct Piece {
    length: u64,
    /// Empty if the application does not want the data.
    content: Bytes,
}

impl Reassembly {
    /// Returns the number of bytes in all pieces.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the number of pieces.
    pub(super) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Returns the offset after the last byte, if there is any.
    pub(super) fn end(&self) -> Option<u64> {
        self.pieces
            .last_key_value()
            .map(|(begin, piece)| begin.saturating_add(piece.length))
    }

    /// Adds bytes from `offset`, except those that are here. Keeps no content if `is_discarded`.
    /// Returns the number of bytes added.
    ///
    /// # Errors
    /// If the bytes differ from earlier ones at the same offset.
    pub(super) fn add(
        &mut self,
        mut offset: u64,
        mut bytes: Bytes,
        is_discarded: bool,
    ) -> Result<u64, MuxError> {
        // First, so that an error leaves nothing behind.
        self.compare(offset, &bytes)?;
        let before = self.bytes;
        while !bytes.is_empty() {
            let end = offset.saturating_add(bytes.len() as u64);
            let overlapping = self
                .pieces
                .range(..end)
                .next_back()
                .map(|(&begin, piece)| (begin, begin.saturating_add(piece.length)))
                .filter(|(_, piece_end)| *piece_end > offset);
            let Some((begin, piece_end)) = overlapping else {
                self.insert(offset, bytes, is_discarded);
                break;
            };
            // From the back: what follows the piece, then what it repeats, then the rest.
            if piece_end < end {
                let at = usize::try_from(piece_end.saturating_sub(offset)).unwrap_or(usize::MAX);
                let rest = bytes.split_off(at.min(bytes.len()));
                self.insert(piece_end, rest, is_discarded);
            }
            let at = usize::try_from(begin.saturating_sub(offset)).unwrap_or(usize::MAX);
            bytes.truncate(at);
            offset = offset.min(begin);
        }
        Ok(self.bytes.saturating_sub(before))
    }

    /// Compares bytes from `offset` with the pieces that they repeat.
    fn compare(&self, offset: u64, bytes: &[u8]) -> Result<(), MuxError> {
        let end = offset.saturating_add(bytes.len() as u64);
        for (&begin, piece) in self.pieces.range(..end).rev() {
            let piece_end = begin.saturating_add(piece.length);
            if piece_end <= offset {
                break;
            }
            let (from, to) = (begin.max(offset), piece_end.min(end));
            let known = part(&piece.content, begin, from, to);
            if !piece.content.is_empty() && known != part(bytes, offset, from, to) {
                return Err(MuxError::Protocol("DATA contradicts earlier DATA"));
            }
        }
        Ok(())
    }

    fn insert(&mut self, offset: u64, bytes: Bytes, is_discarded: bool) {
        let length = bytes.len() as u64;
        self.bytes = self.bytes.saturating_add(length);
        let content = if is_discarded { Bytes::new() } else { bytes };
        let before = self.pieces.range_mut(..offset).next_back();
        if let Some((begin, piece)) = before
            && begin.saturating_add(piece.length) == offset
            && piece.content.is_empty() == content.is_empty()
            && let Some(joined) = join_small(&piece.content, &content)
        {
            piece.content = joined;
            piece.length = piece.length.saturating_add(length);
            return;
        }
        self.pieces.insert(offset, Piece { length, content });
    }

    /// Removes the first piece if `received` has reached it. Returns its offset, its length and its
    /// content.
    pub(super) fn pop(&mut self, received: u64) -> Option<(u64, u64, Bytes)> {
        let entry = self.pieces.first_entry()?;
        if *entry.key() > received {
            return None;
        }
        let (begin, piece) = entry.remove_entry();
        self.bytes = self.bytes.saturating_sub(piece.length);
        Some((begin, piece.length, piece.content))
    }

    /// Keeps the ranges, without their content.
    pub(super) fn discard(&mut self) {
        for piece in self.pieces.values_mut() {
            piece.content = Bytes::new();
        }
    }

    /// Copies each piece into memory of exactly its size.
    pub(super) fn compact(&mut self) {
        for piece in self.pieces.values_mut() {
            piece.content = Bytes::copy_from_slice(&piece.content);
        }
    }

    /// Removes everything.
    pub(super) fn clear(&mut self) {
        *self = Reassembly::default();
    }
}

/// Returns the part between two offsets of bytes that begin at `begin`.
fn part(bytes: &[u8], begin: u64, from: u64, to: u64) -> Option<&[u8]> {
    let at = |offset: u64| usize::try_from(offset.saturating_sub(begin)).ok();
    bytes.get(at(from)?..at(to)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn content(offset: u64, length: u64) -> Bytes {
        (offset..offset + length)
            .map(|at| (at % 251) as u8)
            .collect()
    }

    proptest! {
        #[test]
        fn any_order_with_repetitions_yields_the_bytes_once(
            parts in proptest::collection::vec((1_u64..5000, 1_u64..3000), 1..40),
        ) {
            let (mut reassembly, mut arrived) = (Reassembly::default(), vec![false; 8001]);
            for (offset, length) in parts {
                let added = reassembly.add(offset, content(offset, length), false).unwrap();
                let range = &mut arrived[offset as usize..(offset + length) as usize];
                let new = range.iter().filter(|is_here| !**is_here).count() as u64;
                range.fill(true);
                prop_assert_eq!(added, new);
            }
            let total = arrived.iter().filter(|is_here| **is_here).count() as u64;
            prop_assert_eq!(reassembly.bytes(), total);
            let mut last = 0;
            while let Some((&begin, _)) = reassembly.pieces.first_key_value() {
                prop_assert!(begin >= last);
                let (_, length, bytes) = reassembly.pop(begin).unwrap();
                prop_assert_eq!(&bytes, &content(begin, length));
                last = begin + length;
            }
            prop_assert_eq!(reassembly.bytes(), 0);
        }
    }

    #[test]
    fn contradicting_bytes_are_an_error() {
        let mut reassembly = Reassembly::default();
        reassembly.add(10, content(10, 100), false).unwrap();
        assert_eq!(reassembly.add(50, content(50, 100), false), Ok(40));
        let error = reassembly.add(5, content(6, 20), false);
        assert_eq!(
            error,
            Err(MuxError::Protocol("DATA contradicts earlier DATA"))
        );
    }

    #[test]
    fn discarded_pieces_count_and_hold_nothing() {
        let mut reassembly = Reassembly::default();
        reassembly.add(10, content(10, 100), false).unwrap();
        reassembly.discard();
        assert_eq!(reassembly.add(110, content(110, 50), true), Ok(50));
        assert_eq!(reassembly.add(10, content(11, 150), true), Ok(0));
        assert_eq!((reassembly.bytes(), reassembly.pieces()), (150, 1));
        assert_eq!(reassembly.pop(9), None);
        assert_eq!(reassembly.pop(10), Some((10, 150, Bytes::new())));
    }
}
