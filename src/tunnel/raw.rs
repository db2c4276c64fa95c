//! The two directions of a stream for who has the bytes in memory and no socket: compressed and decompressed as in a splice. Each direction has
//! an owner of its own, so that both can run at a time.

use bytes::{Bytes, BytesMut};

use super::stream::{TunnelStream, TunnelStreamError};
use crate::{
    compress::{
        CompressError, CompressMethod, Compressor, Decompressor, MAX_CHUNK, max_wire_length,
    },
    mux::PIECE_MAX,
};

const _: () = assert!(PIECE_MAX <= MAX_CHUNK, "a piece is one chunk");

/// What a compressed chunk may take beyond its raw bytes, in bytes.
const CHUNK_OVERHEAD: usize = max_wire_length(1) - 1;

/// How many raw bytes may be taken, so that what becomes of them fits into this room of the stream, and into a message: at least one.
pub(super) fn raw_room(method: CompressMethod, room: usize) -> usize {
    let overhead = if method == CompressMethod::Null {
        0
    } else {
        CHUNK_OVERHEAD
    };
    room.min(PIECE_MAX).saturating_sub(overhead).max(1)
}

/// What a compressor makes of `raw`.
pub(super) fn compressed(compressor: &mut Compressor, raw: &[u8]) -> Bytes {
    let mut wire = BytesMut::with_capacity(max_wire_length(raw.len()));
    compressor.compress(raw, &mut wire);
    wire.freeze()
}

/// Why a direction cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RawError {
    /// The stream was reset, or the tunnel is over.
    #[error(transparent)]
    Stream(#[from] TunnelStreamError),
    /// What the peer sent cannot be decompressed.
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
    /// That of a stream on which nothing was sent.
    #[must_use]
    pub fn new(stream: &'s TunnelStream, method: CompressMethod) -> Self {
        RawSender {
            stream,
            compressor: Compressor::new(method, stream.pool()),
            method,
        }
    }

    /// Waits until something can be sent, sends as much from the front of `content` as one chunk and the window take, and says how many bytes
    /// that were; at least one, unless there are none.
    ///
    /// # Errors
    /// When the stream was reset or finished, or the tunnel is over.
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
    /// When the stream was reset or finished, or the tunnel is over.
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
    /// That of a stream from which nothing was read.
    #[must_use]
    pub fn new(stream: &'s TunnelStream, method: CompressMethod) -> Self {
        RawReceiver {
            stream,
            decompressor: Decompressor::new(method, stream.pool()),
            pushed: 0,
        }
    }

    /// The next bytes; they count as delivered. `None` when the peer finished.
    ///
    /// # Errors
    /// When the stream was reset or is corrupt, or the tunnel is over.
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
            // The beginning of a chunk counts too, as in a splice.
            let begun = std::mem::take(&mut self.pushed);
            if begun > 0 {
                self.stream.consume(begun);
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
    use crate::{crypto::EncryptMethod, tunnel::tests::Bed};

    #[tokio::test]
    async fn what_is_sent_raw_arrives_raw_with_every_compression() {
        for method in CompressMethod::ALL {
            let bed = Bed::new();
            let (visitor, agent) = bed.tunnels(EncryptMethod::Plain, method).await;
            let content: Bytes = (0..300_000_u32)
                .flat_map(|number| (number / 7).to_be_bytes())
                .collect();
            let stream = visitor.open(Bytes::from_static(b"details"));
            let sending = async {
                RawSender::new(&stream, method)
                    .send_all(content.clone())
                    .await
                    .unwrap();
                stream.finish();
                RawReceiver::new(&stream, method).receive().await
            };
            let receiving = async {
                let (stream, details) = agent.accept().await.unwrap();
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
