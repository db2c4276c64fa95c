//! The socket: both sides of a WebSocket, its pings and its closing handshake.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWrite;

use super::{
    ByteStream, MessageBody, ReceiveActivity, SocketEnd, SocketError,
    frame::{MAX_CONTROL_PAYLOAD, Opcode},
    inbound::{Inbound, Incoming},
    outbound::Outbound,
};
use crate::{net::congestion_control::CongestionControlInUse, tcp_table::TcpConnection};

/// A socket is idle if it received no more than this since the last
/// [`MessageSocket::release_idle_buffers`]: a few keep-alives, in bytes.
const IDLE_THRESHOLD: u64 = 4 * 1024;

/// Messages are written once this many bytes are waiting, and at a flush. Two full messages limit
/// the number of writes, each of which may wake the peer. A larger batch would fix the order of
/// sending too early.
const WRITE_BATCH: usize = 128 * 1024;

/// A WebSocket after its upgrade.
pub struct MessageSocket {
    stream: Box<dyn ByteStream>,
    /// Boxed, so that the owner of the socket and the future that drives it stay small.
    pub(super) inbound: Box<Inbound>,
    outbound: Box<Outbound>,
    /// The last unanswered ping. Earlier pings need no answer (RFC 6455, 5.5.3), so a flood of them
    /// takes no memory.
    pong: Option<BytesMut>,
    closing: CloseState,
    /// The number of bytes received at the last [`MessageSocket::release_idle_buffers`].
    received_at_last_release: u64,
    /// The TCP connection below, if known.
    connection: Option<Box<TcpConnection>>,
    /// The congestion control of that connection.
    congestion_control: CongestionControlInUse,
}

/// The progress of the closing handshake.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct CloseState {
    /// Whether a Close frame was queued. No frame may follow it.
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
    /// Creates a socket over an upgraded stream. `read` holds the bytes that arrived with the
    /// upgrade.
    #[must_use]
    pub fn new(stream: impl ByteStream, read: Bytes, end: SocketEnd) -> Self {
        MessageSocket {
            stream: Box::new(stream),
            inbound: Box::new(Inbound::new(end, &read)),
            outbound: Box::new(Outbound::new(end)),
            pong: None,
            closing: CloseState::default(),
            received_at_last_release: 0,
            connection: None,
            congestion_control: CongestionControlInUse::default(),
        }
    }

    /// Sets the TCP connection below the socket.
    #[must_use]
    pub fn with_connection(self, connection: Option<TcpConnection>) -> Self {
        MessageSocket {
            connection: connection.map(Box::new),
            ..self
        }
    }

    /// Returns the TCP connection below, if known.
    #[must_use]
    pub fn connection(&self) -> Option<TcpConnection> {
        self.connection.as_deref().copied()
    }

    /// Sets the congestion control of the TCP connection below the socket.
    #[must_use]
    pub fn with_congestion_control(self, congestion_control: CongestionControlInUse) -> Self {
        MessageSocket {
            congestion_control,
            ..self
        }
    }

    /// Returns the congestion control of the TCP connection below, as far as it is known.
    #[must_use]
    pub fn congestion_control(&self) -> CongestionControlInUse {
        self.congestion_control
    }

    /// Receives the next binary message. Returns `None` after the peer closed the WebSocket
    /// gracefully.
    pub fn poll_receive(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<BytesMut, SocketError>>> {
        while !self.closing.is_received {
            match ready!(self.inbound.poll_next(&mut *self.stream, context)) {
                Ok(Incoming::Message(message)) => return Poll::Ready(Some(Ok(message))),
                // The next flush sends the pong, so the reader must poll a flush too.
                Ok(Incoming::Ping(payload)) => self.pong = Some(payload),
                Ok(Incoming::Close(reason)) => {
                    self.closing.is_received = true;
                    // Echo the peer's status (RFC 6455, 5.5.1).
                    self.send_close(reason.get(..2).unwrap_or_default());
                }
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        Poll::Ready(None)
    }

    /// Releases the buffers of a past busy period, if little arrived since the last call. Call it
    /// periodically.
    pub fn release_idle_buffers(&mut self) {
        let received = self.inbound.received();
        if received - std::mem::replace(&mut self.received_at_last_release, received)
            <= IDLE_THRESHOLD
        {
            self.inbound.release_idle_buffers();
            self.outbound.release_idle_buffers();
        }
    }

    /// Returns whether [`MessageSocket::start_send`] may be called: less than one batch is waiting.
    ///
    /// # Errors
    /// If the stream failed.
    pub fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        self.outbound
            .poll_write(&mut *self.stream, context, WRITE_BATCH - 1)
            .map_err(SocketError::from)
    }

    /// Queues a message of `prefix` and `body`. It is sent with the next flush at the latest. Call
    /// it only after [`MessageSocket::poll_ready`] returned ready.
    ///
    /// # Errors
    /// If the WebSocket is closing.
    pub fn start_send(&mut self, prefix: &[u8], body: MessageBody) -> Result<(), SocketError> {
        if self.closing.is_sent {
            return Err(SocketError::Closed);
        }
        self.outbound.message(prefix, body);
        Ok(())
    }

    /// Writes all queued frames and flushes the stream.
    ///
    /// # Errors
    /// If the stream failed.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        // No pong may follow a Close frame.
        if let Some(payload) = self.pong.take_if(|_| !self.closing.is_sent) {
            self.outbound.control(
                Opcode::Pong,
                payload
                    .get(..payload.len().min(MAX_CONTROL_PAYLOAD))
                    .unwrap_or_default(),
            );
        }
        ready!(self.outbound.poll_write(&mut *self.stream, context, 0))?;
        AsyncWrite::poll_flush(Pin::new(&mut *self.stream), context).map_err(SocketError::from)
    }

    /// Queues a Close frame and flushes.
    ///
    /// # Errors
    /// If the stream failed.
    pub fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        self.send_close(&[]);
        self.poll_flush(context)
    }

    fn send_close(&mut self, status: &[u8]) {
        if !std::mem::replace(&mut self.closing.is_sent, true) {
            self.outbound.control(Opcode::Close, status);
        }
    }

    /// Returns which end of the WebSocket this is.
    pub(crate) fn end(&self) -> SocketEnd {
        self.inbound.end()
    }

    /// Limits the length of later messages, to `MAX_MESSAGE` at most.
    pub(crate) fn limit_messages(&mut self, max_length: usize) {
        self.inbound.limit_message_length(max_length);
    }

    /// Returns the number of buffered bytes of an incomplete message.
    pub(crate) fn partial_message_bytes(&self) -> usize {
        self.inbound.partial_message_bytes()
    }

    /// Allows large read buffers, once the peer is authenticated.
    pub(crate) fn allow_large_reads(&mut self) {
        self.inbound.allow_large_reads();
    }

    /// Discards all messages from now on, including a partly received one.
    pub(crate) fn discard(&mut self) {
        self.inbound.discard();
    }

    /// Returns the number of messages received.
    pub(crate) fn messages(&self) -> u64 {
        self.inbound.messages()
    }

    /// Returns the receive activity since the last call, and resets it.
    pub fn take_activity(&mut self) -> ReceiveActivity {
        self.inbound.take_activity()
    }

    /// Receives the next binary message. Returns `None` after the peer closed the WebSocket
    /// gracefully.
    ///
    /// # Errors
    /// If the peer violated the protocol or the stream failed. The socket cannot be used
    /// afterwards.
    ///
    /// # Cancel safety
    /// Cancel safe: a partly received message stays buffered.
    pub async fn receive(&mut self) -> Result<Option<BytesMut>, SocketError> {
        let received = std::future::poll_fn(|context| {
            let received = self.poll_receive(context);
            // Answer a ping even if there is nothing else to send.
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

    /// Waits for room and queues a message. The next flush sends it.
    ///
    /// # Errors
    /// If the stream failed.
    ///
    /// # Cancel safety
    /// Cancel safe: the message is queued whole or not at all.
    pub async fn feed(&mut self, message: Bytes) -> Result<(), SocketError> {
        std::future::poll_fn(|context| self.poll_ready(context)).await?;
        self.start_send(&[], MessageBody::Shared(message))
    }

    /// Writes all queued frames and flushes the stream.
    ///
    /// # Errors
    /// If the stream failed.
    ///
    /// # Cancel safety
    /// Cancel safe: unsent bytes stay queued.
    pub async fn flush(&mut self) -> Result<(), SocketError> {
        std::future::poll_fn(|context| self.poll_flush(context)).await
    }

    /// Closes gracefully: sends the queued frames and a Close frame, then reads until the peer has
    /// closed too. Otherwise a reset could discard the last data. Discards received messages. Ends
    /// at `deadline` at the latest.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn close(mut self, deadline: Duration) {
        self.discard();
        let closing = async {
            std::future::poll_fn(|context| self.poll_close(context)).await?;
            while self.receive().await?.is_some() {}
            Ok::<(), SocketError>(())
        };
        // A failure no longer matters: the socket is gone either way.
        let _ = tokio::time::timeout(deadline, closing).await;
    }
}
