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
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};

use crate::tunnel::stream::{TunnelStream, TunnelStreamError};
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
    pub(super) socket: Arc<TcpStream>,
    /// Data that goes to the stream before anything that is read from the socket.
    prefix: Mutex<Bytes>,
    pub(in crate::tunnel) stream: TunnelStream,
    pub(in crate::tunnel) method: CompressMethod,
    /// Number of directions that ended gracefully.
    graceful_ends: AtomicU8,
    /// This end is shutting down the sending direction of the socket.
    pub(super) write_shut_down: AtomicBool,
}

impl Drop for SpliceEnds {
    /// Lets the socket end gracefully if both directions did. Any other end is a reset at the
    /// socket, and at the stream because it is dropped too. It must never look like an end of file.
    fn drop(&mut self) {
        if self.is_graceful() {
            let _ = SockRef::from(&*self.socket).set_linger(None);
        }
    }
}

/// Makes closing `socket` send a reset (RST) in place of an end of file.
pub fn reset_on_close(socket: &TcpStream) {
    // Fails only if the connection is gone already.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

impl SpliceEnds {
    pub(in crate::tunnel) fn new(
        socket: Arc<TcpStream>,
        prefix: Bytes,
        stream: TunnelStream,
        method: CompressMethod,
    ) -> Self {
        // Set from the start, until both directions have ended gracefully: the kernel also closes
        // the sockets of a killed process.
        reset_on_close(&socket);
        let prefix = Mutex::new(prefix);
        SpliceEnds {
            socket,
            prefix,
            stream,
            method,
            graceful_ends: AtomicU8::new(0),
            write_shut_down: AtomicBool::new(false),
        }
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

    pub(super) async fn socket_error(&self) -> io::Error {
        match self
            .socket
            .ready(Interest::ERROR)
            .await
            .and_then(|_| self.socket.take_error())
        {
            Err(error) | Ok(Some(error)) => error,
            // Another call has already taken the error.
            Ok(None) => io::ErrorKind::ConnectionReset.into(),
        }
    }
}
