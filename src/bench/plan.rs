//! The sequence of all measurements. Each has a time limit.

use std::time::Duration;

use tokio::time::timeout;

use super::{
    payload::PayloadKind, phases, responder::BENCH_STREAMS_MAX, results::BenchResults,
    transfers::TransferDirection,
};
use crate::tunnel::{ResetCode, Tunnel, TunnelStreamError, raw::RawError};

/// The number of connections that the last phase opens concurrently.
pub const CONCURRENT_CONNECTIONS: usize = 16;

/// How long a phase may exceed its time. Most paths recover from an interruption within this time.
const PHASE_GRACE: Duration = Duration::from_secs(20);

/// The number of phases of a full measurement.
const PHASES: usize = 9;

/// The number of phases of a measurement with one connection.
const SINGLE_CONNECTION_PHASES: usize = 5;

/// The parameters of a measurement.
#[derive(Debug, Clone, Copy)]
pub struct BenchPlan {
    /// How long each phase measures.
    pub time: Duration,
    /// The number of connections in the phases with parallel transfers.
    pub connections: usize,
    /// The kind of data that is sent.
    pub data: PayloadKind,
}

/// Reports the start of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhaseProgress {
    /// The number of the phase, from 1.
    pub number: usize,
    /// The number of all phases.
    pub total: usize,
    /// The measured quantity.
    pub phase: &'static str,
}

/// Why a measurement failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}; {}", self.evidence(), self.remedy())]
pub enum MeasureError {
    /// A phase exceeded its time limit.
    Stalled {
        /// The phase.
        phase: &'static str,
    },
    /// The server already has the maximum number of benchmark streams.
    Full,
    /// The server does not support this measurement.
    Unknown,
    /// The server ended a benchmark stream too early.
    EndedEarly,
    /// The stream or the tunnel failed.
    Stream(RawError),
}

impl MeasureError {
    /// Returns the observation.
    #[must_use]
    pub fn evidence(&self) -> String {
        match self {
            MeasureError::Stalled { phase } => format!(
                "tunnel: {phase} exceeded its time by {} s: the path is stalled",
                PHASE_GRACE.as_secs()
            ),
            MeasureError::Full => format!(
                "stream: the server allows {BENCH_STREAMS_MAX} concurrent benchmark streams per tunnel"
            ),
            MeasureError::Unknown => {
                "stream: the server does not support this measurement".to_owned()
            }
            MeasureError::EndedEarly => {
                "stream: the server ended a benchmark stream too early".to_owned()
            }
            MeasureError::Stream(error) => format!("tunnel: {error}"),
        }
    }

    /// Returns the remedy.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            MeasureError::Stalled { .. } => "check the server's log for a lost link",
            MeasureError::Full => "use fewer --connections",
            MeasureError::Unknown => "upgrade the older end",
            MeasureError::EndedEarly | MeasureError::Stream(_) => "check the server's log",
        }
    }

    pub(super) fn of_stream(error: RawError) -> Self {
        let code = match &error {
            RawError::Stream(error) => TunnelStreamError::reset_code(error),
            RawError::Corrupt(_) => None,
        };
        match code {
            Some(ResetCode::Limit) => MeasureError::Full,
            Some(ResetCode::Refused) => MeasureError::Unknown,
            _ => MeasureError::Stream(error),
        }
    }
}

impl BenchPlan {
    /// Runs all phases through `tunnel`. The server must accept benchmark streams. `measured` holds
    /// the results of finished phases, even after an error or when the future is dropped.
    ///
    /// # Errors
    /// Fails when a phase fails. Later phases do not run.
    ///
    /// # Cancel safety
    /// Dropping the future stops the running phase. `measured` keeps the results of finished
    /// phases.
    pub async fn run(
        &self,
        tunnel: &Tunnel,
        measured: &mut BenchResults,
        on_progress: impl FnMut(PhaseProgress),
    ) -> Result<(), MeasureError> {
        use TransferDirection::{Down, Up};
        let BenchPlan {
            time,
            connections,
            data,
        } = *self;
        let BenchResults {
            throughput,
            round_trip,
            new_connections,
        } = measured;
        let mut steps = PhaseRunner {
            number: 0,
            total: PHASES,
            time,
            on_progress,
        };
        let bulk =
            |direction, connections| phases::throughput(tunnel, direction, connections, data, time);
        round_trip.idle = steps
            .run("round trip, idle", phases::idle(tunnel, data, time))
            .await?;
        throughput.up = steps
            .run("throughput up, 1 connection", bulk(Up, 1))
            .await?;
        throughput.down = steps
            .run("throughput down, 1 connection", bulk(Down, 1))
            .await?;
        throughput.up_parallel = steps
            .run("throughput up, several connections", bulk(Up, connections))
            .await?;
        throughput.down_parallel = steps
            .run(
                "throughput down, several connections",
                bulk(Down, connections),
            )
            .await?;
        round_trip.beside_up = steps
            .run(
                "round trip during an upload",
                phases::under_load(tunnel, Up, data, time),
            )
            .await?;
        round_trip.beside_down = steps
            .run(
                "round trip during a download",
                phases::under_load(tunnel, Down, data, time),
            )
            .await?;
        new_connections.in_turn = steps
            .run(
                "new connections in turn",
                phases::new_connections(tunnel, 1, time),
            )
            .await?;
        new_connections.at_once = steps
            .run(
                "new connections at once",
                phases::new_connections(tunnel, CONCURRENT_CONNECTIONS, time),
            )
            .await?;
        Ok(())
    }

    /// Runs only the phases with one connection: round trips, and throughput in both directions.
    ///
    /// # Errors
    /// Fails when a phase fails. Later phases do not run.
    ///
    /// # Cancel safety
    /// Dropping the future stops the running phase. `measured` keeps the results of finished
    /// phases.
    pub async fn run_single_connection(
        &self,
        tunnel: &Tunnel,
        measured: &mut BenchResults,
        on_progress: impl FnMut(PhaseProgress),
    ) -> Result<(), MeasureError> {
        use TransferDirection::{Down, Up};
        let BenchPlan { time, data, .. } = *self;
        let BenchResults {
            throughput,
            round_trip,
            ..
        } = measured;
        let mut steps = PhaseRunner {
            number: 0,
            total: SINGLE_CONNECTION_PHASES,
            time,
            on_progress,
        };
        let bulk = |direction| phases::throughput(tunnel, direction, 1, data, time);
        round_trip.idle = steps
            .run("round trip, idle", phases::idle(tunnel, data, time))
            .await?;
        throughput.up = steps.run("throughput up, 1 connection", bulk(Up)).await?;
        throughput.down = steps
            .run("throughput down, 1 connection", bulk(Down))
            .await?;
        round_trip.beside_up = steps
            .run(
                "round trip during an upload",
                phases::under_load(tunnel, Up, data, time),
            )
            .await?;
        round_trip.beside_down = steps
            .run(
                "round trip during a download",
                phases::under_load(tunnel, Down, data, time),
            )
            .await?;
        Ok(())
    }
}

/// Counts the phases and limits the time of each.
struct PhaseRunner<F> {
    number: usize,
    total: usize,
    time: Duration,
    on_progress: F,
}

impl<F: FnMut(PhaseProgress)> PhaseRunner<F> {
    async fn run<T>(
        &mut self,
        phase: &'static str,
        measure: impl Future<Output = Result<T, MeasureError>>,
    ) -> Result<Option<T>, MeasureError> {
        self.number = self.number.saturating_add(1);
        (self.on_progress)(PhaseProgress {
            number: self.number,
            total: self.total,
            phase,
        });
        let limit = self.time + phases::warm_up(self.time) + PHASE_GRACE;
        timeout(limit, measure)
            .await
            .unwrap_or(Err(MeasureError::Stalled { phase }))
            .map(Some)
    }
}
