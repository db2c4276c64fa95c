//! The two sides of a splice, which both directions share, and how a direction ends.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::io::Interest;

use crate::{
    net::local_stream::LocalStream,
    tunnel::stream::{TunnelStream, TunnelStreamError},
};
use report_proto::{
    compress::{CompressError, CompressMethod},
    mux::ResetCode,
};

/// How long the last bytes of a failed local connection may take to be read and acknowledged.
pub(super) const FINAL_DATA_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the application at the other end has to read these bytes before the reset follows.
pub(super) const RESET_DELAY: Duration = Duration::from_millis(500);

/// Why a splice did not end gracefully.
#[derive(Debug, thiserror::Error)]
pub enum SpliceError {
    /// The local connection failed. The stream was reset.
    #[error("the local connection failed: {0}")]
    Socket(#[from] io::Error),
    /// The stream failed. The local connection was reset.
    #[error(transparent)]
    Stream(#[from] TunnelStreamError),
    /// The peer's data cannot be decompressed. Both sides were reset.
    #[error("the stream is corrupt: {0}")]
    Corrupt(#[from] CompressError),
}

/// The byte count of one direction, and how it ended.
pub(super) struct DirectionResult {
    pub bytes: u64,
    pub result: Result<(), SpliceError>,
}

/// The two sides of a splice.
pub(in crate::tunnel) struct SpliceEnds {
    pub(super) socket: Arc<LocalStream>,
    /// Data that goes to the stream before anything that is read from the socket.
    prefix: Mutex<Bytes>,
    /// Data that was read from the stream before the splice started.
    received: Mutex<Bytes>,
    pub(in crate::tunnel) stream: TunnelStream,
    pub(in crate::tunnel) method: CompressMethod,
    /// Number of directions that ended gracefully.
    graceful_ends: AtomicU8,
    /// This end is shutting down the sending direction of the socket.
    pub(super) write_shut_down: AtomicBool,
    /// The kernel has reported an error of the socket, which it does once.
    socket_failed: AtomicBool,
}

impl Drop for SpliceEnds {
    /// Lets the socket end gracefully if both directions did. Any other end is a reset at the
    /// socket, and at the stream because it is dropped too. It must never look like an end of file.
    /// (A unix socket has no reset, see [`LocalStream`].)
    fn drop(&mut self) {
        if self.is_graceful() {
            self.socket.end_on_close();
        }
    }
}

impl SpliceEnds {
    pub(in crate::tunnel) fn new(
        socket: Arc<LocalStream>,
        prefix: Bytes,
        stream: TunnelStream,
        method: CompressMethod,
    ) -> Self {
        // Set from the start, until both directions have ended gracefully: the kernel also closes
        // the sockets of a killed process.
        socket.reset_on_close();
        let prefix = Mutex::new(prefix);
        SpliceEnds {
            socket,
            prefix,
            received: Mutex::default(),
            stream,
            method,
            graceful_ends: AtomicU8::new(0),
            write_shut_down: AtomicBool::new(false),
            socket_failed: AtomicBool::new(false),
        }
    }

    /// Sets the data that was read from the stream before, for which the peer has no new credit yet.
    pub(super) fn after(mut self, received: Bytes) -> Self {
        self.received = Mutex::new(received);
        self
    }

    pub(super) fn is_graceful(&self) -> bool {
        self.graceful_ends.load(Ordering::Relaxed) == 2
    }

    pub(super) fn on_direction_end(&self, result: &Result<(), SpliceError>) {
        match result {
            Ok(()) => {
                self.graceful_ends.fetch_add(1, Ordering::Relaxed);
            }
            Err(SpliceError::Socket(_)) => self.stream.reset(ResetCode::Reset),
            Err(SpliceError::Corrupt(_)) => self.stream.reset(ResetCode::Corrupt),
            Err(SpliceError::Stream(_)) => {}
        }
    }

    pub(in crate::tunnel) fn prefix(&self) -> MutexGuard<'_, Bytes> {
        self.prefix.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the data that was read from the stream before the splice started.
    pub(super) fn take_received(&self) -> Bytes {
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *received)
    }

    /// Records that an error of the socket was reported.
    pub(super) fn on_socket_error(&self) {
        self.socket_failed.store(true, Ordering::Release);
    }

    /// Returns whether an end of file is in fact a reset. The kernel reports a reset once: after
    /// another call has received the error, a read returns an end of file. The kernel has then
    /// forgotten the peer of a TCP connection, as it also does when both ends have finished.
    pub(super) fn was_reset(&self) -> bool {
        self.socket_failed.load(Ordering::Acquire)
            || (self.socket.has_forgotten_peer() && !self.write_shut_down.load(Ordering::Acquire))
    }

    pub(super) async fn socket_error(&self) -> io::Error {
        let ready = self.socket.ready(Interest::ERROR).await;
        // Before the error is taken: a read may then return an end of file.
        self.on_socket_error();
        match ready.and_then(|_| self.socket.take_error()) {
            Err(error) | Ok(Some(error)) => error,
            // Another call has already taken the error.
            Ok(None) => io::ErrorKind::ConnectionReset.into(),
        }
    }
}
