//! The direction from the tunnel to the socket.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::atomic::Ordering,
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures_util::FutureExt;

use super::ends::{DirectionResult, SpliceEnds, SpliceError};
use crate::{tcp_table::TcpConnection, tunnel::local_socket};
use report_proto::compress::{Decompressor, MAX_CHUNK};

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

impl SpliceEnds {
    /// Copies until the stream or the socket has ended.
    pub(super) async fn receive(&self) -> DirectionResult {
        let mut bytes = 0;
        let result = self.receive_all(&mut bytes).await;
        // After a failed write, `splice` resets the stream once the rest of the socket has been
        // read.
        match &result {
            Err(SpliceError::Socket(error)) => {
                if error.kind() == io::ErrorKind::ConnectionReset {
                    self.on_socket_error();
                }
            }
            result => self.on_direction_end(result),
        }
        DirectionResult { bytes, result }
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
        self.socket.shutdown_write().or_else(ignore_not_connected)?;
        Ok(())
    }

    /// Returns the next piece from the tunnel. Fails if the local connection is reset in the
    /// meantime: no task reads from the socket after an end of file.
    async fn piece(&self) -> Result<Option<Bytes>, SpliceError> {
        let received = self.take_received();
        if !received.is_empty() {
            return Ok(Some(received));
        }
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
                    self.stream.counters().received_bytes.add(length as u64);
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

    /// Checks for a vanished peer of a TCP connection. Keepalive does not probe while data waits,
    /// and the kernel retransmits for a quarter of an hour. (The kernel closes the unix sockets of
    /// a process that has ended.)
    async fn check_peer(&self) -> Result<(), SpliceError> {
        let has_vanished = match self.socket.tcp().and_then(TcpConnection::of) {
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
mod tests {
    use std::sync::Arc;

    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::tunnel::{raw::compressed, tests::TunnelTestbed};
    use report_proto::compress::{CompressMethod, Compressor};

    #[tokio::test]
    async fn a_splice_that_never_blocks_yields() {
        let mut budget = YieldBudget::default();
        for _ in 0..3 {
            budget
                .charge(YIELD_INTERVAL - 1)
                .now_or_never()
                .expect("does not yield yet");
            assert!(budget.charge(1).now_or_never().is_none());
        }
    }

    /// A peer sends chunks of 4 MiB in all that are small on the wire, for a service that does not
    /// read.
    #[tokio::test]
    async fn a_batch_for_a_stalled_reader_holds_at_most_one_chunk() {
        for method in [CompressMethod::S2, CompressMethod::Zstd] {
            let bed = TunnelTestbed::new();
            let (client, server) = bed
                .tunnels(report_proto::crypto::EncryptMethod::Plain, method)
                .await;
            let stream = client.open(Bytes::new());
            let mut compressor = Compressor::new(method, stream.pool());
            let mut sent = 0;
            // Large chunks, followed by small ones.
            for length in [MAX_CHUNK; 64].into_iter().chain([100; 64]) {
                let wire = compressed(&mut compressor, &vec![0; length]);
                sent += wire.len();
                stream.write(wire).expect("the first window takes it");
            }
            assert!(sent < 256 * 1024, "{method}: {sent}");
            let (accepted, _) = server.accept().await.expect("a stream");
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (service, connected) = tokio::join!(
                TcpStream::connect(listener.local_addr().unwrap()),
                listener.accept()
            );
            let ends = SpliceEnds::new(
                Arc::new(service.unwrap().into()),
                Bytes::new(),
                accepted,
                method,
            );
            let _connected = connected.unwrap();
            let mut decompressor = Decompressor::new(method, ends.stream.pool());
            let (mut pushed, mut raw, mut batches) = (0, 0, 0);
            while raw < 64 * (MAX_CHUNK + 100) {
                let Some(piece) = ends.piece().await.unwrap() else {
                    break;
                };
                pushed += piece.len();
                decompressor.push(piece);
                loop {
                    let batch = ends.gather(&mut decompressor, &mut pushed).unwrap();
                    let held: usize = batch.raw.iter().map(Bytes::len).sum();
                    assert!(held <= MAX_CHUNK, "{method}: {held}");
                    (raw, batches) = (raw + held, batches + 1);
                    if batch.is_drained {
                        break;
                    }
                }
            }
            assert!(
                batches < 64 + 16,
                "{method}: small chunks share a batch: {batches}"
            );
            drop((ends, stream));
            bed.end().await;
        }
    }
}
