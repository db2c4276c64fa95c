//! Joins a stream to a local socket.
//!
//! The two directions run in two tasks, so a busy one cannot starve the other. An ungraceful end of
//! one direction ends both, and a reset arrives as a reset.
//!
//! | at the socket | at the stream |
//! |---|---|
//! | end of file is read | finish |
//! | an error is read, or writing fails | reset |
//! | its sending direction is shut down | the peer finished |
//! | reset (RST), or the end of a unix socket | the peer reset, the bytes are corrupt, or the tunnel has ended |

mod ends;
mod receiving;
mod sending;

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

pub(super) use self::ends::SpliceEnds;
pub use self::ends::SpliceError;
use self::ends::{DirectionResult, FINAL_DATA_TIMEOUT, RESET_DELAY};
use super::{local_socket, stream::TunnelStream};
use crate::net::local_stream::LocalStream;
use report_proto::{compress::CompressMethod, mux::ResetCode};

/// The byte counts of a splice, and how it ended.
#[derive(Debug)]
pub struct Spliced {
    /// Bytes from the socket into the tunnel, before compression.
    pub sent_bytes: u64,
    /// Bytes from the tunnel to the socket, after decompression.
    pub received_bytes: u64,
    /// Why the splice did not end gracefully.
    pub error: Option<SpliceError>,
}

/// Joins `stream` and `socket` until both directions have ended and the peer has acknowledged
/// everything. The caller can then end the tunnel without losing data.
///
/// # Cancel safety
/// Dropping the future resets both.
pub async fn splice(
    socket: impl Into<LocalStream>,
    stream: TunnelStream,
    method: CompressMethod,
) -> Spliced {
    join(&Arc::new(SpliceEnds::new(
        Arc::new(socket.into()),
        Bytes::new(),
        stream,
        method,
    )))
    .await
}

/// Data that was read before a splice starts.
#[derive(Debug, Default)]
pub struct EarlyData {
    /// Data of the socket.
    pub from_socket: Bytes,
    /// Data of the stream, for which the peer has no new credit yet.
    pub from_stream: Bytes,
}

/// Joins `stream` and `socket` as [`splice`] does, after data was read from them.
///
/// # Cancel safety
/// Dropping the future resets both.
pub async fn splice_after(
    early: EarlyData,
    socket: LocalStream,
    stream: TunnelStream,
    method: CompressMethod,
) -> Spliced {
    let ends = SpliceEnds::new(Arc::new(socket), early.from_socket, stream, method);
    join(&Arc::new(ends.after(early.from_stream))).await
}

/// Joins the two sides of a splice.
pub(super) async fn join(ends: &Arc<SpliceEnds>) -> Spliced {
    local_socket::prepare(&ends.socket, ends.stream.tcp_keepalive());
    let mut sending = JoinSet::new();
    let sender = Arc::clone(ends);
    sending.spawn(async move { sender.send().await });
    let received = ends.receive().await;
    let failure = match &received.result {
        Ok(()) => tokio::select! {
            biased;
            sent = sending.join_next() => {
                let spliced = Spliced::of(sent.and_then(Result::ok), received);
                return ends.await_delivery(spliced).await;
            }
            error = ends.stream.failed() => Some(error.into()),
        },
        Err(SpliceError::Socket(_)) => {
            return ends.finish_after_failed_write(sending, received).await;
        }
        // The stream has failed. A sender that waits for the socket would not notice.
        Err(_) => None,
    };
    sending.abort_all();
    let sent = sending.join_next().await.and_then(Result::ok);
    let spliced = Spliced::of(sent, received);
    Spliced {
        error: spliced.error.or(failure),
        ..spliced
    }
}

impl Spliced {
    fn of(sent: Option<DirectionResult>, received: DirectionResult) -> Self {
        let (sent_bytes, sent) = sent.map_or((0, Ok(())), |sent| (sent.bytes, sent.result));
        Spliced {
            sent_bytes,
            received_bytes: received.bytes,
            error: sent.err().or(received.result.err()),
        }
    }
}

impl SpliceEnds {
    async fn await_delivery(&self, mut spliced: Spliced) -> Spliced {
        if self.is_graceful() {
            spliced.error = self.stream.delivered().await.err().map(SpliceError::from);
        }
        spliced
    }

    /// Handles a local peer that reads no more but may have answered before, as an HTTP server that
    /// rejects an upload does. Delivers the answer before the reset.
    async fn finish_after_failed_write(
        &self,
        mut sending: JoinSet<DirectionResult>,
        received: DirectionResult,
    ) -> Spliced {
        let sent = tokio::time::timeout(FINAL_DATA_TIMEOUT, sending.join_next())
            .await
            .ok()
            .flatten()
            .and_then(Result::ok);
        if sent.as_ref().is_some_and(|sent| sent.result.is_ok()) {
            // The other end closes after it has read the answer to its end. An immediate reset
            // could overtake the answer.
            let _ = tokio::time::timeout(RESET_DELAY, self.stream.failed()).await;
        }
        self.stream.reset(ResetCode::Reset);
        sending.abort_all();
        let DirectionResult { bytes, result } = received;
        Spliced {
            error: result.err(),
            ..Spliced::of(
                sent,
                DirectionResult {
                    bytes,
                    result: Ok(()),
                },
            )
        }
    }
}
