//! The sequence of all measurements. Each has a time limit.

use std::time::Duration;

use tokio::time::timeout;

use super::{
    error::MeasureError,
    payload::PayloadKind,
    phases,
    results::BenchResults,
    transfers::TransferDirection::{Down, Up},
};
use crate::tunnel::Tunnel;

/// The number of connections that the last phase opens concurrently.
pub const CONCURRENT_CONNECTIONS: usize = 16;

/// How long a phase may exceed its time. Most paths recover from an interruption within this time.
const PHASE_GRACE: Duration = Duration::from_secs(20);

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
        self.run_phases(&Phase::ALL, tunnel, measured, on_progress)
            .await
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
        let sequence: Vec<Phase> = Phase::ALL
            .into_iter()
            .filter(|phase| phase.has_single_connection())
            .collect();
        self.run_phases(&sequence, tunnel, measured, on_progress)
            .await
    }

    /// Runs the phases of `sequence`, and limits the time of each.
    async fn run_phases(
        &self,
        sequence: &[Phase],
        tunnel: &Tunnel,
        measured: &mut BenchResults,
        mut on_progress: impl FnMut(PhaseProgress),
    ) -> Result<(), MeasureError> {
        let limit = self.time + phases::warm_up(self.time) + PHASE_GRACE;
        for (index, phase) in sequence.iter().enumerate() {
            let name = phase.name();
            on_progress(PhaseProgress {
                number: index.saturating_add(1),
                total: sequence.len(),
                phase: name,
            });
            timeout(limit, phase.measure(self, tunnel, measured))
                .await
                .unwrap_or(Err(MeasureError::Stalled {
                    phase: name,
                    excess: PHASE_GRACE,
                }))?;
        }
        Ok(())
    }
}

/// A phase of a measurement. Each has its own field in [`BenchResults`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    RoundTripIdle,
    ThroughputUp,
    ThroughputDown,
    ThroughputUpParallel,
    ThroughputDownParallel,
    RoundTripBesideUp,
    RoundTripBesideDown,
    NewConnectionsInTurn,
    NewConnectionsAtOnce,
}

impl Phase {
    /// All phases, in order.
    const ALL: [Phase; 9] = [
        Phase::RoundTripIdle,
        Phase::ThroughputUp,
        Phase::ThroughputDown,
        Phase::ThroughputUpParallel,
        Phase::ThroughputDownParallel,
        Phase::RoundTripBesideUp,
        Phase::RoundTripBesideDown,
        Phase::NewConnectionsInTurn,
        Phase::NewConnectionsAtOnce,
    ];

    /// Returns the measured quantity.
    fn name(self) -> &'static str {
        match self {
            Phase::RoundTripIdle => "round trip, idle",
            Phase::ThroughputUp => "throughput up, 1 connection",
            Phase::ThroughputDown => "throughput down, 1 connection",
            Phase::ThroughputUpParallel => "throughput up, several connections",
            Phase::ThroughputDownParallel => "throughput down, several connections",
            Phase::RoundTripBesideUp => "round trip during an upload",
            Phase::RoundTripBesideDown => "round trip during a download",
            Phase::NewConnectionsInTurn => "new connections in turn",
            Phase::NewConnectionsAtOnce => "new connections at once",
        }
    }

    /// Whether the phase measures one connection, alone or beside one transfer.
    fn has_single_connection(self) -> bool {
        match self {
            Phase::RoundTripIdle
            | Phase::ThroughputUp
            | Phase::ThroughputDown
            | Phase::RoundTripBesideUp
            | Phase::RoundTripBesideDown => true,
            Phase::ThroughputUpParallel
            | Phase::ThroughputDownParallel
            | Phase::NewConnectionsInTurn
            | Phase::NewConnectionsAtOnce => false,
        }
    }

    /// Runs the phase and stores its result in its field of `measured`.
    async fn measure(
        self,
        plan: &BenchPlan,
        tunnel: &Tunnel,
        measured: &mut BenchResults,
    ) -> Result<(), MeasureError> {
        let BenchPlan {
            time,
            connections,
            data,
        } = *plan;
        let BenchResults {
            throughput,
            round_trip,
            new_connections,
        } = measured;
        let bulk =
            |direction, connections| phases::throughput(tunnel, direction, connections, data, time);
        let beside = |direction| phases::under_load(tunnel, direction, data, time);
        let opened = |at_once| phases::new_connections(tunnel, at_once, time);
        match self {
            Phase::RoundTripIdle => {
                round_trip.idle = Some(phases::idle(tunnel, data, time).await?);
            }
            Phase::ThroughputUp => throughput.up = Some(bulk(Up, 1).await?),
            Phase::ThroughputDown => throughput.down = Some(bulk(Down, 1).await?),
            Phase::ThroughputUpParallel => {
                throughput.up_parallel = Some(bulk(Up, connections).await?);
            }
            Phase::ThroughputDownParallel => {
                throughput.down_parallel = Some(bulk(Down, connections).await?);
            }
            Phase::RoundTripBesideUp => round_trip.beside_up = Some(beside(Up).await?),
            Phase::RoundTripBesideDown => round_trip.beside_down = Some(beside(Down).await?),
            Phase::NewConnectionsInTurn => new_connections.in_turn = Some(opened(1).await?),
            Phase::NewConnectionsAtOnce => {
                new_connections.at_once = Some(opened(CONCURRENT_CONNECTIONS).await?);
            }
        }
        Ok(())
    }
}
