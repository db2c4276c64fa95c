//! The built-in measure of the way from a client to a server: both ends of the streams that measure, and what is made of their bytes and times.
//!
//! ```text
//!  client: Plan ──► phases (Load, round trips, new connections) ──► Measured
//!                     │ streams whose OPEN says what the other end does: Request (PROTOCOL 9.10)
//!  server:            ▼
//!                   Peer: echo, sink, source, within bounds
//! ```
//!
//! Knows tunnels and their streams; not how a tunnel comes about, and nothing of the service behind the port: it hears nothing of a measure.

mod content;
mod load;
mod peer;
mod phases;
mod plan;
mod request;
mod results;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use self::peer::LIFETIME;
pub use self::{
    content::{Data, UnknownData},
    peer::{PLACES, Peer, PeerError},
    plan::{AT_ONCE, MeasureError, Plan, Progress},
    request::{Request, RequestError},
    results::{
        Measured, NewConnections, NewConnectionsAll, RoundTrip, RoundTripAll, Throughput,
        ThroughputAll,
    },
};
