//! The built-in measurement of a tunnel: both ends of its streams, and the results.
//!
//! ```text
//!  client: BenchPlan ──► phases (BulkTransfers, round trips, new connections) ──► BenchResults
//!                      │ streams whose OPEN names the server's task: BenchRequest (PROTOCOL 9.10)
//!  server:             ▼
//!                    BenchResponder: echo, sink, source, within bounds
//! ```
//!
//! This module knows tunnels and their streams. It does not know how a tunnel is established. The
//! service behind the port sees no traffic of a measurement.

mod error;
mod payload;
mod phases;
mod plan;
mod request;
mod responder;
mod results;
#[cfg(test)]
mod tests;
mod transfers;

#[cfg(test)]
pub(crate) use self::responder::BENCH_STREAM_LIFETIME;
pub use self::{
    error::MeasureError,
    payload::{PayloadKind, UnknownPayloadKind},
    plan::{BenchPlan, CONCURRENT_CONNECTIONS, PhaseProgress},
    request::{BenchRequest, BenchRequestError},
    responder::{BENCH_STREAMS_MAX, BenchResponder, ResponderError},
    results::{
        BenchResults, NewConnectionResults, NewConnectionStats, RoundTripResults, RoundTripStats,
        Throughput, ThroughputResults,
    },
};
