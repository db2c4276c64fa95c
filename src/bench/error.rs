//! The failure of a measurement.

use std::time::Duration;

use super::responder::BENCH_STREAMS_MAX;
use crate::tunnel::{ResetCode, TunnelStreamError, raw::RawError};

/// Why a measurement failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}; {}", self.evidence(), self.remedy())]
pub enum MeasureError {
    /// A phase exceeded its time limit.
    Stalled {
        /// The phase.
        phase: &'static str,
        /// How long the phase exceeded its time.
        excess: Duration,
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
            MeasureError::Stalled { phase, excess } => format!(
                "tunnel: {phase} exceeded its time by {} s: the path is stalled",
                excess.as_secs()
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
}

impl From<RawError> for MeasureError {
    fn from(error: RawError) -> Self {
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
