//! Bulk transfers through a tunnel: as many connections as asked for, and how much each has moved.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    task::{JoinSet, coop::consume_budget},
    time::{Instant, sleep},
};

use super::{
    content::{Data, Feed},
    peer::LIFETIME,
    plan::MeasureError,
    request::Request,
    results::Throughput,
};
use crate::{
    compress::MAX_CHUNK,
    tunnel::{
        Tunnel, TunnelStream,
        raw::{RawError, RawReceiver, RawSender},
    },
};

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// How often it is looked whether anything has moved, when nothing had at the end of the time.
const LOOK: Duration = Duration::from_millis(5);

/// Running transfers.
pub struct Load {
    tasks: JoinSet<Result<Infallible, MeasureError>>,
    /// Bytes that have arrived, for each connection.
    moved: Vec<Arc<AtomicU64>>,
}

impl Load {
    /// Starts `connections` transfers of `data`. They end when the load is dropped.
    pub fn start(tunnel: &Tunnel, direction: Direction, connections: usize, data: Data) -> Self {
        let mut load = Load {
            tasks: JoinSet::new(),
            moved: Vec::new(),
        };
        for _ in 0..connections {
            let (tunnel, moved) = (tunnel.clone(), Arc::<AtomicU64>::default());
            load.moved.push(Arc::clone(&moved));
            load.tasks.spawn(async move {
                match direction {
                    Direction::Up => up(&tunnel, data, &moved).await,
                    Direction::Down => down(&tunnel, data, &moved).await,
                }
            });
        }
        load
    }

    /// Lets it run for this long.
    ///
    /// # Errors
    /// When a transfer failed.
    pub async fn run_for(&mut self, time: Duration) -> Result<(), MeasureError> {
        self.unless_failed(sleep(time)).await
    }

    /// What `work` gives, unless a transfer fails before.
    ///
    /// # Errors
    /// When a transfer failed.
    pub async fn unless_failed<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> Result<T, MeasureError> {
        tokio::select! {
            done = work => Ok(done),
            Some(ended) = self.tasks.join_next() => match ended {
                Ok(Ok(never)) => match never {},
                Ok(Err(error)) => Err(error),
                Err(_) => Err(MeasureError::EndedEarly),
            },
        }
    }

    /// Measures for this long, and longer as long as nothing has moved.
    ///
    /// # Errors
    /// When a transfer failed.
    pub async fn measure(&mut self, time: Duration) -> Result<Throughput, MeasureError> {
        let (begun, before) = (Instant::now(), self.counts());
        self.run_for(time).await?;
        loop {
            let (took, after) = (begun.elapsed(), self.counts());
            let moved: Vec<u64> = after
                .iter()
                .zip(&before)
                .map(|(after, before)| after.saturating_sub(*before))
                .collect();
            if moved.iter().any(|&bytes| bytes > 0) {
                return Ok(Throughput::new(&moved, took));
            }
            self.run_for(LOOK).await?;
        }
    }

    /// Ends it, and waits until its streams have been given up.
    pub async fn end(mut self) {
        self.tasks.shutdown().await;
    }

    fn counts(&self) -> Vec<u64> {
        self.moved.iter().map(|moved| moved.load(Relaxed)).collect()
    }
}

/// What arrives is what the server says has arrived: what was written may still be on the way.
async fn up(tunnel: &Tunnel, data: Data, moved: &AtomicU64) -> Result<Infallible, MeasureError> {
    let stream = tunnel.open(Request::Sink.details());
    let method = tunnel.port().compress;
    let mut sender = RawSender::new(&stream, method);
    let sending = async {
        let mut feed = Feed::new(data);
        loop {
            let sent = sender.send(&feed.next(MAX_CHUNK)).await?;
            feed.advance(sent);
            consume_budget().await;
        }
    };
    tokio::select! {
        failed = sending => failed,
        failed = hear(&stream, moved, tunnel) => failed,
    }
}

/// Takes the reports of a sink.
async fn hear(
    stream: &TunnelStream,
    moved: &AtomicU64,
    tunnel: &Tunnel,
) -> Result<Infallible, MeasureError> {
    let mut receiver = RawReceiver::new(stream, tunnel.port().compress);
    let mut reports = BytesMut::new();
    while let Some(raw) = receiver.receive().await? {
        reports.extend_from_slice(&raw);
        while reports.len() >= size_of::<u64>() {
            moved.store(reports.get_u64(), Relaxed);
        }
    }
    Err(MeasureError::EndedEarly)
}

async fn down(tunnel: &Tunnel, data: Data, moved: &AtomicU64) -> Result<Infallible, MeasureError> {
    let duration_ms = u64::try_from(LIFETIME.as_millis()).unwrap_or(u64::MAX);
    let stream = tunnel.open(
        Request::Source {
            data,
            duration_ms,
            bytes: u64::MAX,
        }
        .details(),
    );
    stream.finish();
    let mut receiver = RawReceiver::new(&stream, tunnel.port().compress);
    while let Some(raw) = receiver.receive().await? {
        moved.fetch_add(raw.len() as u64, Relaxed);
        consume_budget().await;
    }
    Err(MeasureError::EndedEarly)
}

impl From<RawError> for MeasureError {
    fn from(error: RawError) -> Self {
        MeasureError::of_stream(error)
    }
}
