//! What applications do with their streams: open, write, finish, reset, read, consume, release. Each call changes the state of one stream and
//! queues what follows from it; nothing is sent here.

use std::time::Instant;

use bytes::Bytes;

use super::{
    DETAILS_MAX, Mux, Read, ResetCode, StreamError, StreamId,
    opening::Opening,
    stream::{End, Stream},
};

impl Mux {
    /// Opens a stream. Its first bytes can be written at once: they travel with the opening. `details` beyond a few KiB are cut.
    pub fn open(&mut self, mut details: Bytes) -> StreamId {
        let stream = StreamId(self.next_local);
        self.next_local = self.next_local.saturating_add(2);
        details.truncate(DETAILS_MAX);
        let window = self.parameters.stream_window;
        self.streams.insert(
            stream,
            Stream::new(window, self.grant.stream_window, Opening::Fresh(details)),
        );
        self.opens.push_back(stream);
        stream
    }

    /// How many bytes [`Mux::write`] takes now. 0 means to wait for [`Event::Writable`](super::Event::Writable).
    ///
    /// # Errors
    /// When the stream was reset or finished, or is unknown.
    pub fn write_room(&mut self, id: StreamId) -> Result<usize, StreamError> {
        let stream = self.streams.get_mut(&id).ok_or(StreamError::Unknown)?;
        if let Some(code) = stream.reset_code() {
            return Err(StreamError::Reset(code));
        }
        if stream.send.end().is_some() {
            return Err(StreamError::Finished);
        }
        let room = self.load.room(stream);
        stream.wants_write = room == 0;
        Ok(usize::try_from(room).unwrap_or(usize::MAX))
    }

    /// Takes bytes to be sent, within [`Mux::write_room`]; what exceeds the peer's credit is refused whole.
    ///
    /// # Errors
    /// When the stream was reset or finished, or is unknown, or has no credit for so much.
    pub fn write(&mut self, id: StreamId, bytes: Bytes) -> Result<(), StreamError> {
        self.write_room(id)?;
        let stream = self.streams.get_mut(&id).ok_or(StreamError::Unknown)?;
        let length = bytes.len() as u64;
        if length > stream.send.credit() {
            return Err(StreamError::NoCredit);
        }
        if length > 0 {
            self.load.track(&mut stream.send, |send| send.write(bytes));
            self.schedule.add(id);
            let is_little = self.load.unsent > length
                && self
                    .streams
                    .get(&id)
                    .is_some_and(|stream| self.moves_little(stream));
            if is_little {
                self.little.insert(id);
            }
        }
        self.settle();
        Ok(())
    }

    /// Ends this direction after what was written: a half-close. No effect when it has ended already.
    pub fn finish(&mut self, id: StreamId) {
        self.end(id, End::Fin);
    }

    /// Whether the peer has everything that was written, the end included. When not, an [`Event::Writable`](super::Event::Writable) will say when to ask again.
    ///
    /// # Errors
    /// When the stream was reset, or is unknown.
    pub fn is_delivered(&mut self, id: StreamId) -> Result<bool, StreamError> {
        let stream = self.streams.get_mut(&id).ok_or(StreamError::Unknown)?;
        if let Some(code) = stream.reset_code() {
            return Err(StreamError::Reset(code));
        }
        let delivered = stream.send.is_end_acknowledged();
        stream.wants_write |= !delivered;
        Ok(delivered)
    }

    /// Whether the peer has all bytes that were written. When not, an [`Event::Writable`](super::Event::Writable) will say when to ask again.
    ///
    /// # Errors
    /// When the stream was reset, or is unknown.
    pub fn is_acknowledged(&mut self, id: StreamId) -> Result<bool, StreamError> {
        let stream = self.streams.get_mut(&id).ok_or(StreamError::Unknown)?;
        if let Some(code) = stream.reset_code() {
            return Err(StreamError::Reset(code));
        }
        let acknowledged = stream.send.kept() == 0;
        stream.wants_write |= !acknowledged;
        Ok(acknowledged)
    }

    /// Gives the stream up in both directions: what was not sent is dropped, and what comes is discarded.
    pub fn reset(&mut self, now: Instant, id: StreamId, code: ResetCode) {
        self.discard(now, id);
        self.end(id, End::Reset(code));
    }

    /// The next bytes from the peer. Each piece must be given back with [`Mux::consume`] when the application has it.
    ///
    /// # Errors
    /// When the stream was reset by the peer or here, or is unknown.
    pub fn read(&mut self, id: StreamId) -> Result<Read, StreamError> {
        let stream = self.streams.get_mut(&id).ok_or(StreamError::Unknown)?;
        if let Some(code) = stream.reset_code() {
            return Err(StreamError::Reset(code));
        }
        match (stream.receive.end(), stream.receive.take()) {
            (_, Some(bytes)) => Ok(Read::Data(bytes)),
            (Some(_), None) => Ok(Read::End),
            (None, None) => {
                stream.wants_read = true;
                Ok(Read::Wait)
            }
        }
    }

    /// The application has stalled: what waits for it keeps no more memory than its length.
    pub fn compact(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.receive.compact();
        }
    }

    /// The application has `bytes` more of the stream: the peer gets credit for them.
    pub fn consume(&mut self, now: Instant, id: StreamId, bytes: usize) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let bytes = (bytes as u64).min(stream.receive.held());
        self.window.release(bytes);
        let growth = self.window.growth(self.parameters.stream_window.max);
        self.credit.track(&mut stream.receive, |receive| {
            receive.window().consume(now, bytes, &growth)
        });
        let allowance = self
            .credit
            .allowance(&stream.receive, self.window.path_need());
        if stream.receive.end().is_none() && stream.receive.window().is_update_due(allowance) {
            self.update_at_once(id);
        }
        self.settle();
    }

    /// The application has no more use for the stream. A direction that has not ended is reset; the rest goes on by itself.
    pub fn release(&mut self, now: Instant, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.released = true;
        if stream.send.end().is_none() || stream.receive.end().is_none() {
            self.end(id, End::Reset(ResetCode::Cancelled));
        }
        self.discard(now, id);
        self.forget_if_over(id);
    }

    /// Why the stream was given up, if it was.
    #[must_use]
    pub fn reset_code(&self, id: StreamId) -> Option<ResetCode> {
        self.streams.get(&id).and_then(Stream::reset_code)
    }

    /// All that was written to a stream of this end, when it is certain that the peer has not seen its OPEN: that has never left, or the stream is
    /// none of those below `seen`, which are all that the peer has seen in the life of the tunnel. For a tunnel that is over.
    #[must_use]
    pub fn unseen(&self, id: StreamId, seen: Option<u64>) -> Option<Vec<Bytes>> {
        let stream = self
            .streams
            .get(&id)
            .filter(|stream| self.is_local(id) && stream.reset_code().is_none())?;
        let may_be_seen = stream.opening.is_announced()
            && (stream.opening.is_known() || seen.is_none_or(|seen| id.0 < seen));
        (!may_be_seen).then(|| stream.send.kept_pieces().cloned().collect())
    }

    /// The lowest number of the peer's streams whose OPEN has not come.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.next_peer
    }

    /// Decides the end of the sending direction.
    pub(super) fn end(&mut self, id: StreamId, end: End) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.send.end().is_some() && end == End::Fin
            || matches!(stream.send.end(), Some(End::Reset(_)))
        {
            return;
        }
        self.load.track(&mut stream.send, |send| send.finish(end));
        if stream.send.is_end_due() {
            self.ends.push_back(id);
        }
        if let End::Reset(_) = end {
            self.wake(id);
        }
        self.settle();
    }
}
