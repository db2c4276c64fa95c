//! A WebSocket as a pair of lanes for whole messages, over whatever carries bytes: TCP, TLS, an upgraded request, memory.
//!
//! Knows messages; not what is in them.

mod frame;
mod inbound;
mod outbound;
#[cfg(test)]
mod tests;

use std::{
    fmt, io,
    ops::Deref,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};

use self::{
    frame::{MAX_CONTROL_PAYLOAD, Opcode},
    inbound::{Inbound, Incoming},
    outbound::Outbound,
};
use crate::tcp_table::Connection;

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

/// Bytes received since the last [`MessageSocket::rest`], up to which a socket is at rest: heartbeats, and a little more.
const REST_UP_TO: u64 = 4 * 1024;

/// Messages are written once this many bytes wait, and at a flush: two full ones, since each write may wake the peer, and no more, so that what leaves
/// next is decided late.
const WRITE_BATCH: usize = 128 * 1024;

/// Why a socket is no use any more.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The peer sent a text message.
    #[error("a text message, where all are binary")]
    Text,
    /// The peer sent a message larger than `MAX_MESSAGE`, or than a first message may be.
    #[error("a message of {size} bytes, more than the {longest} allowed")]
    TooLong {
        /// What it said that it would send, or what had come by then.
        size: usize,
        /// What was allowed.
        longest: usize,
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
        matches!(
            self,
            SocketError::Text | SocketError::TooLong { .. } | SocketError::NotWebSocket(_)
        )
    }
}

/// What has come from the far end. WebSocket pings and pongs do not count: a proxy may have sent them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    /// Something of a message, be it a part.
    pub any: bool,
    /// Something of a message that is longer than PING and PONG are.
    pub long: bool,
}

/// The payload of a message that is sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Body {
    /// Made here: it can be masked where it is.
    Own(BytesMut),
    /// Passed on: others may hold it too.
    Shared(Bytes),
}

impl Body {
    fn into_own(self) -> BytesMut {
        match self {
            Body::Own(bytes) => bytes,
            Body::Shared(bytes) => BytesMut::from(bytes),
        }
    }

    /// The bytes, as they are now.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        match self {
            Body::Own(bytes) => bytes.freeze(),
            Body::Shared(bytes) => bytes,
        }
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Body::Own(bytes) => bytes,
            Body::Shared(bytes) => bytes,
        }
    }
}

/// A WebSocket after its upgrade.
pub struct MessageSocket {
    stream: Box<dyn ByteStream>,
    /// In boxes, so that what holds the socket, and the future that drives it, stay small.
    inbound: Box<Inbound>,
    outbound: Box<Outbound>,
    /// The last ping, which is to be answered; earlier ones need no answer (RFC 6455, 5.5.3), so that a flood of them takes no memory.
    pong: Option<BytesMut>,
    closing: Closing,
    /// Bytes received at the last [`MessageSocket::rest`].
    rested: u64,
    /// The TCP connection below it, where that is known.
    connection: Option<Box<Connection>>,
}

/// How far the closing handshake has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Closing {
    /// A close frame was given to be sent: nothing may follow it.
    is_sent: bool,
    is_received: bool,
}

impl fmt::Debug for MessageSocket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MessageSocket {
            inbound,
            outbound,
            closing,
            ..
        } = self;
        let (received, waiting) = (inbound.received(), outbound.waiting_bytes());
        formatter
            .debug_struct("MessageSocket")
            .field("received", &received)
            .field("waiting", &waiting)
            .field("closing", closing)
            .finish_non_exhaustive()
    }
}

impl MessageSocket {
    /// A socket over a stream on which the upgrade has been agreed; `read` is what came after it already.
    #[must_use]
    pub fn new(stream: impl ByteStream, read: Bytes, end: End) -> Self {
        MessageSocket {
            stream: Box::new(stream),
            inbound: Box::new(Inbound::new(end, &read)),
            outbound: Box::new(Outbound::new(end)),
            pong: None,
            closing: Closing::default(),
            rested: 0,
            connection: None,
        }
    }

    /// The same socket, over this TCP connection.
    #[must_use]
    pub fn over(self, connection: Option<Connection>) -> Self {
        MessageSocket {
            connection: connection.map(Box::new),
            ..self
        }
    }

    /// The TCP connection below it, where that is known.
    #[must_use]
    pub fn connection(&self) -> Option<Connection> {
        self.connection.as_deref().copied()
    }

    /// The next binary message; `None` when the peer has closed the WebSocket in order.
    pub fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<BytesMut, SocketError>>> {
        while !self.closing.is_received {
            match ready!(self.inbound.poll_next(&mut *self.stream, context)) {
                Ok(Incoming::Message(message)) => return Poll::Ready(Some(Ok(message))),
                // Sent with the next flush, which whoever reads has to poll as well.
                Ok(Incoming::Ping(payload)) => self.pong = Some(payload),
                Ok(Incoming::Close(reason)) => {
                    self.closing.is_received = true;
                    // The status comes back as it came (RFC 6455, 5.5.1).
                    self.send_close(reason.get(..2).unwrap_or_default());
                }
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        Poll::Ready(None)
    }

    /// Lets go of buffers that a busy time has left behind, if little has come since this was last called. To be called now and then.
    pub fn rest(&mut self) {
        let received = self.inbound.received();
        if received - std::mem::replace(&mut self.rested, received) <= REST_UP_TO {
            self.inbound.rest();
            self.outbound.rest();
        }
    }

    /// Whether a message can be given to [`MessageSocket::start_send`]: what was given before has left, but for a batch.
    ///
    /// # Errors
    /// When the stream failed.
    pub fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        self.outbound
            .poll_write(&mut *self.stream, context, WRITE_BATCH - 1)
            .map_err(SocketError::from)
    }

    /// Takes a message of `prefix` and `body` to be sent, at the latest with the next flush. Only after [`MessageSocket::poll_ready`] said so.
    ///
    /// # Errors
    /// When the WebSocket is closing.
    pub fn start_send(&mut self, prefix: &[u8], body: Body) -> Result<(), SocketError> {
        if self.closing.is_sent {
            return Err(SocketError::Closed);
        }
        self.outbound.message(prefix, body);
        Ok(())
    }

    /// Whether everything that was given has been handed to the stream.
    ///
    /// # Errors
    /// When the stream failed.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        if let Some(payload) = self.pong.take_if(|_| !self.closing.is_sent) {
            self.outbound.control(
                Opcode::Pong,
                payload
                    .get(..payload.len().min(MAX_CONTROL_PAYLOAD))
                    .unwrap_or_default(),
            );
        }
        ready!(self.outbound.poll_write(&mut *self.stream, context, 0))?;
        Pin::new(&mut *self.stream)
            .poll_flush(context)
            .map_err(SocketError::from)
    }

    /// Sends the closing frame and flushes.
    ///
    /// # Errors
    /// When the stream failed.
    pub fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        self.send_close(&[]);
        self.poll_flush(context)
    }

    fn send_close(&mut self, status: &[u8]) {
        if !std::mem::replace(&mut self.closing.is_sent, true) {
            self.outbound.control(Opcode::Close, status);
        }
    }

    /// Which end this is.
    pub(super) fn end(&self) -> End {
        self.inbound.end()
    }

    /// From now on no message may be longer than this; never more than `MAX_MESSAGE`.
    pub(super) fn limit_messages(&mut self, longest: usize) {
        self.inbound.limit(longest);
    }

    /// Bytes of a message of which a part has come.
    pub(super) fn unfinished_bytes(&self) -> usize {
        self.inbound.unfinished_bytes()
    }

    /// From now on the peer may make the buffers large: it is not a stranger.
    pub(super) fn read_largely(&mut self) {
        self.inbound.read_largely();
    }

    /// Keeps nothing of messages from now on, also of the one that has come in part.
    pub(super) fn discard(&mut self) {
        self.inbound.discard();
    }

    /// Messages received in all.
    pub(super) fn messages(&self) -> u64 {
        self.inbound.messages()
    }

    /// What has come from the far end since this was last asked.
    pub fn take_heard(&mut self) -> Heard {
        self.inbound.take_heard()
    }

    /// The next binary message; `None` when the peer has closed the WebSocket in order.
    ///
    /// # Errors
    /// When the peer broke the protocol or the stream failed; the socket is no use after it.
    ///
    /// # Cancel safety
    /// Safe: a message that has come in part stays.
    pub async fn receive(&mut self) -> Result<Option<BytesMut>, SocketError> {
        let received = std::future::poll_fn(|context| {
            let received = self.poll_receive(context);
            // A ping is answered also when nothing is sent otherwise.
            match (
                &received,
                self.pong.is_some().then(|| self.poll_flush(context)),
            ) {
                (Poll::Pending, Some(Poll::Ready(Err(error)))) => Poll::Ready(Some(Err(error))),
                _ => received,
            }
        });
        received.await.transpose()
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
        self.start_send(&[], Body::Shared(message))
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
        self.discard();
        let closing = async {
            std::future::poll_fn(|context| self.poll_close(context)).await?;
            while self.receive().await?.is_some() {}
            Ok::<(), SocketError>(())
        };
        // Nobody is left who could do anything about a failure here.
        let _ = tokio::time::timeout(deadline, closing).await;
    }
}
