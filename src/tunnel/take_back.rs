//! Takes a local connection back from a stream that the peer has not seen: when the tunnel is over, another one can have the connection.

use std::sync::{Arc, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;

use super::{
    splice::{Ends, SpliceError, Spliced, join},
    stream::{TunnelStream, TunnelStreamError},
};
use crate::compress::{CompressMethod, Compressor, Decompressor};

/// A local connection of which the peer has seen nothing.
#[derive(Debug)]
pub struct TakenBack {
    /// The connection. Its end is a reset.
    pub socket: TcpStream,
    /// What was read from it.
    pub unsent: Bytes,
}

/// Joins a stream and a connection of which `unsent` has been read already, as [`splice`](super::splice::splice) does.
///
/// # Errors
/// Gives the connection back when the tunnel is over and it is certain that the peer has not seen the stream: the connection can use another.
///
/// # Cancel safety
/// Dropping the future resets both.
pub async fn splice_or_take_back(
    connection: TakenBack,
    stream: TunnelStream,
    method: CompressMethod,
) -> Result<Spliced, TakenBack> {
    let TakenBack { socket, unsent } = connection;
    let socket = Arc::new(socket);
    let ends = Arc::new(Ends::new(Arc::clone(&socket), unsent, stream, method));
    let spliced = join(&ends).await;
    let taken_back =
        if let Some(SpliceError::Stream(TunnelStreamError::TunnelOver(_))) = &spliced.error {
            ends.unsent()
        } else {
            None
        };
    drop(ends);
    match (taken_back, Arc::into_inner(socket)) {
        (Some(unsent), Some(socket)) => Err(TakenBack { socket, unsent }),
        _ => Ok(spliced),
    }
}

impl Ends {
    /// Sends what was read before.
    pub(super) async fn send_first(&self, compressor: &mut Compressor) -> Result<(), SpliceError> {
        while !self.first().is_empty() {
            let room = self.room().await?;
            let mut raw = {
                let mut first = self.first();
                let length = room.min(first.len());
                BytesMut::from(first.split_to(length))
            };
            self.stream.write(self.wire(compressor, &mut raw))?;
        }
        Ok(())
    }

    fn first(&self) -> MutexGuard<'_, Bytes> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that was read from the socket, when the tunnel is over and it is certain that the peer has not seen the stream.
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
        unsent.extend_from_slice(&self.first());
        Some(unsent.freeze())
    }
}
