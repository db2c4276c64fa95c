//! A WebSocket that carries whole messages in both directions, over any byte stream: TCP, TLS, an
//! upgraded request, memory.
//!
//! Does not know the contents of messages.

mod frame;
mod inbound;
mod outbound;
mod socket;
#[cfg(test)]
mod tests;

use std::{io, ops::Deref};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};

pub use self::socket::MessageSocket;

/// A bidirectional byte stream.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for T {}

/// The end of a WebSocket. The role that dialled masks its frames, the master does not (RFC 6455,
/// 5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketEnd {
    /// The role that dialled.
    Dialled,
    /// The master that accepted.
    Accepted,
}

/// Why a socket can no longer be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The peer sent a text message.
    #[error("a text message, where all are binary")]
    Text,
    /// The peer sent a message larger than `MAX_MESSAGE`, or larger than the limit of a first
    /// message.
    #[error("a message of {size} bytes, more than the {max_length} allowed")]
    TooLong {
        /// The announced length, or the length received so far.
        size: usize,
        /// The maximum length.
        max_length: usize,
    },
    /// The peer violates RFC 6455.
    #[error("not the WebSocket protocol: {0}")]
    NotWebSocket(String),
    /// The stream ended without a closing handshake: the connection was cut, or the peer was
    /// killed.
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
    /// Returns whether the peer violated the protocol. The link reports a violation to the peer
    /// before it ends.
    #[must_use]
    pub fn is_violation(&self) -> bool {
        matches!(
            self,
            SocketError::Text | SocketError::TooLong { .. } | SocketError::NotWebSocket(_)
        )
    }
}

/// The data received from the peer. WebSocket pings and pongs do not count, because a proxy may
/// send them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReceiveActivity {
    /// Bytes of a message arrived.
    pub any: bool,
    /// Bytes of a message longer than PING and PONG arrived.
    pub long: bool,
}

/// The payload of an outgoing message.
#[derive(Debug, PartialEq, Eq)]
pub enum MessageBody {
    /// Exclusively owned, so it can be masked in place.
    Owned(BytesMut),
    /// Shared with other holders, as for relayed messages.
    Shared(Bytes),
}

impl MessageBody {
    fn into_owned(self) -> BytesMut {
        match self {
            MessageBody::Owned(bytes) => bytes,
            MessageBody::Shared(bytes) => BytesMut::from(bytes),
        }
    }

    /// Returns the bytes, without copying.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        match self {
            MessageBody::Owned(bytes) => bytes.freeze(),
            MessageBody::Shared(bytes) => bytes,
        }
    }
}

impl Deref for MessageBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            MessageBody::Owned(bytes) => bytes,
            MessageBody::Shared(bytes) => bytes,
        }
    }
}
