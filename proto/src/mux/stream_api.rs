//! The stream operations of applications: open, write, finish, reset, read, consume, release. Each
//! call changes the state of one stream and queues the resulting frames. Nothing is sent here.

use std::time::Instant;

use bytes::Bytes;

use super::{
    DETAILS_MAX, Mux, ResetCode, StreamError, StreamId, StreamRead,
    open_state::OpenState,
    stream::{StreamEnd, StreamState},
};

impl Mux {
    /// Opens a stream. The application may write at once: the first bytes travel with the OPEN.
    /// `details` beyond 4 KiB are truncated.
    pub fn open(&mut self, mut details: Bytes) -> StreamId {
        let stream = StreamId(self.next_local);
        self.next_local = self.next_local.saturating_add(2);
        details.truncate(DETAILS_MAX);
        let window = self.parameters.stream_window;
        self.streams.insert(
            stream,
            StreamState::new(window, self.grant.stream_window, OpenState::Unsent(details)),
        );
        self.opens.push_back(stream);
        stream
    }

    /// Returns how many bytes [`Mux::write`] accepts now. 0 means to wait for
    /// [`MuxEvent::Writable`](super::MuxEvent::Writable).
    ///
    /// # Errors
    /// If the stream was reset or finished, or does not exist.
    pub fn write_room(&mut self, id: StreamId) -> Result<usize, StreamError> {
        let stream = self.streams.get_mut(&id).ok_or(StreamError::Unknown)?;
        if let Some(code) = stream.reset_code() {
            return Err(StreamError::Reset(code));
        }
        if stream.send.end().is_some() {
            return Err(StreamError::Finished);
        }
        let room = self.send_totals.room(stream);
        stream.wants_write = room == 0;
        Ok(usize::try_from(room).unwrap_or(usize::MAX))
    }

    /// Queues bytes within [`Mux::write_room`]. A write that exceeds the peer's credit is refused
    /// as a whole.
    ///
    /// # Errors
    /// If the stream was reset or finished, does not exist, or lacks the credit.
    pub fn write(&mut self, id: StreamId, bytes: Bytes) -> Result<(), StreamError> {
        self.write_room(id)?;
        let stream = self.streams.get_mut(&id).ok_or(StreamError::Unknown)?;
        let length = bytes.len() as u64;
        if length > stream.send.credit() {
            return Err(StreamError::NoCredit);
        }
        if length > 0 {
            self.send_totals
                .track(&mut stream.send, |send| send.write(bytes));
            self.schedule_data(id);
            // Only a stream that competes with other unsent data needs the interactive reserve.
            let is_interactive = self.send_totals.unsent > length
                && self
                    .streams
                    .get(&id)
                    .is_some_and(|stream| self.is_interactive(stream));
            if is_interactive {
                self.interactive.insert(id);
            }
        }
        self.update_budget();
        Ok(())
    }

    /// Ends this direction after the written data: a half-close. Does nothing if it has ended
    /// already.
    pub fn finish(&mut self, id: StreamId) {
        self.end(id, StreamEnd::Fin);
    }

    /// Returns whether the peer has received all written data and the end. Otherwise a
    /// [`MuxEvent::Writable`](super::MuxEvent::Writable) signals when to ask again.
    ///
    /// # Errors
    /// If the stream was reset or does not exist.
    pub fn is_delivered(&mut self, id: StreamId) -> Result<bool, StreamError> {
        let stream = self.streams.get_mut(&id).ok_or(StreamError::Unknown)?;
        if let Some(code) = stream.reset_code() {
            return Err(StreamError::Reset(code));
        }
        let delivered = stream.send.is_end_acknowledged();
        stream.wants_write |= !delivered;
        Ok(delivered)
    }

    /// Returns whether the peer has received all written bytes. Otherwise a
    /// [`MuxEvent::Writable`](super::MuxEvent::Writable) signals when to ask again.
    ///
    /// # Errors
    /// If the stream was reset or does not exist.
    pub fn is_acknowledged(&mut self, id: StreamId) -> Result<bool, StreamError> {
        let stream = self.streams.get_mut(&id).ok_or(StreamError::Unknown)?;
        if let Some(code) = stream.reset_code() {
            return Err(StreamError::Reset(code));
        }
        let acknowledged = stream.send.retained() == 0;
        stream.wants_write |= !acknowledged;
        Ok(acknowledged)
    }

    /// Resets the stream in both directions: unsent data is dropped, and received data is
    /// discarded.
    pub fn reset(&mut self, now: Instant, id: StreamId, code: ResetCode) {
        self.discard(now, id);
        self.end(id, StreamEnd::Reset(code));
    }

    /// Returns the next bytes from the peer. The application calls [`Mux::consume`] when it has
    /// processed them.
    ///
    /// # Errors
    /// If the stream was reset by the peer or here, or does not exist.
    pub fn read(&mut self, id: StreamId) -> Result<StreamRead, StreamError> {
        let stream = self.streams.get_mut(&id).ok_or(StreamError::Unknown)?;
        if let Some(code) = stream.reset_code() {
            return Err(StreamError::Reset(code));
        }
        match (stream.receive.end(), stream.receive.take()) {
            (_, Some(bytes)) => Ok(StreamRead::Data(bytes)),
            (Some(_), None) => Ok(StreamRead::End),
            (None, None) => {
                stream.wants_read = true;
                Ok(StreamRead::Wait)
            }
        }
    }

    /// Reduces the memory of unread data to its length, because the application has stalled.
    pub fn compact(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.receive.compact();
        }
    }

    /// Records that the application processed `bytes` more of the stream, and returns their credit
    /// to the peer.
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
            .allowance(&stream.receive, self.window.path_need())
            .min(self.window.loan_max());
        if stream.receive.end().is_none() && stream.receive.window().is_update_due(allowance) {
            self.ack_immediately(id);
        }
        self.update_budget();
    }

    /// Releases the stream, which the application does not use any more. A direction that has not
    /// ended is reset. The rest of the stream's life needs no further calls.
    pub fn release(&mut self, now: Instant, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.released = true;
        if stream.send.end().is_none() || stream.receive.end().is_none() {
            self.end(id, StreamEnd::Reset(ResetCode::Cancelled));
        }
        self.discard(now, id);
        self.remove_if_complete(id);
    }

    /// Returns the reason of a reset, if the stream was reset.
    #[must_use]
    pub fn reset_code(&self, id: StreamId) -> Option<ResetCode> {
        self.streams.get(&id).and_then(StreamState::reset_code)
    }

    /// Returns all data written to a local stream if the peer has certainly not seen its OPEN. That
    /// is the case if OPEN was never sent, or if the stream is not below `seen`, the peer's count
    /// over the whole life of the tunnel. For use after the end of a tunnel.
    #[must_use]
    pub fn unseen(&self, id: StreamId, seen: Option<u64>) -> Option<Vec<Bytes>> {
        let stream = self
            .streams
            .get(&id)
            .filter(|stream| self.is_local(id) && stream.reset_code().is_none())?;
        let may_be_seen = stream.open_state.is_announced()
            && (stream.open_state.is_confirmed() || seen.is_none_or(|seen| id.0 < seen));
        (!may_be_seen).then(|| stream.send.retained_pieces().cloned().collect())
    }

    /// Returns the lowest number of the peer's streams whose OPEN has not arrived.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.opened_by_peer.lowest_missing()
    }

    /// Decides the end of the sending direction.
    pub(super) fn end(&mut self, id: StreamId, end: StreamEnd) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.send.end().is_some() && end == StreamEnd::Fin
            || matches!(stream.send.end(), Some(StreamEnd::Reset(_)))
        {
            return;
        }
        self.send_totals
            .track(&mut stream.send, |send| send.finish(end));
        if stream.send.is_end_due() {
            self.ends.push_back(id);
        }
        if let StreamEnd::Reset(_) = end {
            self.wake(id);
        }
        self.update_budget();
    }
}
