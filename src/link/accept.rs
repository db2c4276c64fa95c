//! The master's end of the upgrade: what it answers, and the socket over the stream that it then has.

use bytes::Bytes;

use super::websocket::{ByteStream, End, MessageSocket};

pub use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The socket over a stream on which 101 has been answered; `read` is what came right behind the request: it is a part of the WebSocket.
#[must_use]
pub fn upgraded(stream: impl ByteStream, read: Bytes) -> MessageSocket {
    MessageSocket::new(stream, read, End::Accepted)
}
