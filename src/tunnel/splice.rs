//! Joins a stream to a local socket. The two directions run in two tasks, so that a busy one cannot starve the other; what ends one in
//! disorder ends both, and a reset arrives as a reset.
//!
//! | at the socket | at the stream |
//! |---|---|
//! | end of file is read | finish |
//! | an error is read, or writing fails | reset |
//! | its sending direction is shut down | the peer finished |
//! | reset (RST) | the peer reset, the bytes are corrupt, or the tunnel is over |

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
use crate::{
    compress::{CompressError, CompressMethod, Compressor, Decompressor, MAX_CHUNK},
    mux::ResetCode,
    tcp_table::Connection,
};

/// Reads smaller than this are copied out of the buffer, so that the buffer can be used for the next read, in bytes.
const COPIED_BELOW: usize = 8 * 1024;

/// A batch for the socket is large enough with this many bytes. A piece more may go with it.
const BATCH_ENOUGH: usize = 128 * 1024;

/// Decompressed bytes of a batch at most, which is one chunk: what a splice holds for a reader that stalls, however little it was in the tunnel.
/// All else that it holds is as long as it was there, and within the credit of the stream.
const DECODED_MAX: usize = MAX_CHUNK;

/// A splice that writes without a pause lets others of its thread run after this many bytes: a few kilobytes in the tunnel may become hundreds of
/// megabytes, for a reader that takes them as fast as they come.
const TURN: usize = 1024 * 1024;

/// Pieces of a batch at most: more of them in one write do not make it cheaper.
const BATCH_PIECES: usize = 64;

/// How long the last bytes of a local connection that failed may take to be read, and to arrive at the other end.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How long the application at the other end has to read them before the reset follows.
const LINGER: Duration = Duration::from_millis(500);

/// When the socket has taken nothing for the first of these times, what waits for it is compacted, and once more for what was still on its way.
const COMPACTIONS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// A peer for which data waits and that has vanished is noticed after the keepalive's time at rest, and then looked for as often as keepalive probes.
fn looks_for_the_peer(keepalive: Option<Duration>) -> impl Iterator<Item = Duration> {
    let first = keepalive.map(|idle| idle.saturating_sub(COMPACTIONS.iter().sum()));
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

/// What a splice moved, and how it ended.
#[derive(Debug)]
pub struct Spliced {
    /// Bytes from the socket into the tunnel, before compression.
    pub sent_bytes: u64,
    /// Bytes from the tunnel to the socket, after decompression.
    pub received_bytes: u64,
    /// Why it did not end in order, if so.
    pub error: Option<SpliceError>,
}

/// Why a splice ended in disorder.
#[derive(Debug, thiserror::Error)]
pub enum SpliceError {
    /// The local connection failed: the peer has been told with a reset.
    #[error("the local connection failed: {0}")]
    Socket(#[from] io::Error),
    /// The stream failed: the local connection has been reset.
    #[error(transparent)]
    Stream(#[from] TunnelStreamError),
    /// What the peer sent cannot be decompressed: both sides have been reset.
    #[error("the stream is corrupt: {0}")]
    Corrupt(#[from] CompressError),
}

/// Joins `stream` and `socket` until both directions have ended and the peer has everything: who ends the tunnel then loses nothing.
///
/// # Cancel safety
/// Dropping the future resets both.
pub async fn splice(socket: TcpStream, stream: TunnelStream, method: CompressMethod) -> Spliced {
    join(&Arc::new(Ends::new(
        Arc::new(socket),
        Bytes::new(),
        stream,
        method,
    )))
    .await
}

pub(super) async fn join(ends: &Arc<Ends>) -> Spliced {
    local_socket::prepare(&ends.socket, ends.stream.tcp_keepalive());
    let mut sending = JoinSet::new();
    let sender = Arc::clone(ends);
    sending.spawn(async move { sender.send().await });
    let received = ends.receive().await;
    let failure = match &received.result {
        Ok(()) => tokio::select! {
            biased;
            sent = sending.join_next() => return ends.delivered(Spliced::of(sent.and_then(Result::ok), received)).await,
            error = ends.stream.failed() => Some(error.into()),
        },
        Err(SpliceError::Socket(_)) => return ends.after_a_failed_write(sending, received).await,
        // The stream is gone; a sender that waits for the socket would not notice.
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
    fn of(sent: Option<Direction>, received: Direction) -> Self {
        let (sent_bytes, sent) = sent.map_or((0, Ok(())), |sent| (sent.bytes, sent.result));
        Spliced {
            sent_bytes,
            received_bytes: received.bytes,
            error: sent.err().or(received.result.err()),
        }
    }
}

/// What one direction moved, and how it ended.
struct Direction {
    bytes: u64,
    result: Result<(), SpliceError>,
}

/// The two sides of a splice.
pub(super) struct Ends {
    socket: Arc<TcpStream>,
    /// What goes to the stream before anything that is read.
    pub(super) first: Mutex<Bytes>,
    pub(super) stream: TunnelStream,
    pub(super) method: CompressMethod,
    /// How many directions ended in order.
    ended_in_order: AtomicU8,
    /// The sending direction of the socket is being shut down.
    is_shut_down: AtomicBool,
}

impl Drop for Ends {
    /// A splice that does not end in order ends in a reset at the socket, and at the stream because that is dropped too: never in what looks
    /// like an end of file.
    fn drop(&mut self) {
        if self.are_ended_in_order() {
            let _ = SockRef::from(&*self.socket).set_linger(None);
        }
    }
}

/// Makes the end of `socket` a reset (RST) in place of an end of file.
pub fn reset_on_close(socket: &TcpStream) {
    // Fails only when the connection is gone already, and then there is nobody to tell.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

impl Ends {
    pub(super) fn new(
        socket: Arc<TcpStream>,
        first: Bytes,
        stream: TunnelStream,
        method: CompressMethod,
    ) -> Self {
        // From the start, and until both directions have ended in order: a process that is killed closes its sockets too.
        reset_on_close(&socket);
        let first = Mutex::new(first);
        Ends {
            socket,
            first,
            stream,
            method,
            ended_in_order: AtomicU8::new(0),
            is_shut_down: AtomicBool::new(false),
        }
    }

    fn are_ended_in_order(&self) -> bool {
        self.ended_in_order.load(Ordering::Relaxed) == 2
    }

    async fn delivered(&self, mut spliced: Spliced) -> Spliced {
        if self.are_ended_in_order() {
            spliced.error = self.stream.delivered().await.err().map(SpliceError::from);
        }
        spliced
    }

    /// The local peer reads no more, but may have answered before: an HTTP server that refuses an upload does. Its answer is delivered first.
    async fn after_a_failed_write(
        &self,
        mut sending: JoinSet<Direction>,
        received: Direction,
    ) -> Spliced {
        let sent = tokio::time::timeout(LAST_WORDS, sending.join_next())
            .await
            .ok()
            .flatten()
            .and_then(Result::ok);
        if sent.as_ref().is_some_and(|sent| sent.result.is_ok()) {
            // The other end closes when it has read the answer to its end. A reset now could overtake that.
            let _ = tokio::time::timeout(LINGER, self.stream.failed()).await;
        }
        self.stream.reset(ResetCode::Reset);
        sending.abort_all();
        let Direction { bytes, result } = received;
        Spliced {
            error: result.err(),
            ..Spliced::of(
                sent,
                Direction {
                    bytes,
                    result: Ok(()),
                },
            )
        }
    }

    async fn send(&self) -> Direction {
        let mut bytes = 0;
        let mut read = None;
        let result = self.send_all(&mut bytes, &mut read).await;
        if let Err(SpliceError::Socket(_)) = result {
            // What came before the error is on its way: a reset now would overtake it, and then leave its reader no time.
            let _ = tokio::time::timeout(LAST_WORDS, self.stream.acknowledged()).await;
            if read.is_some_and(|read: Instant| read.elapsed() < LINGER) {
                tokio::time::sleep(LINGER).await;
            }
        }
        self.ended(&result);
        Direction { bytes, result }
    }

    async fn receive(&self) -> Direction {
        let mut bytes = 0;
        let result = self.receive_all(&mut bytes).await;
        // After a failed write, `splice` resets the stream once the rest of the socket has been read.
        if !matches!(result, Err(SpliceError::Socket(_))) {
            self.ended(&result);
        }
        Direction { bytes, result }
    }

    fn ended(&self, result: &Result<(), SpliceError>) {
        match result {
            Ok(()) => {
                self.ended_in_order.fetch_add(1, Ordering::Relaxed);
            }
            Err(SpliceError::Socket(_)) => self.stream.reset(ResetCode::Reset),
            Err(SpliceError::Corrupt(_)) => self.stream.reset(ResetCode::Corrupt),
            Err(SpliceError::Stream(_)) => {}
        }
    }

    /// From the socket into the tunnel.
    async fn send_all(
        &self,
        moved: &mut u64,
        last: &mut Option<Instant>,
    ) -> Result<(), SpliceError> {
        let mut compressor = Compressor::new(self.method, self.stream.pool());
        self.send_first(&mut compressor).await?;
        loop {
            let room = self.room().await?;
            self.socket.readable().await?;
            // The buffer lives only while there is something to read: an idle connection holds none.
            let mut buffer = BytesMut::with_capacity(room);
            loop {
                buffer.clear();
                let Read { length, is_all } = match self.read(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    read => read?,
                };
                if length == 0 {
                    return self.end_of_file();
                }
                *moved = moved.saturating_add(length as u64);
                *last = Some(Instant::now());
                let full = buffer.len() == buffer.capacity();
                self.stream.write(self.wire(&mut compressor, &mut buffer))?;
                if is_all || full || buffer.capacity() == 0 {
                    break;
                }
                let room = self.room().await?;
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

    /// Reads what there is. A little in a large buffer means that there was no more, which need not be asked of the system again: its next event will say
    /// when there is. After more than that, more has often come while it was worked on, and asking is cheaper than waiting for the event.
    fn read(&self, buffer: &mut BytesMut) -> io::Result<Read> {
        let mut read = None;
        let outcome = self.socket.try_io(Interest::READABLE, || {
            let length = self.socket.try_read_buf(buffer)?;
            let is_all = length > 0 && buffer.len() < COPIED_BELOW.min(buffer.capacity());
            read = Some(Read { length, is_all });
            if is_all {
                Err(io::ErrorKind::WouldBlock.into())
            } else {
                Ok(())
            }
        });
        read.map_or_else(
            || {
                outcome.map(|()| Read {
                    length: 0,
                    is_all: false,
                })
            },
            Ok,
        )
    }

    /// What `raw` is in the tunnel; leaves the buffer to be used again where that is cheaper than giving it away.
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

    /// How many raw bytes may be read from the socket now. Notices meanwhile when the local connection is reset.
    pub(super) async fn room(&self) -> Result<usize, SpliceError> {
        let room = tokio::select! {
            biased;
            room = self.stream.write_room() => room?,
            error = self.socket_error() => return Err(error.into()),
        };
        Ok(raw_room(self.method, room))
    }

    /// Whether an end of file is none. The system tells of a reset once: when a write has heard of it first, a read finds an end of file. It has
    /// then forgotten the peer, as it also does when both ends have finished.
    fn was_reset(&self) -> bool {
        self.socket.peer_addr().is_err() && !self.is_shut_down.load(Ordering::Acquire)
    }

    async fn socket_error(&self) -> io::Error {
        match self
            .socket
            .ready(Interest::ERROR)
            .await
            .and_then(|_| self.socket.take_error())
        {
            Err(error) | Ok(Some(error)) => error,
            // Somebody else has read it already.
            Ok(None) => io::ErrorKind::ConnectionReset.into(),
        }
    }

    /// From the tunnel to the socket.
    async fn receive_all(&self, moved: &mut u64) -> Result<(), SpliceError> {
        let mut decompressor = Decompressor::new(self.method, self.stream.pool());
        let mut turn = Turn::default();
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
                self.stream.consume(delivered);
                turn.took(written).await;
                if batch.is_all {
                    break;
                }
            }
            // The beginning of a chunk counts too: if it kept its credit, chunks of many streams could use the window up between them, and none
            // would ever be complete.
            if pushed > 0 {
                self.stream.consume(pushed);
            }
        }
        decompressor.finish()?;
        self.is_shut_down.store(true, Ordering::Release);
        SockRef::from(&*self.socket)
            .shutdown(Shutdown::Write)
            .or_else(ignore_not_connected)?;
        Ok(())
    }

    /// The next piece from the tunnel. Notices meanwhile when the local connection is reset: nobody reads there after an end of file.
    async fn piece(&self) -> Result<Option<Bytes>, SpliceError> {
        tokio::select! {
            biased;
            piece = self.stream.read() => Ok(piece?),
            error = self.socket_error() => Err(error.into()),
        }
    }

    /// What has come and goes to the socket in one write: each of them costs a call and may wake the reader, as much as moving 16 KiB. Adds to
    /// `pushed` what it takes from the stream.
    fn gather(
        &self,
        decompressor: &mut Decompressor,
        pushed: &mut usize,
    ) -> Result<Batch, SpliceError> {
        let mut batch = Batch {
            raw: VecDeque::new(),
            wire_bytes: 0,
            is_all: false,
        };
        let (mut raw_bytes, mut decoded_bytes) = (0, 0);
        while raw_bytes < BATCH_ENOUGH && batch.raw.len() < BATCH_PIECES {
            let decodes = decompressor.decodes_next()?;
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
            // Whoever waits for the stream asks again, and is woken then: nothing is lost in asking without a task.
            match self.stream.read().now_or_never() {
                Some(Ok(Some(piece))) => {
                    *pushed = pushed.saturating_add(piece.len());
                    decompressor.push(piece);
                }
                Some(Err(error)) => return Err(error.into()),
                Some(Ok(None)) | None => {
                    batch.is_all = true;
                    break;
                }
            }
        }
        Ok(batch)
    }

    /// Writes everything, and notices meanwhile when the stream is reset. Returns how many bytes there were.
    async fn write_all(&self, mut pieces: VecDeque<Bytes>) -> Result<usize, SpliceError> {
        let mut written: usize = 0;
        let mut compactions = COMPACTIONS.iter();
        let mut looks = looks_for_the_peer(self.stream.tcp_keepalive()).peekable();
        while !pieces.is_empty() {
            match self.try_write(&pieces) {
                Ok(length) => {
                    looks = looks_for_the_peer(self.stream.tcp_keepalive()).peekable();
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
                    () = sleep_if(looks.peek()), if compactions.as_slice().is_empty() => {
                        looks.next();
                        self.look_for_the_peer().await?;
                    }
                },
                Err(error) => return Err(error.into()),
            }
        }
        Ok(written)
    }

    /// Keepalive does not probe while data waits, and the kernel goes on sending for a quarter of an hour.
    async fn look_for_the_peer(&self) -> Result<(), SpliceError> {
        let has_vanished = match Connection::of(&self.socket) {
            Some(connection) => connection.has_vanished().await,
            None => false,
        };
        if has_vanished {
            Err(io::Error::from(io::ErrorKind::TimedOut).into())
        } else {
            Ok(())
        }
    }

    /// The application has stalled: what waits for it is copied out of the messages that it came in.
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

/// How much was written since others could run.
#[derive(Default)]
struct Turn(usize);

impl Turn {
    /// So many bytes more were written: lets others run when it is their turn.
    async fn took(&mut self, bytes: usize) {
        self.0 = self.0.saturating_add(bytes);
        if self.0 >= TURN {
            self.0 = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// What a read brought.
struct Read {
    length: usize,
    /// There was no more.
    is_all: bool,
}

/// Bytes for the socket, and the credit that goes back when they are written.
struct Batch {
    raw: VecDeque<Bytes>,
    wire_bytes: usize,
    /// Nothing more had come when it was gathered.
    is_all: bool,
}

/// Drops the first `count` bytes.
fn drop_front(pieces: &mut VecDeque<Bytes>, mut count: usize) {
    while let Some(first) = pieces.front_mut() {
        if count < first.len() {
            return first.advance(count);
        }
        count = count.saturating_sub(first.len());
        pieces.pop_front();
    }
}

/// The peer has closed both directions already, and has everything: nothing is lost.
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
