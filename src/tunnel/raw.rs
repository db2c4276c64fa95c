//! The two directions of a stream for callers that have bytes in memory and no socket. The data is
//! compressed and decompressed as in a splice.
//!
//! Each direction is a separate object, so both can run concurrently.

use bytes::{Bytes, BytesMut};

use super::stream::{TunnelStream, TunnelStreamError};
use report_proto::{
    compress::{
        CompressError, CompressMethod, Compressor, Decompressor, MAX_CHUNK, max_wire_length,
    },
    mux::WRITE_MAX,
};

const _: () = assert!(WRITE_MAX <= MAX_CHUNK, "a piece is one chunk");

/// Bytes that a compressed chunk may take beyond its raw bytes.
const CHUNK_OVERHEAD: usize = max_wire_length(1) - 1;

/// Returns how many raw bytes to take so that the result fits into `room` and into one message: at
/// least one.
pub(super) fn raw_room(method: CompressMethod, room: usize) -> usize {
    let overhead = if method == CompressMethod::Null {
        0
    } else {
        CHUNK_OVERHEAD
    };
    room.min(WRITE_MAX).saturating_sub(overhead).max(1)
}

/// Compresses `raw`.
pub(super) fn compressed(compressor: &mut Compressor, raw: &[u8]) -> Bytes {
    let mut wire = BytesMut::with_capacity(max_wire_length(raw.len()));
    compressor.compress(raw, &mut wire);
    wire.freeze()
}

/// Why a direction failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RawError {
    /// The stream was reset, or the tunnel has ended.
    #[error(transparent)]
    Stream(#[from] TunnelStreamError),
    /// The peer's data cannot be decompressed.
    #[error("the stream is corrupt: {0}")]
    Corrupt(#[from] CompressError),
}

/// The sending direction.
pub struct RawSender<'s> {
    stream: &'s TunnelStream,
    compressor: Compressor,
    method: CompressMethod,
}

impl<'s> RawSender<'s> {
    /// Creates the sender of a stream on which nothing was sent yet.
    #[must_use]
    pub fn new(stream: &'s TunnelStream, method: CompressMethod) -> Self {
        RawSender {
            stream,
            compressor: Compressor::new(method, stream.pool()),
            method,
        }
    }

    /// Waits for room, then sends from the front of `content` as much as one chunk and the window
    /// take. Returns the number of bytes: at least one, unless `content` is empty.
    ///
    /// # Errors
    /// When the stream was reset or finished, or the tunnel has ended.
    ///
    /// # Cancel safety
    /// Nothing was sent when the future is dropped.
    pub async fn send(&mut self, content: &Bytes) -> Result<usize, RawError> {
        let room = self.stream.write_room().await?;
        let length = raw_room(self.method, room).min(content.len());
        let raw = content.slice(..length);
        let wire = if self.method == CompressMethod::Null {
            raw
        } else {
            compressed(&mut self.compressor, &raw)
        };
        self.stream.write(wire)?;
        Ok(length)
    }

    /// Sends all of `content`.
    ///
    /// # Errors
    /// When the stream was reset or finished, or the tunnel has ended.
    ///
    /// # Cancel safety
    /// A part may have been sent when the future is dropped.
    pub async fn send_all(&mut self, mut content: Bytes) -> Result<(), RawError> {
        while !content.is_empty() {
            let sent = self.send(&content).await?;
            let _ = content.split_to(sent);
        }
        Ok(())
    }
}

/// The receiving direction.
pub struct RawReceiver<'s> {
    stream: &'s TunnelStream,
    decompressor: Decompressor,
    /// Bytes of the stream for which the peer has no new credit yet.
    pushed: usize,
}

impl<'s> RawReceiver<'s> {
    /// Creates the receiver of a stream from which nothing was read yet.
    #[must_use]
    pub fn new(stream: &'s TunnelStream, method: CompressMethod) -> Self {
        RawReceiver {
            stream,
            decompressor: Decompressor::new(method, stream.pool()),
            pushed: 0,
        }
    }

    /// Creates the receiver of a stream whose first bytes were read. The peer has no new credit for
    /// them yet.
    #[must_use]
    pub fn after(stream: &'s TunnelStream, method: CompressMethod, early: Bytes) -> Self {
        let mut receiver = RawReceiver::new(stream, method);
        receiver.pushed = early.len();
        receiver.decompressor.push(early);
        receiver
    }

    /// Returns the next bytes and their credit; `None` after the peer has finished.
    ///
    /// # Errors
    /// When the stream was reset or is corrupt, or the tunnel has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn receive(&mut self) -> Result<Option<Bytes>, RawError> {
        loop {
            if let Some(chunk) = self.decompressor.next()? {
                let delivered = chunk.wire_bytes.min(self.pushed);
                self.pushed = self.pushed.saturating_sub(delivered);
                self.stream.consume(delivered);
                return Ok(Some(chunk.raw));
            }
            // The start of an incomplete chunk returns its credit too, as in a splice.
            let incomplete = std::mem::take(&mut self.pushed);
            if incomplete > 0 {
                self.stream.consume(incomplete);
            }
            let Some(piece) = self.stream.read().await? else {
                self.decompressor.finish()?;
                return Ok(None);
            };
            self.pushed = piece.len();
            self.decompressor.push(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::tests::TunnelTestbed;
    use report_proto::crypto::EncryptMethod;

    #[tokio::test]
    async fn raw_data_survives_every_compression() {
        for method in CompressMethod::ALL {
            let bed = TunnelTestbed::new();
            let (client, server) = bed.tunnels(EncryptMethod::Plain, method).await;
            let content: Bytes = (0..300_000_u32)
                .flat_map(|number| (number / 7).to_be_bytes())
                .collect();
            let stream = client.open(Bytes::from_static(b"details"));
            let sending = async {
                RawSender::new(&stream, method)
                    .send_all(content.clone())
                    .await
                    .unwrap();
                stream.finish();
                RawReceiver::new(&stream, method).receive().await
            };
            let receiving = async {
                let (stream, details) = server.accept().await.unwrap();
                assert_eq!(details, "details");
                let mut receiver = RawReceiver::new(&stream, method);
                let mut received = BytesMut::new();
                while let Some(raw) = receiver.receive().await.unwrap() {
                    received.extend_from_slice(&raw);
                }
                RawSender::new(&stream, method)
                    .send_all(Bytes::from_static(b"thanks"))
                    .await
                    .unwrap();
                stream.finish();
                stream.delivered().await.unwrap();
                received.freeze()
            };
            let (answer, received) = tokio::join!(sending, receiving);
            assert_eq!(answer, Ok(Some(Bytes::from_static(b"thanks"))), "{method}");
            assert!(received == content, "{method}");
            bed.end().await;
        }
    }
}
