//! An in-memory link without a network, for tests and benchmarks.

use bytes::Bytes;

use super::websocket::{MessageSocket, SocketEnd};

/// The default buffer of each direction, in bytes, comparable to socket buffers.
const CAPACITY: usize = 256 * 1024;

/// Creates a connected pair: a role's socket and the socket of a master that trusts it.
#[must_use]
pub fn pair() -> (MessageSocket, MessageSocket) {
    pair_with_capacity(CAPACITY)
}

/// Creates a connected pair that buffers `capacity` bytes in each direction before the sender
/// waits.
#[must_use]
pub fn pair_with_capacity(capacity: usize) -> (MessageSocket, MessageSocket) {
    let (role, master) = tokio::io::duplex(capacity);
    let mut master = MessageSocket::new(master, Bytes::new(), SocketEnd::Accepted);
    master.allow_large_reads();
    (
        MessageSocket::new(role, Bytes::new(), SocketEnd::Dialled),
        master,
    )
}
