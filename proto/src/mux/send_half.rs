//! The direction of a stream toward the peer: what is written, sent and acknowledged.

use bytes::{BufMut, Bytes, BytesMut};

use super::{LaneId, byte_queue::ByteQueue, flight::Flight, stream::StreamEnd};

/// The direction toward the peer. `acknowledged <= next <= sent <= written <= limit` holds. `next`
/// is below `sent` only when everything must be sent again (see `resume`). `flight` covers the bytes
/// from `acknowledged` to `next`; a part of them may be lost with its lane.
#[derive(Debug)]
pub(super) struct SendHalf {
    /// The bytes from `acknowledged` to `written`.
    retained: ByteQueue,
    cursor: Cursor,
    flight: Flight,
    acknowledged: u64,
    next: u64,
    sent: u64,
    written: u64,
    limit: u64,
    end: Option<StreamEnd>,
    /// Whether the end is decided and must be sent.
    end_due: bool,
    /// Whether a FIN or RESET was sent. The peer may then acknowledge its place in the sequence.
    end_sent: bool,
    end_acknowledged: bool,
    /// Whether a RESET followed a FIN that was sent. The received count cannot tell then whether
    /// the peer has only the FIN.
    reset_after_fin: bool,
}

/// The position of `next` in the retained pieces. At the end of a piece the cursor stays there
/// until a next piece exists, because a piece may grow.
#[derive(Debug, Default)]
struct Cursor {
    piece: usize,
    skip: usize,
}

impl SendHalf {
    pub(super) fn new(limit: u64) -> Self {
        SendHalf {
            retained: ByteQueue::default(),
            cursor: Cursor::default(),
            flight: Flight::default(),
            acknowledged: 0,
            next: 0,
            sent: 0,
            written: 0,
            limit,
            end: None,
            end_due: false,
            end_sent: false,
            end_acknowledged: false,
            reset_after_fin: false,
        }
    }

    /// Returns how this direction ends, if that is decided.
    pub(super) fn end(&self) -> Option<StreamEnd> {
        self.end
    }

    /// Returns the offset of the next byte to send, and how many bytes can follow it in one frame.
    pub(super) fn next_chunk(&self) -> (u64, u64) {
        self.flight
            .first_lost()
            .unwrap_or((self.next, self.written.saturating_sub(self.next)))
    }

    /// Returns the highest offset ever sent. After a reset this is the final offset.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Returns the number of written bytes that are still to be sent, for the first time or again.
    pub(super) fn unsent(&self) -> u64 {
        self.written
            .saturating_sub(self.next)
            .saturating_add(self.flight.lost())
    }

    /// Returns the number of bytes to be sent again.
    pub(super) fn resend(&self) -> u64 {
        self.sent
            .saturating_sub(self.next)
            .saturating_add(self.flight.lost())
    }

    /// Returns the number of bytes that are written and not acknowledged.
    pub(super) fn retained(&self) -> u64 {
        self.written.saturating_sub(self.acknowledged)
    }

    /// Returns the pieces that are written and not acknowledged.
    pub(super) fn retained_pieces(&self) -> impl Iterator<Item = &Bytes> {
        (0..).map_while(|index| self.retained.piece(index))
    }

    /// Returns how many more bytes the peer's credit allows the application to write.
    pub(super) fn credit(&self) -> u64 {
        self.limit.saturating_sub(self.written)
    }

    /// Returns whether everything before the end is sent, but not the end itself.
    pub(super) fn is_end_due(&self) -> bool {
        self.end_due && self.unsent() == 0
    }

    /// Appends `bytes` to the data to be sent.
    pub(super) fn write(&mut self, bytes: Bytes) {
        self.written = self.written.saturating_add(bytes.len() as u64);
        self.retained.push(bytes);
    }

    /// Decides how the direction ends. A reset drops all retained data. It may replace a FIN, but
    /// nothing replaces a reset.
    pub(super) fn finish(&mut self, end: StreamEnd) {
        if matches!(self.end, Some(StreamEnd::Reset(_))) {
            return;
        }
        if let StreamEnd::Reset(_) = end {
            self.reset_after_fin = self.end_sent;
            self.retained.clear();
            self.cursor = Cursor::default();
            self.flight.clear();
            // After a reset only the final offset counts, so nothing stays retained or unsent.
            self.acknowledged = self.sent;
            self.next = self.sent;
            self.written = self.sent;
        }
        self.end = Some(end);
        self.end_due = true;
    }

    /// Records that the FIN or RESET was sent.
    pub(super) fn mark_end_sent(&mut self) {
        self.end_due = false;
        self.end_sent = true;
    }

    /// Returns whether a FIN or RESET was sent.
    pub(super) fn is_end_sent(&self) -> bool {
        self.end_sent
    }

    /// Returns whether the peer acknowledged the end and no RESET must follow it.
    pub(super) fn is_end_acknowledged(&self) -> bool {
        self.end_acknowledged && !self.end_due
    }

    /// Copies up to `room` bytes of the next chunk to `out`, which leaves on `lane`. Returns the
    /// number of bytes, and how many of them were never sent before.
    pub(super) fn transmit(
        &mut self,
        out: &mut BytesMut,
        room: usize,
        lane: LaneId,
    ) -> (usize, u64) {
        if let Some((offset, length)) = self.flight.first_lost() {
            let room = room.min(usize::try_from(length).unwrap_or(usize::MAX));
            let copied = self.copy_retained(out, offset, room);
            self.flight.sent_again(copied as u64, lane);
            return (copied, 0);
        }
        let copied = self.copy_next(out, room);
        let begin = self.next;
        self.next = self.next.saturating_add(copied as u64);
        self.flight.sent(begin, self.next, lane);
        let fresh = self.next.saturating_sub(self.sent);
        self.sent = self.sent.max(self.next);
        (copied, fresh)
    }

    /// Copies up to `room` bytes at the cursor, and moves it.
    fn copy_next(&mut self, out: &mut BytesMut, room: usize) -> usize {
        let mut copied: usize = 0;
        while let Some(piece) = self.retained.piece(self.cursor.piece) {
            let rest = piece.get(self.cursor.skip..).unwrap_or_default();
            if rest.is_empty() {
                if self
                    .retained
                    .piece(self.cursor.piece.saturating_add(1))
                    .is_none()
                {
                    break;
                }
                self.cursor = Cursor {
                    piece: self.cursor.piece.saturating_add(1),
                    skip: 0,
                };
                continue;
            }
            let part = rest
                .get(..room.saturating_sub(copied).min(rest.len()))
                .unwrap_or_default();
            if part.is_empty() {
                break;
            }
            out.put_slice(part);
            copied = copied.saturating_add(part.len());
            self.cursor.skip = self.cursor.skip.saturating_add(part.len());
        }
        copied
    }

    /// Copies `length` bytes from `offset`. Walks over the pieces, which is rare: only after the end
    /// of a lane.
    fn copy_retained(&self, out: &mut BytesMut, offset: u64, length: usize) -> usize {
        let mut skip =
            usize::try_from(offset.saturating_sub(self.acknowledged)).unwrap_or(usize::MAX);
        let mut copied: usize = 0;
        for piece in self.retained_pieces() {
            let Some(rest) = piece.get(skip..) else {
                skip = skip.saturating_sub(piece.len());
                continue;
            };
            skip = 0;
            let part = rest
                .get(..length.saturating_sub(copied).min(rest.len()))
                .unwrap_or_default();
            out.put_slice(part);
            copied = copied.saturating_add(part.len());
            if copied == length {
                break;
            }
        }
        copied
    }

    /// Processes the peer's acknowledgement up to `received` (its end included) and its send limit.
    /// Returns false if the peer acknowledges data that was never sent.
    pub(super) fn acknowledge(&mut self, received: u64, limit: u64) -> bool {
        let ended = self.end_sent && received == self.sent.saturating_add(1);
        let bytes = if ended { self.sent } else { received };
        if bytes > self.sent {
            return false;
        }
        if ended {
            self.end_acknowledged = true;
            // A retransmission of the FIN may have been queued; it is obsolete. A RESET that
            // follows the FIN must still be sent.
            self.end_due &= self.reset_after_fin;
        }
        self.limit = self.limit.max(limit);
        self.discard_until(bytes);
        true
    }

    /// Queues everything that was sent and not acknowledged for retransmission, including the end.
    pub(super) fn rewind(&mut self) {
        self.next = self.acknowledged;
        self.cursor = Cursor::default();
        self.flight.clear();
        self.repeat_end();
    }

    /// Queues what was sent on `lane` and not acknowledged for retransmission, at most its first
    /// `most` bytes. The end is repeated in any case, because its acknowledgement may have been lost
    /// with the lane.
    pub(super) fn lose(&mut self, lane: LaneId, most: u64) {
        self.flight.lose(lane, most);
        self.repeat_end();
    }

    fn repeat_end(&mut self) {
        self.end_due |= self.end_sent && (!self.end_acknowledged || self.reset_after_fin);
    }

    /// Treats everything as acknowledged, because the peer has forgotten the stream. Returns false
    /// if the end was never sent, in which case the peer must not have forgotten it.
    pub(super) fn acknowledge_all(&mut self) -> bool {
        if self.end_sent {
            self.discard_until(self.sent);
            self.end_acknowledged = true;
            self.end_due = false;
        }
        self.end_sent
    }

    fn discard_until(&mut self, offset: u64) {
        let count = usize::try_from(offset.saturating_sub(self.acknowledged)).unwrap_or(usize::MAX);
        if count == 0 || matches!(self.end, Some(StreamEnd::Reset(_))) {
            return;
        }
        let dropped = self.retained.advance(count);
        self.flight.acknowledge(offset);
        self.acknowledged = offset;
        self.next = self.next.max(offset);
        self.cursor.piece = self.cursor.piece.saturating_sub(dropped);
        if self.cursor.piece == 0 {
            self.cursor.skip = usize::try_from(self.next.saturating_sub(offset)).unwrap_or(0);
        }
    }
}
