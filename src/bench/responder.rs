//! The server's end of benchmark streams. A holder of the port key may move bytes to the service
//! anyway. Benchmark streams add a bounded number of streams, time and bytes to that.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::Semaphore,
    task::coop::consume_budget,
    time::{Instant, MissedTickBehavior, interval, timeout, timeout_at},
};

use super::{
    payload::{PayloadKind, PayloadStream},
    request::BenchRequest,
};
use crate::tunnel::{
    ResetCode, TunnelStream,
    raw::{RawError, RawReceiver, RawSender},
};
use report_proto::compress::{CompressMethod, MAX_CHUNK};

/// The maximum number of concurrent benchmark streams of one tunnel. `report bench` opens at most
/// half of them, so the streams of the previous phase may still be closing.
pub const BENCH_STREAMS_MAX: usize = 128;

/// The maximum lifetime of a benchmark stream. The longest phase of `report bench` takes slightly
/// more than a minute.
pub(crate) const BENCH_STREAM_LIFETIME: Duration = Duration::from_secs(120);

/// The maximum number of bytes of a source: the longest phase at 100 Gbit/s.
const SOURCE_BYTES_MAX: u64 = 1 << 40;

/// How often a sink reports the bytes it received.
const REPORT_INTERVAL: Duration = Duration::from_millis(10);

/// Serves the benchmark streams of one tunnel.
pub struct BenchResponder {
    slots: Semaphore,
    method: CompressMethod,
}

/// Why the server reset a benchmark stream.
#[derive(Debug, thiserror::Error)]
pub enum ResponderError {
    /// The tunnel already has [`BENCH_STREAMS_MAX`] benchmark streams.
    #[error("the tunnel already has {BENCH_STREAMS_MAX} benchmark streams")]
    Full,
    /// The stream exceeded `BENCH_STREAM_LIFETIME`.
    #[error("the stream exceeded its lifetime of {BENCH_STREAM_LIFETIME:?}")]
    TooLong,
    /// The client reset the stream, or the tunnel ended.
    #[error(transparent)]
    Stream(#[from] RawError),
}

impl BenchResponder {
    /// Creates the responder of a tunnel whose port uses this compression.
    #[must_use]
    pub fn new(method: CompressMethod) -> Self {
        BenchResponder {
            slots: Semaphore::new(BENCH_STREAMS_MAX),
            method,
        }
    }

    /// Serves `request` on `stream` until it is done.
    ///
    /// # Errors
    /// Returns why the stream was reset. The client already received the RESET.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the stream in its current state. Dropping the stream then resets
    /// its unfinished directions.
    pub async fn serve(
        &self,
        stream: &TunnelStream,
        request: BenchRequest,
    ) -> Result<(), ResponderError> {
        let Ok(_slot) = self.slots.try_acquire() else {
            stream.reset(ResetCode::Limit);
            return Err(ResponderError::Full);
        };
        let served = async {
            match request {
                BenchRequest::Echo => echo(stream, self.method).await,
                BenchRequest::Sink => sink(stream, self.method).await,
                BenchRequest::Source {
                    data,
                    duration_ms,
                    bytes,
                } => {
                    source(
                        stream,
                        self.method,
                        data,
                        Duration::from_millis(duration_ms),
                        bytes,
                    )
                    .await
                }
            }
        };
        match timeout(BENCH_STREAM_LIFETIME, served).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                if let RawError::Corrupt(_) = error {
                    stream.reset(ResetCode::Corrupt);
                }
                Err(error.into())
            }
            Err(_) => {
                stream.reset(ResetCode::Timeout);
                Err(ResponderError::TooLong)
            }
        }
    }
}

async fn echo(stream: &TunnelStream, method: CompressMethod) -> Result<(), RawError> {
    let (mut sender, mut receiver) = (
        RawSender::new(stream, method),
        RawReceiver::new(stream, method),
    );
    while let Some(raw) = receiver.receive().await? {
        sender.send_all(raw).await?;
        // The stream of a fast peer is always ready, so yield to other tasks here.
        consume_budget().await;
    }
    stream.finish();
    Ok(())
}

/// Reads everything and reports the total so far as eight bytes, big-endian.
async fn sink(stream: &TunnelStream, method: CompressMethod) -> Result<(), RawError> {
    let (mut sender, mut receiver) = (
        RawSender::new(stream, method),
        RawReceiver::new(stream, method),
    );
    let received = AtomicU64::new(0);
    let counting = async {
        while let Some(raw) = receiver.receive().await? {
            received.fetch_add(raw.len() as u64, Relaxed);
            consume_budget().await;
        }
        Ok::<(), RawError>(())
    };
    let reporting = async {
        let mut ticks = interval(REPORT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reported = 0;
        loop {
            ticks.tick().await;
            let now = received.load(Relaxed);
            if now != reported {
                sender.send_all(report(now)).await?;
                reported = now;
            }
        }
    };
    tokio::select! {
        counted = counting => counted?,
        failed = reporting => return failed,
    }
    // A report that the select dropped was still waiting for credit. Eight bytes are always sent
    // whole, so no partial report precedes this one.
    sender.send_all(report(received.load(Relaxed))).await?;
    stream.finish();
    Ok(())
}

fn report(bytes: u64) -> Bytes {
    Bytes::copy_from_slice(&bytes.to_be_bytes())
}

async fn source(
    stream: &TunnelStream,
    method: CompressMethod,
    data: PayloadKind,
    duration: Duration,
    bytes: u64,
) -> Result<(), RawError> {
    let deadline = Instant::now() + duration.min(BENCH_STREAM_LIFETIME);
    let (mut sender, mut feed) = (RawSender::new(stream, method), PayloadStream::new(data));
    let mut left = bytes.min(SOURCE_BYTES_MAX);
    while left > 0 && Instant::now() < deadline {
        let content = feed.next(usize::try_from(left).unwrap_or(usize::MAX).min(MAX_CHUNK));
        let Ok(sent) = timeout_at(deadline, sender.send(&content)).await else {
            break;
        };
        let sent = sent?;
        feed.advance(sent);
        left = left.saturating_sub(sent as u64);
        consume_budget().await;
    }
    stream.finish();
    stream.delivered().await.map_err(RawError::from)
}
