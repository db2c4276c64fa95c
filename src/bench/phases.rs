//! The single measurements. Each function takes a tunnel and a duration and returns a result.

use std::time::Duration;

use bytes::Bytes;
use tokio::{task::JoinSet, time::Instant};

use super::{
    error::MeasureError,
    payload::{PayloadKind, PayloadStream},
    request::BenchRequest,
    results::{NewConnectionStats, RoundTripStats, Throughput},
    transfers::{BulkTransfers, TransferDirection},
};
use crate::tunnel::{
    Tunnel, TunnelStream,
    raw::{RawReceiver, RawSender},
};

/// The length of an echo in bytes: a keystroke plus the overhead of terminals and protocols.
const ECHO: usize = 64;

/// A phase ends early after this many samples. More samples use memory without improving the
/// percentiles.
const SAMPLES_MAX: usize = 1_000_000;

/// The longest warm-up. Windows and compressors need time to reach their size. The first quarter of
/// the phase, at most this long, does not count.
const WARM_UP_MAX: Duration = Duration::from_secs(1);

pub(super) fn warm_up(time: Duration) -> Duration {
    (time / 4).min(WARM_UP_MAX)
}

/// Measures the throughput of `connections` transfers for `time`.
pub(super) async fn throughput(
    tunnel: &Tunnel,
    direction: TransferDirection,
    connections: usize,
    data: PayloadKind,
    time: Duration,
) -> Result<Throughput, MeasureError> {
    let mut transfers = BulkTransfers::start(tunnel, direction, connections, data);
    transfers.run_for(warm_up(time)).await?;
    let measured = transfers.measure(time).await;
    transfers.stop().await;
    measured
}

/// Measures the round trip of an echo in an otherwise idle tunnel.
pub(super) async fn idle(
    tunnel: &Tunnel,
    data: PayloadKind,
    time: Duration,
) -> Result<RoundTripStats, MeasureError> {
    echoes(tunnel, data, time).await.map(RoundTripStats::new)
}

/// Measures the round trip of an echo during one bulk transfer.
pub(super) async fn under_load(
    tunnel: &Tunnel,
    direction: TransferDirection,
    data: PayloadKind,
    time: Duration,
) -> Result<RoundTripStats, MeasureError> {
    let mut transfers = BulkTransfers::start(tunnel, direction, 1, data);
    transfers.run_for(warm_up(time)).await?;
    let echoed = transfers.run_alongside(echoes(tunnel, data, time)).await;
    transfers.stop().await;
    echoed?.map(RoundTripStats::new)
}

async fn echoes(
    tunnel: &Tunnel,
    data: PayloadKind,
    time: Duration,
) -> Result<Vec<Duration>, MeasureError> {
    let stream = tunnel.open(BenchRequest::Echo.details());
    let mut echo = EchoStream::new(&stream, tunnel);
    let mut feed = PayloadStream::new(data);
    // The first echo opens the stream, so its time does not count.
    echo.send(feed.exactly(ECHO)).await?;
    let (started, mut times) = (Instant::now(), Vec::new());
    loop {
        let sent = Instant::now();
        echo.send(feed.exactly(ECHO)).await?;
        times.push(sent.elapsed());
        if started.elapsed() >= time || times.len() >= SAMPLES_MAX {
            return Ok(times);
        }
    }
}

/// Measures the rate of new streams: `at_once` workers open streams and wait for the first echoed
/// byte.
pub(super) async fn new_connections(
    tunnel: &Tunnel,
    at_once: usize,
    time: Duration,
) -> Result<NewConnectionStats, MeasureError> {
    let started = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..at_once {
        let tunnel = tunnel.clone();
        workers.spawn(async move {
            let mut times = Vec::new();
            while times.is_empty()
                || started.elapsed() < time && times.len() < SAMPLES_MAX / at_once.max(1)
            {
                times.push(first_byte(&tunnel).await?);
            }
            Ok::<_, MeasureError>(times)
        });
    }
    let mut times = Vec::new();
    while let Some(ended) = workers.join_next().await {
        times.append(&mut ended.map_err(|_| MeasureError::EndedEarly)??);
    }
    Ok(NewConnectionStats::new(at_once, times, started.elapsed()))
}

async fn first_byte(tunnel: &Tunnel) -> Result<Duration, MeasureError> {
    let started = Instant::now();
    let stream = tunnel.open(BenchRequest::Echo.details());
    EchoStream::new(&stream, tunnel)
        .send(Bytes::from_static(b"?"))
        .await?;
    let time = started.elapsed();
    stream.finish();
    Ok(time)
}

/// A stream to the echo of the server.
struct EchoStream<'s> {
    sender: RawSender<'s>,
    receiver: RawReceiver<'s>,
}

impl<'s> EchoStream<'s> {
    fn new(stream: &'s TunnelStream, tunnel: &Tunnel) -> Self {
        let method = tunnel.port().compress;
        EchoStream {
            sender: RawSender::new(stream, method),
            receiver: RawReceiver::new(stream, method),
        }
    }

    /// Sends `content` and waits until the same number of bytes came back.
    async fn send(&mut self, content: Bytes) -> Result<(), MeasureError> {
        let mut awaited = content.len();
        self.sender.send_all(content).await?;
        while awaited > 0 {
            let Some(raw) = self.receiver.receive().await? else {
                return Err(MeasureError::EndedEarly);
            };
            awaited = awaited.saturating_sub(raw.len());
        }
        Ok(())
    }
}
