//! Keeps a role linked to a master: dials, joins, runs the link, and starts again, without end.
//! Moves to a new link before the current one breaks if the break can be predicted. With several
//! masters it tries the next one after a failure, or tries some of them in parallel.
//!
//! ```text
//!   LinkSet ──► LinkSupervisor ──► Attempt (one link, from dialling to its end)
//!     │           │                  │ reports: joined, GOAWAY
//!     │           ├── RetryPolicy: which master to dial next, and when
//!     │           ├── PathTimeouts: age and idle limits of the path
//!     │           └── Race: which of several attempts joins first
//!     ├── LinkPool: replaces the sets after a change of the configuration, with a Handover
//!     ├── one supervisor for each slot: the first always, the others while the role wants them
//!     ├── keep_apart: a server's links go to different masters behind one name
//!     └── monitor_links ──► LinkDemand: how many links the role wants, by what the kernel reports
//! ```

/// Logs an event of a link at the given level, and at debug level if the link is an additional one:
/// the first link of the set logs the same.
macro_rules! log_link {
    ($is_additional:expr, $level:ident, $($event:tt)+) => {
        if $is_additional {
            tracing::debug!($($event)+)
        } else {
            tracing::$level!($($event)+)
        }
    };
}

mod attempt;
pub mod backoff;
mod black_hole;
pub mod changes;
mod dial_reason;
pub mod drain;
mod handover;
pub mod link_demand;
pub mod link_monitor;
mod link_pool;
mod link_set;
mod link_supervisor;
mod managed_link;
mod master_spread;
mod membership;
mod path_timeouts;
mod race;
mod retry_policy;
#[cfg(test)]
mod tests;
mod uplink;

pub use self::{
    link_pool::LinkPool,
    link_set::{LinkCount, LinkSet},
    uplink::{
        Connector, DialStrategy, LinkEvent, LinkedRole, MoveRequests, RETIREMENT, RetirementCause,
        RoleLink, Uplink,
    },
};
