//! Keeps a role linked to a master: dials, joins, runs the link, and starts again, without end.
//! Moves to a new link before the current one breaks if the break can be predicted. With several
//! masters it tries the next one after a failure, or tries some of them in parallel.
//!
//! ```text
//!   Uplink::run ──► LinkSupervisor ──► Attempt (one link, from dialling to its end)
//!                     │                  │ reports: joined, GOAWAY
//!                     ├── RetryPolicy: which master to dial next, and when
//!                     ├── PathTimeouts: age and idle limits of the path
//!                     └── Race: which of several attempts joins first
//!
//!   monitor_links ──► LinkDemand: how many links a role wants
//!     └── samples the kernel's statistics of the links' TCP connections
//! ```

mod attempt;
pub mod backoff;
mod black_hole;
mod dial_reason;
pub mod drain;
pub mod link_demand;
pub mod link_monitor;
mod link_supervisor;
mod managed_link;
mod path_timeouts;
mod race;
mod retry_policy;
#[cfg(test)]
mod tests;
mod uplink;

pub use self::uplink::{
    Connector, DialStrategy, LinkEvent, LinkedRole, MoveRequests, RETIREMENT, Uplink,
};
