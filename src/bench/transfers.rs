//! Bulk transfers through a tunnel over a number of connections, with the bytes that each moved.

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
    error::MeasureError,
    payload::{PayloadKind, PayloadStream},
    request::BenchRequest,
    responder::BENCH_STREAM_LIFETIME,
    results::Throughput,
};
use crate::tunnel::{
    Tunnel, TunnelStream,
    raw::{RawReceiver, RawSender},
};
use report_proto::compress::MAX_CHUNK;

/// The direction of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TransferDirection {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// How often [`BulkTransfers::measure`] checks for progress after a phase without any.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Running transfers.
pub(super) struct BulkTransfers {
    tasks: JoinSet<Result<Infallible, MeasureError>>,
    /// The received bytes of each connection.
    moved: Vec<Arc<AtomicU64>>,
}

impl BulkTransfers {
    /// Starts `connections` transfers of `data`. Dropping the value stops them.
    pub(super) fn start(
        tunnel: &Tunnel,
        direction: TransferDirection,
        connections: usize,
        data: PayloadKind,
    ) -> Self {
        let mut transfers = BulkTransfers {
            tasks: JoinSet::new(),
            moved: Vec::new(),
        };
        for _ in 0..connections {
            let (tunnel, moved) = (tunnel.clone(), Arc::<AtomicU64>::default());
            transfers.moved.push(Arc::clone(&moved));
            transfers.tasks.spawn(async move {
                match direction {
                    TransferDirection::Up => upload(&tunnel, data, &moved).await,
                    TransferDirection::Down => download(&tunnel, data, &moved).await,
                }
            });
        }
        transfers
    }

    /// Lets the transfers run for `time`.
    ///
    /// # Errors
    /// Fails when a transfer fails.
    pub(super) async fn run_for(&mut self, time: Duration) -> Result<(), MeasureError> {
        self.run_alongside(sleep(time)).await
    }

    /// Runs `work` and returns its result unless a transfer fails first.
    ///
    /// # Errors
    /// Fails when a transfer fails.
    pub(super) async fn run_alongside<T>(
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

    /// Measures for `time`, or longer until at least one byte has moved.
    ///
    /// # Errors
    /// Fails when a transfer fails.
    pub(super) async fn measure(&mut self, time: Duration) -> Result<Throughput, MeasureError> {
        let (started, before) = (Instant::now(), self.counts());
        self.run_for(time).await?;
        loop {
            let (took, after) = (started.elapsed(), self.counts());
            let moved: Vec<u64> = after
                .iter()
                .zip(&before)
                .map(|(after, before)| after.saturating_sub(*before))
                .collect();
            // Zero bytes are no result on a slow path, so wait for the first ones.
            if moved.iter().any(|&bytes| bytes > 0) {
                return Ok(Throughput::new(&moved, took));
            }
            self.run_for(POLL_INTERVAL).await?;
        }
    }

    /// Stops the transfers and waits until they have reset their streams.
    pub(super) async fn stop(mut self) {
        self.tasks.shutdown().await;
    }

    fn counts(&self) -> Vec<u64> {
        self.moved.iter().map(|moved| moved.load(Relaxed)).collect()
    }
}

/// Sends to a sink of the server. Only bytes that the sink reports count, because sent bytes may
/// still be in flight.
async fn upload(
    tunnel: &Tunnel,
    data: PayloadKind,
    moved: &AtomicU64,
) -> Result<Infallible, MeasureError> {
    let stream = tunnel.open(BenchRequest::Sink.details());
    let method = tunnel.port().compress;
    let mut sender = RawSender::new(&stream, method);
    let sending = async {
        let mut feed = PayloadStream::new(data);
        loop {
            let sent = sender.send(&feed.next(MAX_CHUNK)).await?;
            feed.advance(sent);
            consume_budget().await;
        }
    };
    tokio::select! {
        failed = sending => failed,
        failed = read_reports(&stream, moved, tunnel) => failed,
    }
}

/// Reads the reports of a sink.
async fn read_reports(
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

async fn download(
    tunnel: &Tunnel,
    data: PayloadKind,
    moved: &AtomicU64,
) -> Result<Infallible, MeasureError> {
    let duration_ms = u64::try_from(BENCH_STREAM_LIFETIME.as_millis()).unwrap_or(u64::MAX);
    let stream = tunnel.open(
        BenchRequest::Source {
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
