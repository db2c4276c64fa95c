//! Reclaims a local connection from a stream that the peer never saw. When the tunnel has ended,
//! another tunnel can carry the connection.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{
    splice::{SpliceEnds, SpliceError, Spliced, join},
    stream::{TunnelStream, TunnelStreamError},
};
use crate::net::local_stream::LocalStream;
use report_proto::compress::{CompressMethod, Decompressor};

/// A local connection of which the peer has seen nothing.
#[derive(Debug)]
pub struct ReclaimedConnection {
    /// The connection. Closing it sends a reset, unless it is a unix socket.
    pub socket: LocalStream,
    /// Data that was read from it.
    pub unsent: Bytes,
}

/// Joins a stream and a connection from which `unsent` has already been read, as
/// [`splice`](super::splice::splice) does.
///
/// # Errors
/// Returns the connection if the tunnel has ended and the peer certainly never saw the stream.
/// Another stream can carry it.
///
/// # Cancel safety
/// Dropping the future resets both.
pub async fn splice_or_reclaim(
    connection: ReclaimedConnection,
    stream: TunnelStream,
    method: CompressMethod,
) -> Result<Spliced, ReclaimedConnection> {
    let ReclaimedConnection { socket, unsent } = connection;
    let socket = Arc::new(socket);
    let ends = Arc::new(SpliceEnds::new(Arc::clone(&socket), unsent, stream, method));
    let spliced = join(&ends).await;
    let reclaimed =
        if let Some(SpliceError::Stream(TunnelStreamError::TunnelEnded(_))) = &spliced.error {
            ends.unsent()
        } else {
            None
        };
    // Releases the last other reference to the socket, so `into_inner` below can succeed.
    drop(ends);
    match (reclaimed, Arc::into_inner(socket)) {
        (Some(unsent), Some(socket)) => Err(ReclaimedConnection { socket, unsent }),
        _ => Ok(spliced),
    }
}

impl SpliceEnds {
    /// Returns everything that was read from the socket, if the tunnel has ended and the peer
    /// certainly never saw the stream.
    fn unsent(&self) -> Option<Bytes> {
        let mut unsent = BytesMut::new();
        let mut decompressor = Decompressor::new(self.method, self.stream.pool());
        self.stream
            .unseen()?
            .into_iter()
            .for_each(|piece| decompressor.push(piece));
        while let Some(chunk) = decompressor.next().ok()? {
            unsent.extend_from_slice(&chunk.raw);
        }
        unsent.extend_from_slice(&self.prefix());
        Some(unsent.freeze())
    }
}
