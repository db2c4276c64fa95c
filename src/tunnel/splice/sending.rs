//! The direction from the socket into the tunnel.

use std::{io, time::Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::Interest;

use super::ends::{DirectionResult, FINAL_DATA_TIMEOUT, RESET_DELAY, SpliceEnds, SpliceError};
use crate::tunnel::raw::{compressed, raw_room};
use report_proto::compress::{CompressMethod, Compressor};

/// Reads smaller than this are copied out of the buffer, so that the next read can reuse it, in
/// bytes.
const COPIED_BELOW: usize = 8 * 1024;

impl SpliceEnds {
    /// Copies until the socket or the stream has ended.
    pub(super) async fn send(&self) -> DirectionResult {
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
                self.stream.counters().sent_bytes.add(length as u64);
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
    ///
    /// A unix socket is read until it returns `WouldBlock`: a read also ends behind data that came
    /// with file descriptors.
    fn read(&self, buffer: &mut BytesMut) -> io::Result<SocketRead> {
        let may_mark = self.socket.tcp().is_some();
        let mut read = None;
        let outcome = self.socket.try_io(Interest::READABLE, || {
            let length = self.socket.try_read_buf(buffer)?;
            let is_short = buffer.len() < COPIED_BELOW.min(buffer.capacity());
            let is_drained = may_mark && length > 0 && is_short;
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
    fn wire(&self, compressor: &mut Compressor, raw: &mut BytesMut) -> Bytes {
        if self.method != CompressMethod::Null {
            return compressed(compressor, raw);
        }
        if raw.len() < COPIED_BELOW {
            Bytes::copy_from_slice(raw)
        } else {
            raw.split().freeze()
        }
    }

    /// Sends the data that was read before the splice started.
    async fn send_prefix(&self, compressor: &mut Compressor) -> Result<(), SpliceError> {
        while !self.prefix().is_empty() {
            let room = self.room().await?;
            let mut raw = {
                let mut prefix = self.prefix();
                let length = room.min(prefix.len());
                BytesMut::from(prefix.split_to(length))
            };
            self.stream.write(self.wire(compressor, &mut raw))?;
        }
        Ok(())
    }

    /// Returns how many raw bytes to read from the socket now. Fails if the local connection is
    /// reset in the meantime.
    async fn room(&self) -> Result<usize, SpliceError> {
        let room = tokio::select! {
            biased;
            room = self.stream.write_room() => room?,
            error = self.socket_error() => return Err(error.into()),
        };
        Ok(raw_room(self.method, room))
    }
}

/// The result of a socket read.
struct SocketRead {
    length: usize,
    /// Nothing more was available.
    is_drained: bool,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::{net::local_stream::reset_on_close, tunnel::tests::TunnelTestbed};

    #[tokio::test]
    async fn a_reader_reports_a_reset_whose_error_a_write_has_taken() {
        let bed = TunnelTestbed::new();
        let (client, _server) = bed
            .tunnels(
                report_proto::crypto::EncryptMethod::Plain,
                CompressMethod::Null,
            )
            .await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (application, accepted) = tokio::join!(
            TcpStream::connect(listener.local_addr().unwrap()),
            listener.accept()
        );
        let ends = SpliceEnds::new(
            Arc::new(accepted.unwrap().0.into()),
            Bytes::new(),
            client.open(Bytes::new()),
            CompressMethod::Null,
        );
        let application = application.unwrap();
        reset_on_close(&application);
        drop(application);
        // As a failed write would: the kernel reports a reset once.
        ends.socket_error().await;
        let sent = ends.send().await;
        assert!(
            matches!(sent.result, Err(SpliceError::Socket(_))),
            "{:?}",
            sent.result
        );
        drop(ends);
        bed.end().await;
    }
}
