//! A WebSocket as a pair of lanes for whole messages, over whatever carries bytes: TCP, TLS, an upgraded request, memory.
//!
//! Knows messages; not what is in them.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        error::{CapacityError, ProtocolError},
        protocol::{Role, WebSocketConfig},
    },
};

use super::hearing::Hearing;
use crate::frame::MAX_MESSAGE;

/// Anything that carries bytes both ways.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for T {}

/// Which end of the WebSocket this is: the role that dialled masks what it sends, the master does not (RFC 6455, 5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The role that dialled.
    Dialled,
    /// The master that accepted.
    Accepted,
}

/// How much a socket reads at a time, and so what it keeps: tungstenite clears this much before each read, and its buffers never shrink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// 4 KiB: ten thousand links at rest are to cost a master little.
    Rest,
    /// 32 KiB: fewer reads for what a busy link receives (measured).
    Busy,
}

impl Pace {
    const fn read_bytes(self) -> usize {
        match self {
            Pace::Rest => 4 * 1024,
            Pace::Busy => 32 * 1024,
        }
    }
}

/// Bytes received since the last [`MessageSocket::rest`] that make a socket busy.
const BUSY_FROM: u64 = 256 * 1024;

/// Bytes received since the last [`MessageSocket::rest`], up to which a socket is at rest: heartbeats, and a little more.
const REST_UP_TO: u64 = 4 * 1024;

/// Small messages are written to the stream together once there are this many bytes, or at a flush. Larger ones go at once.
const WRITE_BATCH: usize = 32 * 1024;

/// Bytes that may wait for the stream: a batch, a whole message, and the pongs that a peer provokes without reading them.
const MAX_UNWRITTEN: usize = WRITE_BATCH + 2 * MAX_MESSAGE;

/// Why a socket is no use any more.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The peer sent a text message.
    #[error("a text message, where all are binary")]
    Text,
    /// The peer sent a message larger than `MAX_MESSAGE`.
    #[error("a message of {size} bytes, more than the {MAX_MESSAGE} allowed")]
    TooLong {
        /// What it said that it would send, or what had come by then.
        size: usize,
    },
    /// The peer does not follow RFC 6455.
    #[error("not the WebSocket protocol: {0}")]
    NotWebSocket(String),
    /// The stream ended without the WebSocket's closing handshake: cut off, or killed.
    #[error("the connection was cut")]
    Cut,
    /// The stream failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The socket was used after it had closed.
    #[error("the WebSocket is closed")]
    Closed,
}

impl SocketError {
    /// Whether the peer broke the protocol, and is to be told so before the link ends.
    #[must_use]
    pub fn is_violation(&self) -> bool {
        matches!(self, SocketError::Text | SocketError::TooLong { .. } | SocketError::NotWebSocket(_))
    }
}

impl From<tungstenite::Error> for SocketError {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::Io(error) => SocketError::Io(error),
            tungstenite::Error::Capacity(CapacityError::MessageTooLong { size, .. }) => SocketError::TooLong { size },
            tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => SocketError::Cut,
            tungstenite::Error::Utf8(_) => SocketError::Text,
            tungstenite::Error::ConnectionClosed
            | tungstenite::Error::AlreadyClosed
            | tungstenite::Error::Protocol(ProtocolError::SendAfterClosing) => SocketError::Closed,
            other => SocketError::NotWebSocket(other.to_string()),
        }
    }
}

/// What has come from the far end. WebSocket pings and pongs do not count: a proxy may have sent them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Something of a message, be it a part.
    pub any: bool,
    /// Something of a message that is longer than PING and PONG are.
    pub long: bool,
}

/// A WebSocket whose messages are [`Bytes`].
pub struct MessageSocket {
    /// In a box, so that what holds the socket, and the future that drives it, stay small.
    inner: Box<WebSocketStream<Counted>>,
    end: End,
    pace: Pace,
    /// Whether a message was so long that a buffer has grown for it.
    grown: bool,
    /// Bytes that the frames delivered so far took on the stream, if each was written in the shortest way. When it equals what was read,
    /// every frame was, and nothing is left in tungstenite's buffer.
    delivered: u64,
    /// Whether something may not have been handed to the stream yet.
    unflushed: bool,
    /// What had been heard when [`MessageSocket::take_heard`] was asked last: bytes of messages, and of long ones.
    heard: (u64, u64),
    /// Bytes read at the last [`MessageSocket::rest`].
    rested: u64,
}

impl fmt::Debug for MessageSocket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("MessageSocket").field("end", &self.end).field("pace", &self.pace).finish_non_exhaustive()
    }
}

impl MessageSocket {
    /// A socket over a stream on which the upgrade has been agreed; `read` is what came after it already.
    #[must_use]
    pub fn new(stream: impl ByteStream, read: Bytes, end: End) -> Self {
        let mut hearing = Hearing::default();
        hearing.hear(&read);
        let stream = Counted { stream: Box::new(stream), read: read.len() as u64, hearing };
        let inner = Box::new(websocket(stream, &read, end, Pace::Rest));
        MessageSocket { inner, end, pace: Pace::Rest, grown: false, delivered: 0, unflushed: false, heard: (0, 0), rested: 0 }
    }

    /// The next binary message; `None` when the peer has closed the WebSocket in order.
    pub fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, SocketError>>> {
        loop {
            return Poll::Ready(match ready!(Pin::new(&mut *self.inner).poll_next(context)) {
                None | Some(Ok(Message::Close(_))) => None,
                Some(Ok(Message::Binary(message))) => {
                    self.delivered += self.bytes_on_stream(message.len());
                    self.grown |= message.len() > Pace::Rest.read_bytes();
                    if self.pace == Pace::Rest && self.inner.get_ref().read - self.rested >= BUSY_FROM {
                        self.change(Pace::Busy);
                    }
                    Some(Ok(message))
                }
                Some(Ok(Message::Text(_))) => Some(Err(SocketError::Text)),
                Some(Ok(Message::Ping(payload) | Message::Pong(payload))) => {
                    self.delivered += self.bytes_on_stream(payload.len());
                    // A pong of our own may be under way.
                    self.unflushed = true;
                    continue;
                }
                Some(Ok(Message::Frame(_))) => continue,
                Some(Err(error)) => Some(Err(error.into())),
            });
        }
    }

    /// Lets go of buffers that a busy time has left behind, if little has come since this was last called. To be called now and then; the
    /// task must poll the socket again after it.
    pub fn rest(&mut self) {
        let read = self.inner.get_ref().read;
        if read - std::mem::replace(&mut self.rested, read) <= REST_UP_TO {
            self.change(Pace::Rest);
        }
    }

    /// Begins again with fresh buffers of another size, unless something is in the present ones.
    fn change(&mut self, pace: Pace) {
        let needless = pace == self.pace && !(self.grown && pace == Pace::Rest);
        if needless || self.unflushed || self.delivered != self.inner.get_ref().read {
            return;
        }
        self.pace = pace;
        self.grown = false;
        let counted = self.inner.get_mut();
        let stream = Counted {
            stream: std::mem::replace(&mut counted.stream, Box::new(tokio::io::empty())),
            read: counted.read,
            hearing: std::mem::take(&mut counted.hearing),
        };
        *self.inner = websocket(stream, &[], self.end, pace);
    }

    /// What a frame takes on the stream at least: header, mask, payload.
    fn bytes_on_stream(&self, payload: usize) -> u64 {
        let length = match payload {
            0..=125 => 2,
            126..=65_535 => 4,
            _ => 10,
        };
        let mask = if self.end == End::Accepted { 4 } else { 0 };
        payload as u64 + length + mask
    }

    /// Whether a message can be given to [`MessageSocket::start_send`]: what was given before has left, but for a batch.
    ///
    /// # Errors
    /// When the stream failed.
    pub fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        Pin::new(&mut *self.inner).poll_ready(context).map_err(SocketError::from)
    }

    /// Takes a message to be sent, at the latest with the next flush. Only after [`MessageSocket::poll_ready`] said so.
    ///
    /// # Errors
    /// When the stream failed, or the WebSocket is closing.
    pub fn start_send(&mut self, message: Bytes) -> Result<(), SocketError> {
        self.unflushed = true;
        self.grown |= message.len() > Pace::Rest.read_bytes();
        Pin::new(&mut *self.inner).start_send(Message::Binary(message)).map_err(SocketError::from)
    }

    /// Whether everything that was given has been handed to the stream.
    ///
    /// # Errors
    /// When the stream failed.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        let flushed = Pin::new(&mut *self.inner).poll_flush(context).map_err(SocketError::from);
        self.unflushed &= !matches!(flushed, Poll::Ready(Ok(())));
        flushed
    }

    /// Sends the closing frame and flushes.
    ///
    /// # Errors
    /// When the stream failed.
    pub fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        self.unflushed = true;
        Pin::new(&mut *self.inner).poll_close(context).map_err(SocketError::from)
    }

    /// What has come from the far end since this was last asked.
    pub fn take_heard(&mut self) -> Heard {
        let Hearing { messages, long, .. } = self.inner.get_ref().hearing;
        let before = std::mem::replace(&mut self.heard, (messages, long));
        Heard { any: messages != before.0, long: long != before.1 }
    }

    /// The next binary message; `None` when the peer has closed the WebSocket in order.
    ///
    /// # Errors
    /// When the peer broke the protocol or the stream failed; the socket is no use after it.
    ///
    /// # Cancel safety
    /// Safe: a message that has come in part stays.
    pub async fn receive(&mut self) -> Result<Option<Bytes>, SocketError> {
        std::future::poll_fn(|context| self.poll_receive(context)).await.transpose()
    }

    /// Takes a message to be sent with the next flush, when there is room.
    ///
    /// # Errors
    /// When the stream failed.
    ///
    /// # Cancel safety
    /// The message is either taken whole or not at all.
    pub async fn feed(&mut self, message: Bytes) -> Result<(), SocketError> {
        std::future::poll_fn(|context| self.poll_ready(context)).await?;
        self.start_send(message)
    }

    /// Hands everything that was fed to the stream.
    ///
    /// # Errors
    /// When the stream failed.
    ///
    /// # Cancel safety
    /// Safe: what has not left stays.
    pub async fn flush(&mut self) -> Result<(), SocketError> {
        std::future::poll_fn(|context| self.poll_flush(context)).await
    }

    /// Closes in order: sends what is left and the closing frame, then reads until the peer has closed too, so that what was sent last is
    /// not lost to a reset. What comes meanwhile is discarded. All of it within `deadline`.
    ///
    /// # Cancel safety
    /// Dropping the future cuts the connection with the socket.
    pub async fn close(mut self, deadline: Duration) {
        let closing = async {
            std::future::poll_fn(|context| self.poll_close(context)).await?;
            while self.receive().await?.is_some() {}
            Ok::<(), SocketError>(())
        };
        // Nobody is left who could do anything about a failure here.
        let _ = tokio::time::timeout(deadline, closing).await;
    }
}

fn websocket(stream: Counted, read: &[u8], end: End, pace: Pace) -> WebSocketStream<Counted> {
    let role = match end {
        End::Dialled => Role::Client,
        End::Accepted => Role::Server,
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(pace.read_bytes())
        .write_buffer_size(WRITE_BATCH)
        .max_write_buffer_size(MAX_UNWRITTEN)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    // The capacity that the buffer starts with is the one that it renews itself with.
    let mut buffer = Vec::with_capacity(pace.read_bytes().max(read.len()));
    buffer.extend_from_slice(read);
    let websocket = WebSocketStream::from_partially_read(stream, buffer, role, Some(config)).now_or_never();
    #[expect(clippy::expect_used, reason = "the future takes the context of its first poll and is ready with it")]
    websocket.expect("nothing is awaited")
}

/// A stream that counts what was read from it, and listens.
struct Counted {
    stream: Box<dyn ByteStream>,
    read: u64,
    hearing: Hearing,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        let read = buffer.filled().get(before..).unwrap_or_default();
        self.read += read.len() as u64;
        self.hearing.hear(read);
        result
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
