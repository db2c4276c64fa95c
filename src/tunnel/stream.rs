//! The handle of one stream of a tunnel, used by a splice or by any other task.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{core::TunnelCore, parameters::PortCounters, shared::TunnelShared};
use report_proto::compress::CompressMethod;
use report_proto::frame::Notice;
use report_proto::mux::{ResetCode, StreamError, StreamId, StreamRead};

/// Why a stream failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TunnelStreamError {
    /// The stream alone failed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The tunnel has ended, and all its streams with it.
    #[error("the tunnel ended: {0}")]
    TunnelEnded(Notice),
}

impl TunnelStreamError {
    /// Returns the code of a reset, by the peer or by this end.
    #[must_use]
    pub fn reset_code(&self) -> Option<ResetCode> {
        match self {
            TunnelStreamError::Stream(StreamError::Reset(code)) => Some(*code),
            _ => None,
        }
    }
}

/// A stream. Dropping it releases it and resets each direction that is not finished.
pub struct TunnelStream {
    shared: Arc<TunnelShared>,
    id: StreamId,
}

impl TunnelStream {
    pub(super) fn new(shared: Arc<TunnelShared>, id: StreamId) -> Self {
        shared.port.counters.opened_streams.add(1);
        TunnelStream { shared, id }
    }

    /// Returns the id of the stream in its tunnel.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id.0
    }

    /// Returns the compression of the tunnel, which a later change of the port does not affect.
    #[must_use]
    pub fn compress(&self) -> CompressMethod {
        self.shared.port.compress
    }

    /// Returns the compression contexts for the streams of this tunnel.
    #[must_use]
    pub(super) fn pool(&self) -> Arc<report_proto::compress::Pool> {
        Arc::clone(&self.shared.pool)
    }

    /// Returns the counters of the port.
    pub(super) fn counters(&self) -> &PortCounters {
        &self.shared.port.counters
    }

    /// Returns the idle time after which the local connection is probed; `None` disables probes.
    pub(super) fn tcp_keepalive(&self) -> Option<Duration> {
        self.shared.port.tcp_keepalive
    }

    /// Returns the next bytes, or `None` after the peer has finished. The caller returns the credit
    /// with [`TunnelStream::consume`].
    ///
    /// # Errors
    /// When the stream was reset or the tunnel has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped. Only one task may wait at a time.
    pub async fn read(&self) -> Result<Option<Bytes>, TunnelStreamError> {
        std::future::poll_fn(|context| self.poll_read(context)).await
    }

    /// Returns credit for `bytes` that the application has received: the peer may send that many
    /// more.
    pub fn consume(&self, bytes: usize) {
        self.shared
            .update(|core| core.mux.consume(Instant::now(), self.id, bytes));
    }

    /// Copies buffered data into buffers of the same length, because the application has stalled
    /// and the messages would keep more memory.
    pub fn compact(&self) {
        self.shared.core().mux.compact(self.id);
    }

    /// Waits until [`TunnelStream::write`] can take data, and returns how many bytes: at least 1
    /// KiB.
    ///
    /// # Errors
    /// When the stream was reset or finished, or the tunnel has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped. Only one task may wait at a time.
    pub async fn write_room(&self) -> Result<usize, TunnelStreamError> {
        std::future::poll_fn(|context| self.poll_write_room(context)).await
    }

    /// Sends bytes, at most as many as [`TunnelStream::write_room`] returned.
    ///
    /// # Errors
    /// When the stream was reset or finished, the data exceeds the room, or the tunnel has ended.
    pub fn write(&self, bytes: Bytes) -> Result<(), TunnelStreamError> {
        self.shared.update(|core| {
            // Stored even if the tunnel has ended: `unseen` may take the data back.
            let result = core.mux.write(self.id, bytes);
            fail_if_ended(core)?;
            Ok(result?)
        })
    }

    /// Returns everything that was written to the stream, if the tunnel has ended and the peer
    /// certainly never saw the stream.
    pub(super) fn unseen(&self) -> Option<Vec<Bytes>> {
        self.shared.core().unseen(self.id)
    }

    /// Finishes the sending direction after the data that was written.
    pub fn finish(&self) {
        self.shared.update(|core| core.mux.finish(self.id));
    }

    /// Waits until the peer has acknowledged all data and the end of the stream.
    ///
    /// # Errors
    /// When the stream was reset or the tunnel ended before that.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped. Only one task may wait at a time, and no task
    /// may wait for [`TunnelStream::write_room`] at that time.
    pub async fn delivered(&self) -> Result<(), TunnelStreamError> {
        std::future::poll_fn(|context| self.poll_delivered(context)).await
    }

    /// Waits until the peer has acknowledged all bytes that were written.
    ///
    /// # Errors
    /// When the stream was reset or the tunnel ended before that.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped. Only one task may wait at a time, and no task
    /// may wait for [`TunnelStream::write_room`] at that time.
    pub async fn acknowledged(&self) -> Result<(), TunnelStreamError> {
        std::future::poll_fn(|context| {
            let mut core = self.shared.core();
            if core.mux.is_acknowledged(self.id)? {
                return Poll::Ready(Ok(()));
            }
            fail_if_ended(&core)?;
            core.waiting.of(self.id).writer = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Resets the stream.
    pub fn reset(&self, code: ResetCode) {
        self.shared
            .update(|core| core.reset(Instant::now(), self.id, code));
    }

    /// Waits until the stream has failed: one end reset it, or the tunnel ended.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped. Only one task may wait at a time.
    pub async fn failed(&self) -> TunnelStreamError {
        std::future::poll_fn(|context| {
            let mut core = self.shared.core();
            if let Err(error) = fail_if_ended(&core) {
                return Poll::Ready(error);
            }
            if let Some(code) = core.mux.reset_code(self.id) {
                return Poll::Ready(StreamError::Reset(code).into());
            }
            core.waiting.of(self.id).watcher = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn poll_read(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, TunnelStreamError>> {
        let mut core = self.shared.core();
        match core.mux.read(self.id)? {
            // Received data is valid even if the tunnel has ended in the meantime.
            StreamRead::Data(bytes) => Poll::Ready(Ok(Some(bytes))),
            StreamRead::End => Poll::Ready(Ok(None)),
            StreamRead::Wait => {
                fail_if_ended(&core)?;
                core.waiting.of(self.id).reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_delivered(&self, context: &mut Context<'_>) -> Poll<Result<(), TunnelStreamError>> {
        let mut core = self.shared.core();
        if core.mux.is_delivered(self.id)? {
            return Poll::Ready(Ok(()));
        }
        fail_if_ended(&core)?;
        core.waiting.of(self.id).writer = Some(context.waker().clone());
        Poll::Pending
    }

    fn poll_write_room(&self, context: &mut Context<'_>) -> Poll<Result<usize, TunnelStreamError>> {
        let mut core = self.shared.core();
        fail_if_ended(&core)?;
        match core.mux.write_room(self.id)? {
            0 => {
                core.waiting.of(self.id).writer = Some(context.waker().clone());
                Poll::Pending
            }
            room => Poll::Ready(Ok(room)),
        }
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        self.shared
            .update(|core| core.release(Instant::now(), self.id));
    }
}

fn fail_if_ended(core: &TunnelCore) -> Result<(), TunnelStreamError> {
    match core.end_notice() {
        Some(notice) => Err(TunnelStreamError::TunnelEnded(notice.clone())),
        None => Ok(()),
    }
}
