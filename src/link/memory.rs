//! A link without a network: two sockets joined in memory, for tests and benchmarks.

use bytes::Bytes;

use super::websocket::{End, MessageSocket};

/// Bytes that each direction holds before the sender waits, as a socket's buffers would.
const HELD: usize = 256 * 1024;

/// A role's socket and the master's, joined.
#[must_use]
pub fn pair() -> (MessageSocket, MessageSocket) {
    pair_holding(HELD)
}

/// The same with `held_bytes` in each direction before the sender waits.
#[must_use]
pub fn pair_holding(held_bytes: usize) -> (MessageSocket, MessageSocket) {
    let (role, master) = tokio::io::duplex(held_bytes);
    (MessageSocket::new(role, Bytes::new(), End::Dialled), MessageSocket::new(master, Bytes::new(), End::Accepted))
}
