//! One stream of a tunnel, as a splice or any other user holds it.

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::shared::{Shared, State};
use crate::{
    link::channel::Notice,
    mux::{Read, ResetCode, StreamError, StreamId},
};

/// Why a stream cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TunnelStreamError {
    /// The stream alone.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The tunnel is over, and all its streams with it.
    #[error("the tunnel is over: {0}")]
    TunnelOver(Notice),
}

impl TunnelStreamError {
    /// The code of a reset by the peer, or of one here.
    #[must_use]
    pub fn reset_code(&self) -> Option<ResetCode> {
        match self {
            TunnelStreamError::Stream(StreamError::Reset(code)) => Some(*code),
            _ => None,
        }
    }
}

/// A stream. Dropping it lets go of it: a direction that is not finished by then is reset.
pub struct TunnelStream {
    shared: Arc<Shared>,
    id: StreamId,
}

impl TunnelStream {
    pub(super) fn new(shared: Arc<Shared>, id: StreamId) -> Self {
        TunnelStream { shared, id }
    }

    /// The stream's number in its tunnel.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id.0
    }

    /// The contexts for compressing this tunnel's streams.
    #[must_use]
    pub(super) fn pool(&self) -> Arc<crate::compress::Pool> {
        Arc::clone(&self.shared.pool)
    }

    /// After how long at rest a local connection that is joined to it is probed, if ever.
    pub(super) fn tcp_keepalive(&self) -> Option<Duration> {
        self.shared.port.tcp_keepalive
    }

    /// The next bytes, which must be given back with [`TunnelStream::consume`]; `None` when the peer finished.
    ///
    /// # Errors
    /// When the stream was reset or the tunnel is over.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped. One task at a time may wait.
    pub async fn read(&self) -> Result<Option<Bytes>, TunnelStreamError> {
        std::future::poll_fn(|context| self.poll_read(context)).await
    }

    /// `bytes` of what was read have reached the application: the peer may send as many more.
    pub fn consume(&self, bytes: usize) {
        let mut state = self.shared.state();
        state.mux.consume(Instant::now(), self.id, bytes);
        self.shared.settle(state);
    }

    /// The application has stalled: what waits for it keeps no more memory than its length.
    pub fn compact(&self) {
        self.shared.state().mux.compact(self.id);
    }

    /// Waits until [`TunnelStream::write`] takes something, and says how many bytes: at least 1 KiB.
    ///
    /// # Errors
    /// When the stream was reset or finished, or the tunnel is over.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped. One task at a time may wait.
    pub async fn write_room(&self) -> Result<usize, TunnelStreamError> {
        std::future::poll_fn(|context| self.poll_write_room(context)).await
    }

    /// Sends bytes, not more than [`TunnelStream::write_room`] said.
    ///
    /// # Errors
    /// When the stream was reset or finished, has no room for so much, or the tunnel is over.
    pub fn write(&self, bytes: Bytes) -> Result<(), TunnelStreamError> {
        let mut state = self.shared.state();
        // Kept when the tunnel is over too: `unseen` may take it back.
        let result = state.mux.write(self.id, bytes);
        let over = fail_if_over(&state);
        self.shared.settle(state);
        over?;
        Ok(result?)
    }

    /// All that was written to the stream, when the tunnel is over and it is certain that the peer has not seen the stream.
    pub(super) fn unseen(&self) -> Option<Vec<Bytes>> {
        let state = self.shared.state();
        state
            .over
            .as_ref()
            .and_then(|_| state.mux.unseen(self.id, state.seen_by_peer))
    }

    /// Ends the sending direction after what was written.
    pub fn finish(&self) {
        let mut state = self.shared.state();
        state.mux.finish(self.id);
        self.shared.settle(state);
    }

    /// Waits until the peer has everything that was written, and knows that it was all.
    ///
    /// # Errors
    /// When the stream was reset or the tunnel is over before that.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped. One task at a time may wait, and none for [`TunnelStream::write_room`] then.
    pub async fn delivered(&self) -> Result<(), TunnelStreamError> {
        std::future::poll_fn(|context| self.poll_delivered(context)).await
    }

    /// Waits until the peer has all bytes that were written.
    ///
    /// # Errors
    /// When the stream was reset or the tunnel is over before that.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped. One task at a time may wait, and none for [`TunnelStream::write_room`] then.
    pub async fn acknowledged(&self) -> Result<(), TunnelStreamError> {
        std::future::poll_fn(|context| {
            let mut state = self.shared.state();
            if state.mux.is_acknowledged(self.id)? {
                return Poll::Ready(Ok(()));
            }
            fail_if_over(&state)?;
            state.waiting.entry(self.id).or_default().writer = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Gives the stream up.
    pub fn reset(&self, code: ResetCode) {
        let mut state = self.shared.state();
        state.mux.reset(Instant::now(), self.id, code);
        let watcher = state
            .waiting
            .get_mut(&self.id)
            .and_then(|waiting| waiting.watcher.take());
        self.shared.settle(state);
        watcher.into_iter().for_each(Waker::wake);
    }

    /// Waits until the stream cannot go on: it was reset at either end, or the tunnel is over.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped. One task at a time may wait.
    pub async fn failed(&self) -> TunnelStreamError {
        std::future::poll_fn(|context| {
            let mut state = self.shared.state();
            if let Err(error) = fail_if_over(&state) {
                return Poll::Ready(error);
            }
            if let Some(code) = state.mux.reset_code(self.id) {
                return Poll::Ready(StreamError::Reset(code).into());
            }
            state.waiting.entry(self.id).or_default().watcher = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn poll_read(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, TunnelStreamError>> {
        let mut state = self.shared.state();
        match state.mux.read(self.id)? {
            // What has come is good, even when the tunnel is over by now.
            Read::Data(bytes) => Poll::Ready(Ok(Some(bytes))),
            Read::End => Poll::Ready(Ok(None)),
            Read::Wait => {
                fail_if_over(&state)?;
                state.waiting.entry(self.id).or_default().reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_delivered(&self, context: &mut Context<'_>) -> Poll<Result<(), TunnelStreamError>> {
        let mut state = self.shared.state();
        if state.mux.is_delivered(self.id)? {
            return Poll::Ready(Ok(()));
        }
        fail_if_over(&state)?;
        state.waiting.entry(self.id).or_default().writer = Some(context.waker().clone());
        Poll::Pending
    }

    fn poll_write_room(&self, context: &mut Context<'_>) -> Poll<Result<usize, TunnelStreamError>> {
        let mut state = self.shared.state();
        fail_if_over(&state)?;
        match state.mux.write_room(self.id)? {
            0 => {
                state.waiting.entry(self.id).or_default().writer = Some(context.waker().clone());
                Poll::Pending
            }
            room => Poll::Ready(Ok(room)),
        }
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.waiting.remove(&self.id);
        state.mux.release(Instant::now(), self.id);
        self.shared.settle(state);
    }
}

fn fail_if_over(state: &State) -> Result<(), TunnelStreamError> {
    match &state.over {
        Some(notice) => Err(TunnelStreamError::TunnelOver(notice.clone())),
        None => Ok(()),
    }
}
