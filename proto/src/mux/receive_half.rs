//! The direction of a stream from the peer: what has arrived, in which order, and how it ended.

use bytes::{Buf, Bytes};

use super::{
    byte_queue::ByteQueue,
    error::{MuxError, ResetCode},
    reassembly::Reassembly,
    stream::StreamEnd,
    window::{StreamWindow, WindowSize},
};

/// The direction from the peer.
#[derive(Debug)]
pub(super) struct ReceiveHalf {
    /// Received data that the application has not taken.
    waiting: ByteQueue,
    /// Received data that follows a gap.
    ahead: Reassembly,
    window: StreamWindow,
    /// The number of bytes received without a gap.
    received: u64,
    /// The value of [`ReceiveHalf::received`] that was last acknowledged to the peer.
    acknowledged: u64,
    end: Option<StreamEnd>,
    /// The final offset of a FIN that arrived before all bytes.
    fin_at: Option<u64>,
    /// Whether received data is dropped.
    is_discarded: bool,
}

impl ReceiveHalf {
    pub(super) fn new(window: WindowSize) -> Self {
        ReceiveHalf {
            waiting: ByteQueue::default(),
            ahead: Reassembly::default(),
            window: StreamWindow::new(window),
            received: 0,
            acknowledged: 0,
            end: None,
            fin_at: None,
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

    /// Returns the number of bytes received without a gap.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Returns the pieces that follow a gap.
    pub(super) fn ahead(&self) -> &Reassembly {
        &self.ahead
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
        self.arrived().saturating_sub(self.window.consumed())
    }

    /// Returns the number of bytes that have arrived, those after a gap included.
    fn arrived(&self) -> u64 {
        self.received.saturating_add(self.ahead.bytes())
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

    /// Takes the bytes of a DATA frame. Returns how many of them had not arrived before.
    ///
    /// # Errors
    /// If they exceed the window or the end of the direction, or contradict earlier ones.
    pub(super) fn receive(&mut self, offset: u64, mut bytes: Bytes) -> Result<u64, MuxError> {
        let end = offset.saturating_add(bytes.len() as u64);
        if let Some(final_offset) = self.final_offset() {
            if end > final_offset {
                return Err(MuxError::Protocol("DATA after the end of the direction"));
            }
            // A RESET has counted the bytes that were still under way.
            if self.end.is_some() {
                return Ok(0);
            }
        }
        if end > self.window.limit() {
            return Err(MuxError::FlowControl("data beyond the stream window"));
        }
        let repeated = usize::try_from(self.received.saturating_sub(offset)).unwrap_or(usize::MAX);
        if repeated >= bytes.len() {
            return Ok(0);
        }
        if offset > self.received {
            return self.ahead.add(offset, bytes, self.is_discarded);
        }
        let before = self.arrived();
        bytes.advance(repeated);
        self.append(bytes);
        self.close_gap();
        self.finish_if_complete();
        Ok(self.arrived().saturating_sub(before))
    }

    fn append(&mut self, bytes: Bytes) {
        self.received = self.received.saturating_add(bytes.len() as u64);
        if !self.is_discarded {
            self.waiting.push(bytes);
        }
    }

    /// Appends the pieces that do not follow a gap any more.
    fn close_gap(&mut self) {
        while let Some((begin, length, mut content)) = self.ahead.pop(self.received) {
            let end = begin.saturating_add(length);
            if end <= self.received {
                continue;
            }
            let known = self.received.saturating_sub(begin);
            let skip = usize::try_from(known).unwrap_or(usize::MAX);
            content.advance(skip.min(content.len()));
            self.received = end;
            if !content.is_empty() {
                self.waiting.push(content);
            }
        }
    }

    /// Handles FIN. Returns whether the direction has ended with it; otherwise bytes are missing.
    ///
    /// # Errors
    /// If the final offset contradicts what has arrived.
    pub(super) fn finish(&mut self, final_offset: u64) -> Result<bool, MuxError> {
        self.check_final_offset(final_offset)?;
        if self.end.is_none() {
            self.fin_at = Some(final_offset);
            self.finish_if_complete();
        }
        Ok(self.end.is_some())
    }

    fn finish_if_complete(&mut self) {
        if self.end.is_none() && self.fin_at == Some(self.received) {
            self.end = Some(StreamEnd::Fin);
        }
    }

    /// Handles RESET. Returns how many bytes before the final offset have not arrived, or `None` if
    /// the direction was reset before.
    ///
    /// # Errors
    /// If the final offset contradicts what has arrived.
    pub(super) fn reset(
        &mut self,
        final_offset: u64,
        code: ResetCode,
    ) -> Result<Option<u64>, MuxError> {
        self.check_final_offset(final_offset)?;
        if matches!(self.end, Some(StreamEnd::Reset(_))) {
            return Ok(None);
        }
        let missing = final_offset.saturating_sub(self.arrived());
        self.ahead.clear();
        self.received = final_offset;
        self.end = Some(StreamEnd::Reset(code));
        Ok(Some(missing))
    }

    fn check_final_offset(&self, final_offset: u64) -> Result<(), MuxError> {
        if let Some(known) = self.final_offset() {
            return if known == final_offset {
                Ok(())
            } else {
                Err(MuxError::Protocol(
                    "second end of a stream at another offset",
                ))
            };
        }
        if final_offset < self.ahead.end().unwrap_or(self.received) {
            return Err(MuxError::Protocol(
                "final offset does not match the received bytes",
            ));
        }
        if final_offset > self.window.limit() {
            return Err(MuxError::FlowControl(
                "final offset beyond the stream window",
            ));
        }
        Ok(())
    }

    /// Returns the number of bytes of the direction, if its end has arrived.
    fn final_offset(&self) -> Option<u64> {
        self.end.map(|_| self.received).or(self.fin_at)
    }

    /// Returns the next piece for the application.
    pub(super) fn take(&mut self) -> Option<Bytes> {
        self.waiting.pop()
    }

    /// Copies unread data into memory that holds nothing else.
    pub(super) fn compact(&mut self) {
        self.waiting.compact();
        self.ahead.compact();
    }

    /// Drops unread data, and all data that arrives from now on.
    pub(super) fn discard(&mut self) {
        self.is_discarded = true;
        self.waiting.clear();
        self.ahead.discard();
    }
}
