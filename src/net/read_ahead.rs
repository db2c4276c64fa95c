//! Reads ahead for TLS. rustls reads 4 KiB at a time, with one system call each. On a busy link
//! this stream reads more at once; on an idle link it keeps no buffer.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::write_through::write_through;

/// The size of a read ahead, in bytes: four full TLS records.
const AHEAD: usize = 64 * 1024;

/// A stream that reads ahead.
pub struct ReadAhead<S> {
    stream: S,
    /// Bytes that were read ahead.
    buffer: BytesMut,
    /// Whether the previous read filled its room, so that more data is likely.
    is_busy: bool,
}

impl<S> ReadAhead<S> {
    /// Creates a stream with an empty buffer.
    pub fn new(stream: S) -> Self {
        ReadAhead {
            stream,
            buffer: BytesMut::new(),
            is_busy: false,
        }
    }
}

impl<S: AsyncRead + Unpin> ReadAhead<S> {
    fn poll_direct(
        &mut self,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_read(context, out))?;
        self.is_busy = out.remaining() == 0;
        Poll::Ready(Ok(()))
    }

    /// Fills the empty buffer.
    fn poll_fill(&mut self, context: &mut Context<'_>, asked: usize) -> Poll<io::Result<()>> {
        self.buffer.reserve(AHEAD);
        let polled = poll_read_buf(Pin::new(&mut self.stream), context, &mut self.buffer);
        if let Poll::Ready(Ok(count)) = polled {
            self.is_busy = count > asked;
        } else {
            self.buffer = BytesMut::new();
        }
        polled.map_ok(drop)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let asked = out.remaining();
        if self.buffer.is_empty() {
            if !self.is_busy || asked >= AHEAD {
                return self.poll_direct(context, out);
            }
            ready!(self.poll_fill(context, asked))?;
        }
        let ahead = self.buffer.len().min(asked);
        out.put_slice(self.buffer.get(..ahead).unwrap_or_default());
        self.buffer.advance(ahead);
        if self.buffer.is_empty() && !self.is_busy {
            self.buffer = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

write_through!(ReadAhead);

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn small_reads_are_combined_and_idle_stream_keeps_no_buffer() {
        let (mut peer, stream) = tokio::io::duplex(1 << 20);
        let mut reader = ReadAhead::new(stream);
        let mut asked = [0; 4096];
        peer.write_all(&[7; AHEAD + 2 * 4096]).await.unwrap();
        reader.read_exact(&mut asked).await.unwrap();
        assert!(
            reader.buffer.is_empty(),
            "the first read does not know that there is more"
        );
        reader.read_exact(&mut asked).await.unwrap();
        assert_eq!(reader.buffer.len(), AHEAD - 4096);
        reader.read_exact(&mut vec![0; AHEAD]).await.unwrap();
        assert!(reader.read(&mut asked).now_or_never().is_none());
        assert_eq!(reader.buffer.capacity(), 0);
        peer.write_all(&[7; 100]).await.unwrap();
        assert_eq!(reader.read(&mut asked).await.unwrap(), 100);
        assert_eq!(reader.buffer.capacity(), 0);
        drop(peer);
        assert_eq!(
            reader.read(&mut asked).await.unwrap(),
            0,
            "the end is reported after all bytes"
        );
    }

    proptest! {
        #[test]
        fn bytes_arrive_once_and_in_order(
            writes in proptest::collection::vec(1_usize..100_000, 1..8), asks in proptest::collection::vec(1_usize..80_000, 1..8),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let sent: Vec<u8> = (0..writes.iter().sum::<usize>()).map(|index| (index % 251) as u8).collect();
            let received = runtime.block_on(async {
                let (mut peer, stream) = tokio::io::duplex(1 << 16);
                let mut reader = ReadAhead::new(stream);
                let write = async {
                    let mut left = &sent[..];
                    for length in &writes {
                        peer.write_all(left.split_off(..*length).unwrap()).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                    drop(peer);
                };
                let read = async {
                    let mut received = Vec::new();
                    for asked in asks.iter().cycle() {
                        let mut piece = vec![0; *asked];
                        match reader.read(&mut piece).await.unwrap() {
                            0 => break,
                            length => received.extend_from_slice(&piece[..length]),
                        }
                    }
                    received
                };
                tokio::join!(write, read).1
            });
            prop_assert_eq!(received, sent);
        }
    }
}
