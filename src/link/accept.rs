//! A link at the master, from a request that hyper has upgraded.

use hyper::upgrade::{Parts, Upgraded};
use hyper_util::rt::TokioIo;

use super::websocket::{ByteStream, End, MessageSocket};

pub use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The socket over an upgraded request. `T` is the type of the stream that hyper was given as `TokioIo<T>`: it is taken out of hyper's box,
/// so that nothing stands between the WebSocket and it. Any other stream works as well, through hyper's wrapping.
#[must_use]
pub fn from_upgraded<T>(upgraded: Upgraded) -> MessageSocket
where
    T: ByteStream,
{
    match upgraded.downcast::<TokioIo<T>>() {
        // What came right behind the request is a part of the WebSocket.
        Ok(Parts { io, read_buf, .. }) => MessageSocket::new(io.into_inner(), read_buf, End::Accepted),
        Err(upgraded) => MessageSocket::new(TokioIo::new(upgraded), bytes::Bytes::new(), End::Accepted),
    }
}
