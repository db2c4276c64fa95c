//! A link without a network: two sockets joined in memory, for tests and benchmarks.

use bytes::Bytes;

use super::websocket::{End, MessageSocket};

/// Bytes that each direction holds before the sender waits, as a socket's buffers would.
const HELD: usize = 256 * 1024;

/// A role's socket and that of a master that knows it, joined.
#[must_use]
pub fn pair() -> (MessageSocket, MessageSocket) {
    pair_holding(HELD)
}

/// The same with `held_bytes` in each direction before the sender waits.
#[must_use]
pub fn pair_holding(held_bytes: usize) -> (MessageSocket, MessageSocket) {
    let (role, master) = tokio::io::duplex(held_bytes);
    let mut master = MessageSocket::new(master, Bytes::new(), End::Accepted);
    master.read_largely();
    (MessageSocket::new(role, Bytes::new(), End::Dialled), master)
}
