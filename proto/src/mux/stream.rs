//! The state of one stream: its two directions, each with a separate end. It knows offsets and
//! pieces. The mux decides what to acknowledge to the peer, and when.
//!
//! ```text
//!   at its sender:    open ──finish──► FIN queued ───sent──► waiting ──acknowledged──► done
//!                       └───reset────► RESET queued ─sent──► waiting ──acknowledged──► done
//!   at its receiver:  open ──FIN or RESET received──► ended ──acknowledgement sent──► done
//! ```
//! The stream is removed when both directions are done and the application has released it.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    byte_queue::ByteQueue,
    error::ResetCode,
    open_state::OpenState,
    window::{StreamWindow, WindowSize},
};

/// The way in which a direction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamEnd {
    /// A graceful end after the last byte.
    Fin,
    /// An abrupt end with a reason.
    Reset(ResetCode),
}

/// Whether an acknowledgement to the peer is pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AckState {
    /// There is nothing to acknowledge.
    None,
    /// An acknowledgement is due when its deadline passes.
    Delayed,
    /// An acknowledgement is due with the next message.
    Due,
}

/// The state of one stream.
#[derive(Debug)]
pub(super) struct StreamState {
    pub send: SendHalf,
    pub receive: ReceiveHalf,
    /// Whether an acknowledgement to the peer is pending.
    pub ack_state: AckState,
    /// The progress of the stream's opening.
    pub open_state: OpenState,
    /// The number of the peer's last list (PROTOCOL 10.4) that named the stream.
    pub listed_in: u64,
    /// Whether the application has released the stream.
    pub released: bool,
    /// Whether the application waits for data to read.
    pub wants_read: bool,
    /// Whether the application waits for room to write.
    pub wants_write: bool,
}

impl StreamState {
    /// Creates a stream whose sender may initially send `send_limit` bytes.
    pub(super) fn new(window: WindowSize, send_limit: u64, open_state: OpenState) -> Self {
        StreamState {
            send: SendHalf::new(send_limit),
            receive: ReceiveHalf::new(window),
            ack_state: AckState::None,
            open_state,
            listed_in: 0,
            released: false,
            wants_read: false,
            wants_write: false,
        }
    }

    /// Returns the reason of a reset. The peer's reason precedes the local one, which may only
    /// answer it.
    pub(super) fn reset_code(&self) -> Option<ResetCode> {
        [self.receive.end(), self.send.end()]
            .into_iter()
            .flatten()
            .find_map(|end| match end {
                StreamEnd::Reset(code) => Some(code),
                StreamEnd::Fin => None,
            })
    }

    /// Returns whether the stream can be removed: both ends are acknowledged and the application
    /// has released it.
    pub(super) fn is_complete(&self) -> bool {
        self.released
            && self.send.is_end_acknowledged()
            && self.receive.end().is_some()
            && self.ack_state == AckState::None
    }
}

/// The direction toward the peer. `acknowledged <= next <= sent <= written <= limit` holds. `next`
/// is below `sent` only when sent data must be sent again (see `resume`).
#[derive(Debug)]
pub(super) struct SendHalf {
    /// The bytes from `acknowledged` to `written`.
    retained: ByteQueue,
    cursor: Cursor,
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
    fn new(limit: u64) -> Self {
        SendHalf {
            retained: ByteQueue::default(),
            cursor: Cursor::default(),
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

    /// Returns the offset of the next byte to send.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Returns the highest offset ever sent. After a reset this is the final offset.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Returns the number of written bytes that are still to be sent, for the first time or again.
    pub(super) fn unsent(&self) -> u64 {
        self.written.saturating_sub(self.next)
    }

    /// Returns the number of bytes to be sent again.
    pub(super) fn resend(&self) -> u64 {
        self.sent.saturating_sub(self.next)
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

    /// Copies up to `room` unsent bytes to `out`. Returns the number of bytes, and how many of them
    /// were never sent before.
    pub(super) fn transmit(&mut self, out: &mut BytesMut, room: usize) -> (usize, u64) {
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
        self.next = self.next.saturating_add(copied as u64);
        let fresh = self.next.saturating_sub(self.sent);
        self.sent = self.sent.max(self.next);
        (copied, fresh)
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
        self.acknowledged = offset;
        self.next = self.next.max(offset);
        self.cursor.piece = self.cursor.piece.saturating_sub(dropped);
        if self.cursor.piece == 0 {
            self.cursor.skip = usize::try_from(self.next.saturating_sub(offset)).unwrap_or(0);
        }
    }
}

/// The direction from the peer.
#[derive(Debug)]
pub(super) struct ReceiveHalf {
    /// Received data that the application has not taken.
    waiting: ByteQueue,
    window: StreamWindow,
    received: u64,
    /// The value of [`ReceiveHalf::received`] that was last acknowledged to the peer.
    acknowledged: u64,
    end: Option<StreamEnd>,
    /// Whether received data is dropped.
    is_discarded: bool,
}

impl ReceiveHalf {
    fn new(window: WindowSize) -> Self {
        ReceiveHalf {
            waiting: ByteQueue::default(),
            window: StreamWindow::new(window),
            received: 0,
            acknowledged: 0,
            end: None,
            is_discarded: false,
        }
    }

    /// Returns the window of this direction.
    pub(super) fn window(&mut self) -> &mut StreamWindow {
        &mut self.window
    }

    /// Returns the offset up to which the peer may send.
    pub(super) fn limit(&self) -> u64 {
        self.window.limit()
    }

    /// Returns how this direction ended, if it did.
    pub(super) fn end(&self) -> Option<StreamEnd> {
        self.end
    }

    /// Returns the number of received bytes.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Returns the position to acknowledge to the peer: the received bytes and the place of the
    /// end.
    pub(super) fn acknowledgement(&self) -> u64 {
        self.received.saturating_add(u64::from(self.end.is_some()))
    }

    /// Returns the position to acknowledge, and records it as acknowledged.
    pub(super) fn acknowledge(&mut self) -> u64 {
        self.acknowledged = self.received;
        self.acknowledgement()
    }

    /// Returns whether enough data arrived since the last acknowledgement to send the next one at
    /// once.
    pub(super) fn is_acknowledgement_due(&self) -> bool {
        self.window
            .is_acknowledgement_due(self.received.saturating_sub(self.acknowledged))
    }

    /// Returns the number of received bytes that the application has not consumed.
    pub(super) fn held(&self) -> u64 {
        self.received.saturating_sub(self.window.consumed())
    }

    /// Returns whether the application has proved that it reads.
    pub(super) fn is_proven(&self) -> bool {
        self.window.is_proven()
    }

    /// Returns the credit beyond the floor that the stream holds or may come to hold. The peer may
    /// send up to the limit until the direction ends, or until received data is dropped.
    pub(super) fn loan(&self) -> u64 {
        let is_open = self.end.is_none() && !self.is_discarded;
        let exposed = if is_open {
            self.window.limit().saturating_sub(self.window.consumed())
        } else {
            self.held()
        };
        self.window.loan(exposed)
    }

    /// Appends bytes that follow the received ones.
    pub(super) fn receive(&mut self, bytes: Bytes) {
        self.received = self.received.saturating_add(bytes.len() as u64);
        self.waiting.push(bytes);
    }

    /// Counts bytes as received that will not arrive or that the application does not want.
    pub(super) fn skip(&mut self, bytes: u64) {
        self.received = self.received.saturating_add(bytes);
    }

    /// Records the end of the direction.
    pub(super) fn finish(&mut self, end: StreamEnd) {
        self.end = Some(end);
    }

    /// Returns the next piece for the application.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        self.waiting.pop()
    }

    /// Copies unread data into memory that holds nothing else.
    pub(super) fn compact(&mut self) {
        self.waiting.compact();
    }

    /// Drops unread data, and all data that arrives from now on.
    pub(super) fn discard(&mut self) {
        self.is_discarded = true;
        self.waiting.clear();
    }
}
