//! The server's end of measuring streams. Whoever holds the port key may move bytes to the service anyway; what this gives beyond that is bounded
//! in number, time and bytes.

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
    content::{Data, Feed},
    request::Request,
};
use crate::{
    compress::{CompressMethod, MAX_CHUNK},
    tunnel::{
        ResetCode, TunnelStream,
        raw::{RawError, RawReceiver, RawSender},
    },
};

/// Measuring streams of a tunnel at a time: as many as `report bench` opens at most for its throughput, and as many again that come to their end.
pub const PLACES: usize = 128;

/// No measuring stream lives longer: the longest phase of `report bench` takes a good minute.
pub const LIFETIME: Duration = Duration::from_secs(120);

/// No source gives more: the longest phase at 100 Gbit/s.
const SOURCE_BYTES_MAX: u64 = 1 << 40;

/// How often a sink says what has come.
const REPORT_INTERVAL: Duration = Duration::from_millis(10);

/// The other end of a tunnel's measuring streams.
pub struct Peer {
    places: Semaphore,
    method: CompressMethod,
}

/// Why a measuring stream was reset.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// There are [`PLACES`] of them already.
    #[error("the tunnel has {PLACES} measuring streams already")]
    Full,
    /// It lived for longer than any may.
    #[error("it lived for {LIFETIME:?}")]
    TooLong,
    /// The client gave it up, or the tunnel is over.
    #[error(transparent)]
    Stream(#[from] RawError),
}

impl Peer {
    /// The peer of a tunnel whose port is compressed so.
    #[must_use]
    pub fn new(method: CompressMethod) -> Self {
        Peer {
            places: Semaphore::new(PLACES),
            method,
        }
    }

    /// Does what is asked for on a stream, to its end.
    ///
    /// # Errors
    /// Why the stream was reset: it has been told.
    ///
    /// # Cancel safety
    /// The stream is as it is then; dropping it resets what has not ended.
    pub async fn serve(&self, stream: &TunnelStream, request: Request) -> Result<(), PeerError> {
        let Ok(_place) = self.places.try_acquire() else {
            stream.reset(ResetCode::Limit);
            return Err(PeerError::Full);
        };
        let served = async {
            match request {
                Request::Echo => echo(stream, self.method).await,
                Request::Sink => sink(stream, self.method).await,
                Request::Source {
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
        match timeout(LIFETIME, served).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                if let RawError::Corrupt(_) = error {
                    stream.reset(ResetCode::Corrupt);
                }
                Err(error.into())
            }
            Err(_) => {
                stream.reset(ResetCode::Timeout);
                Err(PeerError::TooLong)
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
        // A stream is always ready when its peer is fast: others have to have their turn.
        consume_budget().await;
    }
    stream.finish();
    Ok(())
}

/// Each report is the number of bytes so far, eight bytes, big-endian.
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
        let mut told = 0;
        loop {
            ticks.tick().await;
            let now = received.load(Relaxed);
            if now != told {
                sender.send_all(report(now)).await?;
                told = now;
            }
        }
    };
    tokio::select! {
        counted = counting => counted?,
        failed = reporting => return failed,
    }
    // What was cut off in between was waiting for room: eight bytes are sent whole.
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
    data: Data,
    duration: Duration,
    bytes: u64,
) -> Result<(), RawError> {
    let deadline = Instant::now() + duration.min(LIFETIME);
    let (mut sender, mut feed) = (RawSender::new(stream, method), Feed::new(data));
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
