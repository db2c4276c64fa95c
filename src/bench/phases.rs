//! The single measures: one function for each, from a tunnel and a time to a result.

use std::time::Duration;

use bytes::Bytes;
use tokio::{task::JoinSet, time::Instant};

use super::{
    content::{Data, Feed},
    load::{Direction, Load},
    plan::MeasureError,
    request::Request,
    results::{NewConnections, RoundTrip, Throughput},
};
use crate::tunnel::{
    Tunnel, TunnelStream,
    raw::{RawReceiver, RawSender},
};

/// Bytes of an echo: a key stroke with what terminals and protocols put around it.
const ECHO: usize = 64;

/// A phase ends early with this many samples: beyond, percentiles do not become better, and each takes memory.
const SAMPLES_MAX: usize = 1_000_000;

/// What windows and compressors may take to find their size is not counted: a quarter of the time, at most this.
const WARM_UP_MAX: Duration = Duration::from_secs(1);

pub(super) fn warm_up(time: Duration) -> Duration {
    (time / 4).min(WARM_UP_MAX)
}

/// How much goes through in `time`.
pub(super) async fn throughput(
    tunnel: &Tunnel,
    direction: Direction,
    connections: usize,
    data: Data,
    time: Duration,
) -> Result<Throughput, MeasureError> {
    let mut load = Load::start(tunnel, direction, connections, data);
    load.run_for(warm_up(time)).await?;
    let measured = load.measure(time).await;
    load.end().await;
    measured
}

/// How long an echo takes while nothing else goes through the tunnel.
pub(super) async fn idle(
    tunnel: &Tunnel,
    data: Data,
    time: Duration,
) -> Result<RoundTrip, MeasureError> {
    echoes(tunnel, data, time).await.map(RoundTrip::new)
}

/// The same beside a bulk transfer.
pub(super) async fn loaded(
    tunnel: &Tunnel,
    beside: Direction,
    data: Data,
    time: Duration,
) -> Result<RoundTrip, MeasureError> {
    let mut load = Load::start(tunnel, beside, 1, data);
    load.run_for(warm_up(time)).await?;
    let echoed = load.unless_failed(echoes(tunnel, data, time)).await;
    load.end().await;
    echoed?.map(RoundTrip::new)
}

async fn echoes(
    tunnel: &Tunnel,
    data: Data,
    time: Duration,
) -> Result<Vec<Duration>, MeasureError> {
    let stream = tunnel.open(Request::Echo.details());
    let mut echo = Echo::new(&stream, tunnel);
    let mut feed = Feed::new(data);
    // The first one opens the stream.
    echo.send(feed.exactly(ECHO)).await?;
    let (begun, mut times) = (Instant::now(), Vec::new());
    loop {
        let sent = Instant::now();
        echo.send(feed.exactly(ECHO)).await?;
        times.push(sent.elapsed());
        if begun.elapsed() >= time || times.len() >= SAMPLES_MAX {
            return Ok(times);
        }
    }
}

/// How many streams can be opened, `at_once` at a time, each waiting for its first echoed byte.
pub(super) async fn new_connections(
    tunnel: &Tunnel,
    at_once: usize,
    time: Duration,
) -> Result<NewConnections, MeasureError> {
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..at_once {
        let tunnel = tunnel.clone();
        workers.spawn(async move {
            let mut times = Vec::new();
            while times.is_empty()
                || begun.elapsed() < time && times.len() < SAMPLES_MAX / at_once.max(1)
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
    Ok(NewConnections::new(at_once, times, begun.elapsed()))
}

async fn first_byte(tunnel: &Tunnel) -> Result<Duration, MeasureError> {
    let begun = Instant::now();
    let stream = tunnel.open(Request::Echo.details());
    Echo::new(&stream, tunnel)
        .send(Bytes::from_static(b"?"))
        .await?;
    let time = begun.elapsed();
    stream.finish();
    Ok(time)
}

/// A stream to an echo.
struct Echo<'s> {
    sender: RawSender<'s>,
    receiver: RawReceiver<'s>,
}

impl<'s> Echo<'s> {
    fn new(stream: &'s TunnelStream, tunnel: &Tunnel) -> Self {
        let method = tunnel.port().compress;
        Echo {
            sender: RawSender::new(stream, method),
            receiver: RawReceiver::new(stream, method),
        }
    }

    /// Sends, and waits until as much has come back.
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
