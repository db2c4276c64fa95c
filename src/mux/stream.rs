//! One stream: its two directions, each with its own end. Knows offsets and pieces; what is told to the peer, and when, is the mux's affair.
//!
//! ```text
//!   a direction, at its sender:    open ──finish──► FIN queued ──sent──► waiting ──acknowledged──► done
//!                                    └───reset────► RESET queued ─sent──► waiting ──acknowledged──► done
//!   at its receiver:               open ──FIN or RESET received──► ended ──acknowledgement told──► done
//! ```
//! The stream is forgotten when both directions are done and the application has let go of it.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    byte_queue::ByteQueue,
    frame::ResetCode,
    opening::Opening,
    window::{StreamWindow, WindowSize},
};

/// How a direction ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// After its last byte.
    Fin,
    /// Given up.
    Reset(ResetCode),
}

/// Whether the peer is to be told what was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// Nothing new to tell.
    None,
    /// Something, in a while.
    Pending,
    /// With the next message.
    Due,
}

/// One stream.
#[derive(Debug)]
pub struct Stream {
    pub send: SendHalf,
    pub receive: ReceiveHalf,
    /// Whether the peer is to be told what was received.
    pub update: Update,
    /// How far its opening has come.
    pub opening: Opening,
    /// The last list of the peer (PROTOCOL 10.4) that named the stream, by its number.
    pub listed: u64,
    /// The application let go of the stream.
    pub released: bool,
    /// The application waits for something to read.
    pub wants_read: bool,
    /// The application waits for room to write.
    pub wants_write: bool,
}

impl Stream {
    /// A new stream; `send_limit` bytes may be sent at first.
    pub fn new(window: WindowSize, send_limit: u64, opening: Opening) -> Self {
        Stream {
            send: SendHalf::new(send_limit),
            receive: ReceiveHalf::new(window),
            update: Update::None,
            opening,
            listed: 0,
            released: false,
            wants_read: false,
            wants_write: false,
        }
    }

    /// Why the stream was given up, if it was: the peer's reason before ours, which may only answer it.
    pub fn reset_code(&self) -> Option<ResetCode> {
        [self.receive.end(), self.send.end()]
            .into_iter()
            .flatten()
            .find_map(|end| match end {
                End::Reset(code) => Some(code),
                End::Fin => None,
            })
    }

    /// Whether nobody needs to know of the stream any more.
    pub fn is_over(&self) -> bool {
        self.released
            && self.send.is_end_acknowledged()
            && self.receive.end().is_some()
            && self.update == Update::None
    }
}

/// The direction toward the peer. `acknowledged <= next <= sent <= written <= limit`; `next` falls behind `sent` only
/// when what was sent has to be sent again (see `resume`).
#[derive(Debug)]
pub struct SendHalf {
    /// The bytes from `acknowledged` to `written`.
    kept: ByteQueue,
    cursor: Cursor,
    acknowledged: u64,
    next: u64,
    sent: u64,
    written: u64,
    limit: u64,
    end: Option<End>,
    /// The end is decided and has to be sent.
    end_due: bool,
    /// A FIN or RESET was sent: its place in the sequence may be acknowledged.
    end_sent: bool,
    end_acknowledged: bool,
    /// A RESET followed a FIN that was sent: whether the peer has only the FIN cannot be told from what it received.
    replaced_fin: bool,
}

/// Where `next` stands in the kept pieces. At the end of a piece it stays there until there is a next one, because pieces may grow.
#[derive(Debug, Default)]
struct Cursor {
    piece: usize,
    skip: usize,
}

impl SendHalf {
    fn new(limit: u64) -> Self {
        SendHalf {
            kept: ByteQueue::default(),
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
            replaced_fin: false,
        }
    }

    /// How this direction ends, once that is decided.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Where the next byte to be sent stands.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The highest offset ever sent: the final one, after a reset.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes written and to be sent, for the first time or again.
    pub fn unsent(&self) -> u64 {
        self.written.saturating_sub(self.next)
    }

    /// Bytes to be sent that were sent before.
    pub fn again(&self) -> u64 {
        self.sent.saturating_sub(self.next)
    }

    /// Bytes written and not acknowledged.
    pub fn kept(&self) -> u64 {
        self.written.saturating_sub(self.acknowledged)
    }

    /// The pieces written and not acknowledged.
    pub fn kept_pieces(&self) -> impl Iterator<Item = &Bytes> {
        (0..).map_while(|index| self.kept.piece(index))
    }

    /// Bytes that the peer's credit still allows to be written.
    pub fn credit(&self) -> u64 {
        self.limit.saturating_sub(self.written)
    }

    /// Whether the end is decided and everything before it sent, but not the end itself.
    pub fn is_end_due(&self) -> bool {
        self.end_due && self.unsent() == 0
    }

    /// Keeps `bytes` to be sent.
    pub fn write(&mut self, bytes: Bytes) {
        self.written = self.written.saturating_add(bytes.len() as u64);
        self.kept.push(bytes);
    }

    /// Decides how the direction ends. A reset drops what is kept; it may replace a FIN, and nothing replaces a reset.
    pub fn finish(&mut self, end: End) {
        if matches!(self.end, Some(End::Reset(_))) {
            return;
        }
        if let End::Reset(_) = end {
            self.replaced_fin = self.end_sent;
            self.kept.clear();
            self.cursor = Cursor::default();
            self.acknowledged = self.sent;
            self.next = self.sent;
            self.written = self.sent;
        }
        self.end = Some(end);
        self.end_due = true;
    }

    /// The FIN or RESET went out.
    pub fn end_was_sent(&mut self) {
        self.end_due = false;
        self.end_sent = true;
    }

    /// Whether a FIN or RESET went out.
    pub fn is_end_sent(&self) -> bool {
        self.end_sent
    }

    /// Whether the peer has said that it received the end, and no RESET has to follow it.
    pub fn is_end_acknowledged(&self) -> bool {
        self.end_acknowledged && !self.end_due
    }

    /// Copies up to `room` unsent bytes to `out`, and returns how many, and how many of them were never sent before.
    pub fn transmit(&mut self, out: &mut BytesMut, room: usize) -> (usize, u64) {
        let mut copied: usize = 0;
        while let Some(piece) = self.kept.piece(self.cursor.piece) {
            let rest = piece.get(self.cursor.skip..).unwrap_or_default();
            if rest.is_empty() {
                if self
                    .kept
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

    /// The peer has received up to `received` (its end included) and takes up to `limit`. Says whether that can be.
    pub fn acknowledge(&mut self, received: u64, limit: u64) -> bool {
        let ended = self.end_sent && received == self.sent.saturating_add(1);
        let bytes = if ended { self.sent } else { received };
        if bytes > self.sent {
            return false;
        }
        if ended {
            self.end_acknowledged = true;
            // It may have been about to leave again. A RESET after it must.
            self.end_due &= self.replaced_fin;
        }
        self.limit = self.limit.max(limit);
        self.forget_until(bytes);
        true
    }

    /// What was sent and not acknowledged may be lost: it is sent again, its end too.
    pub fn rewind(&mut self) {
        self.next = self.acknowledged;
        self.cursor = Cursor::default();
        self.end_due |= self.end_sent && (!self.end_acknowledged || self.replaced_fin);
    }

    /// The peer has forgotten the stream, after it had everything. Says whether that can be.
    pub fn gone(&mut self) -> bool {
        if self.end_sent {
            self.forget_until(self.sent);
            self.end_acknowledged = true;
            self.end_due = false;
        }
        self.end_sent
    }

    fn forget_until(&mut self, offset: u64) {
        let count = usize::try_from(offset.saturating_sub(self.acknowledged)).unwrap_or(usize::MAX);
        if count == 0 || matches!(self.end, Some(End::Reset(_))) {
            return;
        }
        let gone = self.kept.advance(count);
        self.acknowledged = offset;
        self.next = self.next.max(offset);
        self.cursor.piece = self.cursor.piece.saturating_sub(gone);
        if self.cursor.piece == 0 {
            self.cursor.skip = usize::try_from(self.next.saturating_sub(offset)).unwrap_or(0);
        }
    }
}

/// The direction from the peer.
#[derive(Debug)]
pub struct ReceiveHalf {
    /// What the application has not taken.
    waiting: ByteQueue,
    window: StreamWindow,
    received: u64,
    /// What the peer was last told of [`ReceiveHalf::received`].
    told: u64,
    end: Option<End>,
    /// What comes is dropped.
    is_discarded: bool,
}

impl ReceiveHalf {
    fn new(window: WindowSize) -> Self {
        ReceiveHalf {
            waiting: ByteQueue::default(),
            window: StreamWindow::new(window),
            received: 0,
            told: 0,
            end: None,
            is_discarded: false,
        }
    }

    /// The stream's window.
    pub fn window(&mut self) -> &mut StreamWindow {
        &mut self.window
    }

    /// Up to which offset the peer has been told that it may send.
    pub fn limit(&self) -> u64 {
        self.window.limit()
    }

    /// How this direction ended, if it did.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// How many bytes have come.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// What the peer may forget: the bytes, and the place of the end.
    pub fn acknowledgement(&self) -> u64 {
        self.received.saturating_add(u64::from(self.end.is_some()))
    }

    /// The same; the peer is told so now.
    pub fn told(&mut self) -> u64 {
        self.told = self.received;
        self.acknowledgement()
    }

    /// Whether so much came since the peer was last told that it should hear of it at once.
    pub fn is_acknowledgement_due(&self) -> bool {
        self.window
            .is_acknowledgement_due(self.received.saturating_sub(self.told))
    }

    /// Bytes that came and that nobody has consumed.
    pub fn held(&self) -> u64 {
        self.received.saturating_sub(self.window.consumed())
    }

    /// Whether the application has shown that it reads.
    pub fn is_proven(&self) -> bool {
        self.window.is_proven()
    }

    /// The credit beyond the floor that the stream holds, or may come to hold: the peer may send up to the limit until the direction ends, or until
    /// what comes is dropped.
    pub fn loan(&self) -> u64 {
        let is_open = self.end.is_none() && !self.is_discarded;
        let exposed = if is_open {
            self.window.limit().saturating_sub(self.window.consumed())
        } else {
            self.held()
        };
        self.window.loan(exposed)
    }

    /// Takes bytes that follow what has come.
    pub fn receive(&mut self, bytes: Bytes) {
        self.received = self.received.saturating_add(bytes.len() as u64);
        self.waiting.push(bytes);
    }

    /// Counts bytes that will not come, or that nobody wants.
    pub fn skip(&mut self, bytes: u64) {
        self.received = self.received.saturating_add(bytes);
    }

    /// The direction ended.
    pub fn finish(&mut self, end: End) {
        self.end = Some(end);
    }

    /// The next piece for the application.
    pub fn take(&mut self) -> Option<Bytes> {
        self.waiting.pop()
    }

    /// Keeps what waits in memory that holds nothing else.
    pub fn compact(&mut self) {
        self.waiting.compact();
    }

    /// Drops what waits, and what will come.
    pub fn discard(&mut self) {
        self.is_discarded = true;
        self.waiting.clear();
    }
}
