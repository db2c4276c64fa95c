//! A connection to an application or a service on this machine: a TCP connection, or a unix socket
//! where the system has them.
//!
//! A unix socket has no reset (RST). Its peer reads `ECONNRESET` only if this end closes while
//! data of the peer is unread (on Linux), and an end of file otherwise. An incomplete stream can therefore
//! look complete to an application at a unix socket, unless its protocol states lengths.

use std::{
    io::{self, IoSlice},
    net::{Shutdown, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BufMut;
use socket2::SockRef;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready},
    net::TcpStream,
};

/// A connection to an application or a service on this machine.
#[derive(Debug)]
pub enum LocalStream {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A connection over a unix socket.
    #[cfg(unix)]
    Unix(UnixStream),
}

/// Evaluates an expression with the stream of either kind.
macro_rules! with_stream {
    ($socket:expr, $stream:ident => $result:expr) => {
        match $socket {
            LocalStream::Tcp($stream) => $result,
            #[cfg(unix)]
            LocalStream::Unix($stream) => $result,
        }
    };
}

impl LocalStream {
    /// Returns the TCP connection, or `None` for a unix socket.
    #[must_use]
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            LocalStream::Tcp(stream) => Some(stream),
            #[cfg(unix)]
            LocalStream::Unix(_) => None,
        }
    }

    /// Returns the address of this end, or `None` for a unix socket or a closed connection.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.tcp()?.local_addr().ok()
    }

    /// Waits for one of the requested states.
    ///
    /// # Errors
    /// If the runtime is shutting down.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        with_stream!(self, stream => stream.ready(interest).await)
    }

    /// Waits until a read may succeed.
    ///
    /// # Errors
    /// If the runtime is shutting down.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn readable(&self) -> io::Result<()> {
        with_stream!(self, stream => stream.readable().await)
    }

    /// Waits until a write may succeed.
    ///
    /// # Errors
    /// If the runtime is shutting down.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn writable(&self) -> io::Result<()> {
        with_stream!(self, stream => stream.writable().await)
    }

    /// Calls `operation` if the socket is ready. `WouldBlock` from it means that the socket is not
    /// ready.
    ///
    /// # Errors
    /// `WouldBlock` if the socket is not ready, otherwise the error of `operation`.
    pub fn try_io<R>(
        &self,
        interest: Interest,
        operation: impl FnOnce() -> io::Result<R>,
    ) -> io::Result<R> {
        with_stream!(self, stream => stream.try_io(interest, operation))
    }

    /// Reads available data into the free room of `buffer`.
    ///
    /// # Errors
    /// `WouldBlock` if there is none, otherwise the error of the connection.
    pub fn try_read_buf<B: BufMut>(&self, buffer: &mut B) -> io::Result<usize> {
        with_stream!(self, stream => stream.try_read_buf(buffer))
    }

    /// Writes as much as fits into the buffer of the kernel.
    ///
    /// # Errors
    /// `WouldBlock` if it is full, otherwise the error of the connection.
    pub fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        with_stream!(self, stream => stream.try_write(data))
    }

    /// Writes as much of the slices as fits into the buffer of the kernel.
    ///
    /// # Errors
    /// `WouldBlock` if it is full, otherwise the error of the connection.
    pub fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        with_stream!(self, stream => stream.try_write_vectored(slices))
    }

    /// Takes the error of the connection. The kernel reports it once.
    ///
    /// # Errors
    /// If the system cannot be asked.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        with_stream!(self, stream => stream.take_error())
    }

    /// Ends the sending direction. The peer reads an end of file.
    ///
    /// # Errors
    /// If the connection has failed.
    pub fn shutdown_write(&self) -> io::Result<()> {
        with_stream!(self, stream => SockRef::from(stream).shutdown(Shutdown::Write))
    }

    /// Makes closing the connection send a reset (RST) in place of an end of file. Has no effect
    /// on a unix socket.
    pub fn reset_on_close(&self) {
        if let Some(stream) = self.tcp() {
            reset_on_close(stream);
        }
    }

    /// Makes closing the connection send an end of file, as it does by default.
    pub fn end_on_close(&self) {
        if let Some(stream) = self.tcp() {
            let _ = SockRef::from(stream).set_linger(None);
        }
    }

    /// Returns whether the kernel has forgotten the peer of a TCP connection, as it does after a
    /// reset, and after both ends have finished.
    #[must_use]
    pub fn has_forgotten_peer(&self) -> bool {
        self.tcp().is_some_and(|stream| stream.peer_addr().is_err())
    }

    /// Returns whether the peer of a unix socket has closed it in both directions, or `None` for a
    /// TCP connection, which does not tell. Nothing may have been written before.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn is_closed_by_peer(&self) -> Option<bool> {
        match self {
            LocalStream::Tcp(_) => None,
            #[cfg(unix)]
            LocalStream::Unix(stream) => {
                // An empty send buffer is writable at once.
                let ready = stream.ready(Interest::WRITABLE).await;
                Some(ready.is_ok_and(Ready::is_write_closed))
            }
        }
    }
}

/// Makes closing `socket` send a reset (RST) in place of an end of file.
pub fn reset_on_close(socket: &TcpStream) {
    // Fails only if the connection is gone already.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

impl From<TcpStream> for LocalStream {
    fn from(stream: TcpStream) -> Self {
        LocalStream::Tcp(stream)
    }
}

#[cfg(unix)]
impl From<UnixStream> for LocalStream {
    fn from(stream: UnixStream) -> Self {
        LocalStream::Unix(stream)
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for LocalStream {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        with_stream!(self, stream => std::os::fd::AsFd::as_fd(stream))
    }
}

impl AsyncRead for LocalStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        with_stream!(self.get_mut(), stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl AsyncWrite for LocalStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        with_stream!(self.get_mut(), stream => Pin::new(stream).poll_write(context, data))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_stream!(self.get_mut(), stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_stream!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(context))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn pair() -> (LocalStream, UnixStream) {
        let (one, other) = UnixStream::pair().expect("a pair");
        (one.into(), other)
    }

    #[tokio::test]
    async fn a_unix_socket_moves_bytes_and_ends_one_direction() {
        let (mut local, mut peer) = pair();
        local.write_all(b"there").await.expect("written");
        local.shutdown_write().expect("shut down");
        let mut received = Vec::new();
        peer.read_to_end(&mut received).await.expect("everything");
        assert_eq!(received, b"there");
        peer.write_all(b"and back").await.expect("still open");
        drop(peer);
        let mut received = Vec::new();
        local.read_to_end(&mut received).await.expect("everything");
        assert_eq!(received, b"and back");
        assert_eq!(
            (local.local_addr(), local.has_forgotten_peer()),
            (None, false)
        );
    }

    #[tokio::test]
    async fn a_closed_unix_peer_is_distinguished_from_a_half_closed_one() {
        let (local, mut peer) = pair();
        assert_eq!(local.is_closed_by_peer().await, Some(false));
        peer.write_all(b"unread").await.expect("written");
        peer.shutdown().await.expect("shut down");
        // The event of the shutdown has been delivered when an end of file is readable.
        while !local
            .ready(Interest::READABLE)
            .await
            .expect("ready")
            .is_read_closed()
        {
            tokio::task::yield_now().await;
        }
        assert_eq!(local.is_closed_by_peer().await, Some(false), "half-closed");
        drop(peer);
        let closed = async {
            while local.is_closed_by_peer().await == Some(false) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), closed)
            .await
            .expect("the close is detected");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_unix_peer_that_closes_with_unread_data_reports_a_reset() {
        let (mut local, peer) = pair();
        local.write_all(b"unread").await.expect("written");
        drop(peer);
        let error = local.read(&mut [0]).await.expect_err("a reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
