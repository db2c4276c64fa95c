//! The master's end of the WebSocket upgrade: the accept key of the answer, and the socket over the
//! upgraded stream.

use bytes::Bytes;

use super::websocket::{ByteStream, MessageSocket, SocketEnd};

pub use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Creates the socket over a stream on which the master has answered 101. `read` holds the bytes
/// that arrived directly after the request: they belong to the WebSocket.
#[must_use]
pub fn upgraded(stream: impl ByteStream, read: Bytes) -> MessageSocket {
    MessageSocket::new(stream, read, SocketEnd::Accepted)
}
