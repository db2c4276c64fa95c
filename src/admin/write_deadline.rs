//! Ends a connection whose peer does not read. Below TLS, so that every byte that the system takes
//! counts as progress, and none that TLS only keeps.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// How long a write waits for a peer that reads nothing. A peer on a bad path reads something in
/// this time.
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// A stream whose writes fail after [`WRITE_TIMEOUT`] without progress.
pub(super) struct WriteDeadline<S> {
    stream: S,
    /// The end of the time without progress. `None` while no write waits.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteDeadline<S> {
    /// Creates a stream without a waiting write.
    pub(super) fn new(stream: S) -> Self {
        WriteDeadline {
            stream,
            deadline: None,
        }
    }

    /// Returns the result of a write, or an error if it has waited for too long.
    fn limit<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.deadline = None;
            return polled;
        }
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        match deadline.as_mut().poll(context) {
            Poll::Ready(()) => {
                let text = "the peer has read nothing for a while";
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteDeadline<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteDeadline<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.limit(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.limit(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.limit(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.limit(context, polled)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::Instant,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_nothing_ends_the_write() {
        let (near, _far) = duplex(16);
        let mut near = WriteDeadline::new(near);
        let start = Instant::now();
        let error = near.write_all(&[0; 17]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let waited = start.elapsed();
        assert!(waited >= WRITE_TIMEOUT, "{waited:?}");
        assert!(waited < 2 * WRITE_TIMEOUT, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_peer_is_waited_for() {
        let (near, mut far) = duplex(1);
        let mut near = WriteDeadline::new(near);
        let read = async {
            let mut bytes = Vec::new();
            while bytes.len() < 10 {
                sleep(WRITE_TIMEOUT - Duration::from_secs(1)).await;
                bytes.push(far.read_u8().await.unwrap());
            }
            bytes
        };
        let (written, read) = tokio::join!(near.write_all(&[7; 10]), read);
        written.unwrap();
        assert_eq!(read, [7; 10]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_stream_has_no_deadline() {
        let (near, mut far) = duplex(16);
        let mut near = WriteDeadline::new(near);
        near.write_all(&[1]).await.unwrap();
        sleep(10 * WRITE_TIMEOUT).await;
        near.write_all(&[2]).await.unwrap();
        let mut bytes = [0; 2];
        far.read_exact(&mut bytes).await.unwrap();
        assert_eq!(bytes, [1, 2]);
    }
}
