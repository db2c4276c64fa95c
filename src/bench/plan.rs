//! All measures, one after the other, each bounded in time.

use std::time::Duration;

use tokio::time::timeout;

use super::{content::Data, load::Direction, peer::PLACES, phases, results::Measured};
use crate::tunnel::{ResetCode, Tunnel, TunnelStreamError, raw::RawError};

/// New connections that are opened at once.
pub const AT_ONCE: usize = 16;

/// What a phase may take beyond its time: a path that is cut meanwhile is back by then, most of the time.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many phases there are in all.
const PHASES: usize = 9;

/// How many of them are about one connection.
const PHASES_OF_ONE: usize = 5;

/// What is to be measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How long each phase measures.
    pub time: Duration,
    /// How many connections share the throughput when it is not one.
    pub connections: usize,
    /// What is sent.
    pub data: Data,
}

/// A phase begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Counts from 1.
    pub number: usize,
    /// How many there are.
    pub of: usize,
    /// What is measured.
    pub phase: &'static str,
}

/// Why the measure did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MeasureError {
    /// A phase took too long.
    #[error(
        "tunnel: the {phase} took {} s longer than it should: the path stands still; the server's log says whether a link was lost",
        PATIENCE.as_secs()
    )]
    Stalled {
        /// Which.
        phase: &'static str,
    },
    /// The server has as many measuring streams as it takes.
    #[error(
        "stream: the server takes no more than {PLACES} measuring streams of a tunnel at a time; take fewer --connections"
    )]
    Full,
    /// The server does not know the measure.
    #[error("stream: the server does not know this measure; upgrade the older one of the two ends")]
    Unknown,
    /// The server ended a measuring stream that it should not have ended.
    #[error("stream: the server ended a measuring stream too early; its log says why")]
    EndedEarly,
    /// The stream or the tunnel failed.
    #[error("tunnel: {0}; the server's log says why")]
    Stream(RawError),
}

impl MeasureError {
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

impl Plan {
    /// Measures everything through `tunnel`, whose server takes measuring streams. What is done stands in `measured`, also when it fails or is
    /// dropped.
    ///
    /// # Errors
    /// When a phase failed; those after it are not tried.
    ///
    /// # Cancel safety
    /// Dropping the future ends what runs; `measured` has what was done.
    pub async fn run(
        &self,
        tunnel: &Tunnel,
        measured: &mut Measured,
        tell: impl FnMut(Progress),
    ) -> Result<(), MeasureError> {
        use Direction::{Down, Up};
        let Plan {
            time,
            connections,
            data,
        } = *self;
        let Measured {
            throughput,
            round_trip,
            new_connections,
        } = measured;
        let mut steps = Steps {
            number: 0,
            of: PHASES,
            time,
            tell,
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
                "round trip beside a transfer up",
                phases::loaded(tunnel, Up, data, time),
            )
            .await?;
        round_trip.beside_down = steps
            .run(
                "round trip beside a transfer down",
                phases::loaded(tunnel, Down, data, time),
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
                phases::new_connections(tunnel, AT_ONCE, time),
            )
            .await?;
        Ok(())
    }

    /// The same for one connection alone: round trips, and throughput both ways.
    ///
    /// # Errors
    /// When a phase failed; those after it are not tried.
    ///
    /// # Cancel safety
    /// Dropping the future ends what runs; `measured` has what was done.
    pub async fn run_for_one(
        &self,
        tunnel: &Tunnel,
        measured: &mut Measured,
        tell: impl FnMut(Progress),
    ) -> Result<(), MeasureError> {
        use Direction::{Down, Up};
        let Plan { time, data, .. } = *self;
        let Measured {
            throughput,
            round_trip,
            ..
        } = measured;
        let mut steps = Steps {
            number: 0,
            of: PHASES_OF_ONE,
            time,
            tell,
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
                "round trip beside a transfer up",
                phases::loaded(tunnel, Up, data, time),
            )
            .await?;
        round_trip.beside_down = steps
            .run(
                "round trip beside a transfer down",
                phases::loaded(tunnel, Down, data, time),
            )
            .await?;
        Ok(())
    }
}

/// Counts the phases, and bounds each.
struct Steps<F> {
    number: usize,
    of: usize,
    time: Duration,
    tell: F,
}

impl<F: FnMut(Progress)> Steps<F> {
    async fn run<T>(
        &mut self,
        phase: &'static str,
        measure: impl Future<Output = Result<T, MeasureError>>,
    ) -> Result<Option<T>, MeasureError> {
        self.number = self.number.saturating_add(1);
        (self.tell)(Progress {
            number: self.number,
            of: self.of,
            phase,
        });
        let limit = self.time + phases::warm_up(self.time) + PATIENCE;
        timeout(limit, measure)
            .await
            .unwrap_or(Err(MeasureError::Stalled { phase }))
            .map(Some)
    }
}
