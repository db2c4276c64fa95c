//! Joins a stream to a local socket.
//!
//! The two directions run in two tasks, so a busy one cannot starve the other. An ungraceful end of
//! one direction ends both, and a reset arrives as a reset.
//!
//! | at the socket | at the stream |
//! |---|---|
//! | end of file is read | finish |
//! | an error is read, or writing fails | reset |
//! | its sending direction is shut down | the peer finished |
//! | reset (RST) | the peer reset, the bytes are corrupt, or the tunnel has ended |

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    net::Shutdown,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::FutureExt;
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream, task::JoinSet};

use super::{
    local_socket,
    raw::{compressed, raw_room},
    stream::{TunnelStream, TunnelStreamError},
};
use crate::tcp_table::TcpConnection;
use report_proto::{
    compress::{CompressError, CompressMethod, Compressor, Decompressor, MAX_CHUNK},
    mux::ResetCode,
};

/// Reads smaller than this are copied out of the buffer, so that the next read can reuse it, in
/// bytes.
const COPIED_BELOW: usize = 8 * 1024;

/// Size of a write batch at which no more pieces are added, in bytes. The last piece may exceed it.
const BATCH_ENOUGH: usize = 128 * 1024;

/// Maximum number of decompressed bytes in a batch: one chunk. It bounds what a splice holds for a
/// stalled reader, however well the data was compressed. All other data in a batch has its length
/// in the tunnel and is within the credit of the stream.
const DECODED_MAX: usize = MAX_CHUNK;

/// A splice that writes without a pause yields after this many bytes. A few kilobytes in the tunnel
/// may decompress to hundreds of megabytes, which a fast reader takes without ever blocking the
/// task.
const YIELD_INTERVAL: usize = 1024 * 1024;

/// Maximum number of pieces in a batch. More pieces per write do not make it cheaper.
const BATCH_PIECES: usize = 64;

/// How long the last bytes of a failed local connection may take to be read and acknowledged.
const FINAL_DATA_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the application at the other end has to read these bytes before the reset follows.
const RESET_DELAY: Duration = Duration::from_millis(500);

/// When the socket has accepted nothing for the first of these times, its pending data is
/// compacted. The second compaction covers data that was still in flight.
const COMPACTION_DELAYS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// Returns the delays between checks for a vanished peer while data waits: the keepalive idle time,
/// less the compaction delays, then the keepalive probe interval.
fn peer_check_delays(keepalive: Option<Duration>) -> impl Iterator<Item = Duration> {
    let first = keepalive.map(|idle| idle.saturating_sub(COMPACTION_DELAYS.iter().sum()));
    let later = keepalive.map(local_socket::probe_interval);
    first
        .into_iter()
        .chain(std::iter::repeat_with(move || later).map_while(|later| later))
}

async fn sleep_if(time: Option<&Duration>) {
    match time {
        Some(time) => tokio::time::sleep(*time).await,
        None => std::future::pending().await,
    }
}

/// The byte counts of a splice, and how it ended.
#[derive(Debug)]
pub struct Spliced {
    /// Bytes from the socket into the tunnel, before compression.
    pub sent_bytes: u64,
    /// Bytes from the tunnel to the socket, after decompression.
    pub received_bytes: u64,
    /// Why the splice did not end gracefully.
    pub error: Option<SpliceError>,
}

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

/// Joins `stream` and `socket` until both directions have ended and the peer has acknowledged
/// everything. The caller can then end the tunnel without losing data.
///
/// # Cancel safety
/// Dropping the future resets both.
pub async fn splice(socket: TcpStream, stream: TunnelStream, method: CompressMethod) -> Spliced {
    join(&Arc::new(SpliceEnds::new(
        Arc::new(socket),
        Bytes::new(),
        stream,
        method,
    )))
    .await
}

pub(super) async fn join(ends: &Arc<SpliceEnds>) -> Spliced {
    local_socket::prepare(&ends.socket, ends.stream.tcp_keepalive());
    let mut sending = JoinSet::new();
    let sender = Arc::clone(ends);
    sending.spawn(async move { sender.send().await });
    let received = ends.receive().await;
    let failure = match &received.result {
        Ok(()) => tokio::select! {
            biased;
            sent = sending.join_next() => return ends.await_delivery(Spliced::of(sent.and_then(Result::ok), received)).await,
            error = ends.stream.failed() => Some(error.into()),
        },
        Err(SpliceError::Socket(_)) => {
            return ends.finish_after_failed_write(sending, received).await;
        }
        // The stream has failed. A sender that waits for the socket would not notice.
        Err(_) => None,
    };
    sending.abort_all();
    let sent = sending.join_next().await.and_then(Result::ok);
    let spliced = Spliced::of(sent, received);
    Spliced {
        error: spliced.error.or(failure),
        ..spliced
    }
}

impl Spliced {
    fn of(sent: Option<DirectionResult>, received: DirectionResult) -> Self {
        let (sent_bytes, sent) = sent.map_or((0, Ok(())), |sent| (sent.bytes, sent.result));
        Spliced {
            sent_bytes,
            received_bytes: received.bytes,
            error: sent.err().or(received.result.err()),
        }
    }
}

/// The byte count of one direction, and how it ended.
struct DirectionResult {
    bytes: u64,
    result: Result<(), SpliceError>,
}

/// The two sides of a splice.
pub(super) struct SpliceEnds {
    socket: Arc<TcpStream>,
    /// Data that goes to the stream before anything that is read from the socket.
    pub(super) prefix: Mutex<Bytes>,
    pub(super) stream: TunnelStream,
    pub(super) method: CompressMethod,
    /// Number of directions that ended gracefully.
    graceful_ends: AtomicU8,
    /// This end is shutting down the sending direction of the socket.
    write_shut_down: AtomicBool,
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
    pub(super) fn new(
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

    fn is_graceful(&self) -> bool {
        self.graceful_ends.load(Ordering::Relaxed) == 2
    }

    async fn await_delivery(&self, mut spliced: Spliced) -> Spliced {
        if self.is_graceful() {
            spliced.error = self.stream.delivered().await.err().map(SpliceError::from);
        }
        spliced
    }

    /// Handles a local peer that reads no more but may have answered before, as an HTTP server that
    /// rejects an upload does. Delivers the answer before the reset.
    async fn finish_after_failed_write(
        &self,
        mut sending: JoinSet<DirectionResult>,
        received: DirectionResult,
    ) -> Spliced {
        let sent = tokio::time::timeout(FINAL_DATA_TIMEOUT, sending.join_next())
            .await
            .ok()
            .flatten()
            .and_then(Result::ok);
        if sent.as_ref().is_some_and(|sent| sent.result.is_ok()) {
            // The other end closes after it has read the answer to its end. An immediate reset
            // could overtake the answer.
            let _ = tokio::time::timeout(RESET_DELAY, self.stream.failed()).await;
        }
        self.stream.reset(ResetCode::Reset);
        sending.abort_all();
        let DirectionResult { bytes, result } = received;
        Spliced {
            error: result.err(),
            ..Spliced::of(
                sent,
                DirectionResult {
                    bytes,
                    result: Ok(()),
                },
            )
        }
    }

    async fn send(&self) -> DirectionResult {
        let mut bytes = 0;
        let mut read = None;
        let result = self.send_all(&mut bytes, &mut read).await;
        if let Err(SpliceError::Socket(_)) = result {
            // Data before the error is in flight. An immediate reset would overtake it, or leave
            // its reader no time.
            let _ = tokio::time::timeout(FINAL_DATA_TIMEOUT, self.stream.acknowledged()).await;
            if read.is_some_and(|read: Instant| read.elapsed() < RESET_DELAY) {
                tokio::time::sleep(RESET_DELAY).await;
            }
        }
        self.on_direction_end(&result);
        DirectionResult { bytes, result }
    }

    async fn receive(&self) -> DirectionResult {
        let mut bytes = 0;
        let result = self.receive_all(&mut bytes).await;
        // After a failed write, `splice` resets the stream once the rest of the socket has been
        // read.
        if !matches!(result, Err(SpliceError::Socket(_))) {
            self.on_direction_end(&result);
        }
        DirectionResult { bytes, result }
    }

    fn on_direction_end(&self, result: &Result<(), SpliceError>) {
        match result {
            Ok(()) => {
                self.graceful_ends.fetch_add(1, Ordering::Relaxed);
            }
            Err(SpliceError::Socket(_)) => self.stream.reset(ResetCode::Reset),
            Err(SpliceError::Corrupt(_)) => self.stream.reset(ResetCode::Corrupt),
            Err(SpliceError::Stream(_)) => {}
        }
    }

    /// Copies from the socket into the tunnel.
    async fn send_all(
        &self,
        moved: &mut u64,
        last: &mut Option<Instant>,
    ) -> Result<(), SpliceError> {
        let mut compressor = Compressor::new(self.method, self.stream.pool());
        self.send_prefix(&mut compressor).await?;
        loop {
            let room = self.room().await?;
            self.socket.readable().await?;
            // Allocate only when the socket is readable, so that an idle connection holds no
            // buffer.
            let mut buffer = BytesMut::with_capacity(room);
            loop {
                buffer.clear();
                let SocketRead { length, is_drained } = match self.read(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    read => read?,
                };
                // Zero bytes is an end of file here: the buffer has room.
                if length == 0 {
                    return self.end_of_file();
                }
                *moved = moved.saturating_add(length as u64);
                *last = Some(Instant::now());
                let full = buffer.len() == buffer.capacity();
                self.stream.write(self.wire(&mut compressor, &mut buffer))?;
                // Start over with a new buffer that has the size of the current window.
                if is_drained || full || buffer.capacity() == 0 {
                    break;
                }
                let room = self.room().await?;
                // The window has shrunk: allocate a buffer that fits it.
                if room < buffer.capacity() {
                    break;
                }
            }
        }
    }

    fn end_of_file(&self) -> Result<(), SpliceError> {
        if self.was_reset() {
            return Err(io::Error::from(io::ErrorKind::ConnectionReset).into());
        }
        self.stream.finish();
        Ok(())
    }

    /// Reads available data.
    ///
    /// A short read into a large buffer means that nothing more is available. The socket is then
    /// marked as not readable, which saves a system call that would return `WouldBlock`; the next
    /// event says when there is more. After a longer read more data has often arrived in the
    /// meantime, and reading again is cheaper than waiting for the event.
    fn read(&self, buffer: &mut BytesMut) -> io::Result<SocketRead> {
        let mut read = None;
        let outcome = self.socket.try_io(Interest::READABLE, || {
            let length = self.socket.try_read_buf(buffer)?;
            let is_drained = length > 0 && buffer.len() < COPIED_BELOW.min(buffer.capacity());
            read = Some(SocketRead { length, is_drained });
            if is_drained {
                Err(io::ErrorKind::WouldBlock.into())
            } else {
                Ok(())
            }
        });
        read.map_or_else(
            || {
                outcome.map(|()| SocketRead {
                    length: 0,
                    is_drained: false,
                })
            },
            Ok,
        )
    }

    /// Returns the form of `raw` in the tunnel. Leaves the buffer for reuse if copying is cheaper
    /// than giving it away.
    pub(super) fn wire(&self, compressor: &mut Compressor, raw: &mut BytesMut) -> Bytes {
        if self.method != CompressMethod::Null {
            return compressed(compressor, raw);
        }
        if raw.len() < COPIED_BELOW {
            Bytes::copy_from_slice(raw)
        } else {
            raw.split().freeze()
        }
    }

    /// Returns how many raw bytes to read from the socket now. Fails if the local connection is
    /// reset in the meantime.
    pub(super) async fn room(&self) -> Result<usize, SpliceError> {
        let room = tokio::select! {
            biased;
            room = self.stream.write_room() => room?,
            error = self.socket_error() => return Err(error.into()),
        };
        Ok(raw_room(self.method, room))
    }

    /// Returns whether an end of file is in fact a reset. The kernel reports a reset once: after a
    /// write has received the error, a read returns an end of file. The kernel has then forgotten
    /// the peer address, as it also does when both ends have finished.
    fn was_reset(&self) -> bool {
        self.socket.peer_addr().is_err() && !self.write_shut_down.load(Ordering::Acquire)
    }

    async fn socket_error(&self) -> io::Error {
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

    /// Copies from the tunnel to the socket.
    async fn receive_all(&self, moved: &mut u64) -> Result<(), SpliceError> {
        let mut decompressor = Decompressor::new(self.method, self.stream.pool());
        let mut budget = YieldBudget::default();
        while let Some(piece) = self.piece().await? {
            let mut pushed = piece.len();
            decompressor.push(piece);
            loop {
                let batch = self.gather(&mut decompressor, &mut pushed)?;
                if batch.raw.is_empty() {
                    break;
                }
                let written = self.write_all(batch.raw).await?;
                *moved = moved.saturating_add(written as u64);
                let delivered = batch.wire_bytes.min(pushed);
                pushed = pushed.saturating_sub(delivered);
                // Credit is returned only after the write: a slow reader slows the peer down.
                self.stream.consume(delivered);
                budget.charge(written).await;
                if batch.is_drained {
                    break;
                }
            }
            // The start of an incomplete chunk returns its credit too. Otherwise chunks of many
            // streams could use up the tunnel window together, and none would ever be complete.
            if pushed > 0 {
                self.stream.consume(pushed);
            }
        }
        decompressor.finish()?;
        // Set before the shutdown: afterwards the kernel may forget the peer address, which
        // `was_reset` would take for a reset.
        self.write_shut_down.store(true, Ordering::Release);
        SockRef::from(&*self.socket)
            .shutdown(Shutdown::Write)
            .or_else(ignore_not_connected)?;
        Ok(())
    }

    /// Returns the next piece from the tunnel. Fails if the local connection is reset in the
    /// meantime: no task reads from the socket after an end of file.
    async fn piece(&self) -> Result<Option<Bytes>, SpliceError> {
        tokio::select! {
            biased;
            piece = self.stream.read() => Ok(piece?),
            error = self.socket_error() => Err(error.into()),
        }
    }

    /// Collects available data for one write. Each write costs a system call and may wake the
    /// reader, as much as moving 16 KiB. Adds the bytes that it takes from the stream to `pushed`.
    fn gather(
        &self,
        decompressor: &mut Decompressor,
        pushed: &mut usize,
    ) -> Result<WriteBatch, SpliceError> {
        let mut batch = WriteBatch {
            raw: VecDeque::new(),
            wire_bytes: 0,
            is_drained: false,
        };
        let (mut raw_bytes, mut decoded_bytes) = (0, 0);
        while raw_bytes < BATCH_ENOUGH && batch.raw.len() < BATCH_PIECES {
            let decodes = decompressor.next_decoded_length()?;
            if decodes.saturating_add(decoded_bytes) > DECODED_MAX {
                break;
            }
            if let Some(chunk) = decompressor.next()? {
                decoded_bytes = decodes.saturating_add(decoded_bytes);
                raw_bytes = chunk.raw.len().saturating_add(raw_bytes);
                batch.wire_bytes = chunk.wire_bytes.saturating_add(batch.wire_bytes);
                batch.raw.push_back(chunk.raw);
                continue;
            }
            // Polling without a waker is safe: the next wait registers the waker and polls again.
            match self.stream.read().now_or_never() {
                Some(Ok(Some(piece))) => {
                    *pushed = pushed.saturating_add(piece.len());
                    decompressor.push(piece);
                }
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(None)) | None => {
                    batch.is_drained = true;
                    break;
                }
            }
        }
        Ok(batch)
    }

    /// Writes everything and returns the number of bytes. Fails if the stream is reset in the
    /// meantime.
    async fn write_all(&self, mut pieces: VecDeque<Bytes>) -> Result<usize, SpliceError> {
        let mut written: usize = 0;
        let mut compactions = COMPACTION_DELAYS.iter();
        let mut peer_checks = peer_check_delays(self.stream.tcp_keepalive()).peekable();
        while !pieces.is_empty() {
            match self.try_write(&pieces) {
                Ok(length) => {
                    // Progress proves that the peer is alive, so the checks start over.
                    peer_checks = peer_check_delays(self.stream.tcp_keepalive()).peekable();
                    written = written.saturating_add(length);
                    drop_front(&mut pieces, length);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::select! {
                    biased;
                    ready = self.socket.writable() => ready?,
                    error = self.stream.failed() => return Err(error.into()),
                    () = sleep_if(compactions.as_slice().first()) => {
                        compactions.next();
                        self.compact(&mut pieces);
                    }
                    () = sleep_if(peer_checks.peek()), if compactions.as_slice().is_empty() => {
                        peer_checks.next();
                        self.check_peer().await?;
                    }
                },
                Err(error) => return Err(error.into()),
            }
        }
        Ok(written)
    }

    /// Checks for a vanished peer. Keepalive does not probe while data waits, and the kernel
    /// retransmits for a quarter of an hour.
    async fn check_peer(&self) -> Result<(), SpliceError> {
        let has_vanished = match TcpConnection::of(&self.socket) {
            Some(connection) => connection.has_vanished().await,
            None => false,
        };
        if has_vanished {
            Err(io::Error::from(io::ErrorKind::TimedOut).into())
        } else {
            Ok(())
        }
    }

    /// Copies pending data out of the messages that contain it, because the application has
    /// stalled.
    fn compact(&self, pieces: &mut VecDeque<Bytes>) {
        for piece in pieces {
            *piece = Bytes::copy_from_slice(piece);
        }
        self.stream.compact();
    }

    fn try_write(&self, pieces: &VecDeque<Bytes>) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); BATCH_PIECES];
        let count = slices
            .iter_mut()
            .zip(pieces)
            .map(|(slice, piece)| *slice = IoSlice::new(piece))
            .count();
        match slices.get(..count).unwrap_or_default() {
            [piece] => self.socket.try_write(piece),
            pieces => self.socket.try_write_vectored(pieces),
        }
    }
}

/// Bytes written since the task last yielded.
#[derive(Default)]
struct YieldBudget(usize);

impl YieldBudget {
    /// Adds `bytes`, and yields after [`YIELD_INTERVAL`].
    async fn charge(&mut self, bytes: usize) {
        self.0 = self.0.saturating_add(bytes);
        if self.0 >= YIELD_INTERVAL {
            self.0 = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// The result of a socket read.
struct SocketRead {
    length: usize,
    /// Nothing more was available.
    is_drained: bool,
}

/// Data for one write to the socket, and the credit that the write returns.
struct WriteBatch {
    raw: VecDeque<Bytes>,
    wire_bytes: usize,
    /// No more data had arrived when the batch was collected.
    is_drained: bool,
}

/// Removes the first `count` bytes.
fn drop_front(pieces: &mut VecDeque<Bytes>, mut count: usize) {
    while let Some(first) = pieces.front_mut() {
        if count < first.len() {
            return first.advance(count);
        }
        count = count.saturating_sub(first.len());
        pieces.pop_front();
    }
}

/// Ignores an error that means that the peer has already closed both directions and received
/// everything.
fn ignore_not_connected(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotConnected {
        Ok(())
    } else {
        Err(error)
    }
}

#[cfg(test)]
#[path = "splice_tests.rs"]
mod tests;
