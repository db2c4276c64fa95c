//! Authenticates a link in its first flight (PROTOCOL 4): the master's challenge, the role's HELLO
//! with its first frames, and the master's WELCOME.
//!
//! ```text
//!  master                      role
//!    │ ───── challenge ──────► │
//!    │ ◄─ HELLO, REGISTER, … ─ │      the master verifies: Hello::verify_proof, verify_signature
//!    │ ─ WELCOME or ERROR ───► │      the role verifies: join
//! ```
//!
//! Each end waits for the other for at most [`AUTHENTICATION_TIMEOUT`].

mod join_error;
mod link_secret;
mod master;
mod role;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use self::{
    join_error::{JoinError, ProtocolFault},
    link_secret::LinkSecret,
    master::{Hello, HelloError, hello, refuse, welcome},
    role::{RoleIdentity, join, join_with_quiet_period},
};

/// The time that each end waits for the other: several round trips of a slow path (PROTOCOL 12).
pub const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest first message of a peer, in bytes. HELLO takes a few hundred (PROTOCOL 12,
/// `MAX_FIRST`).
pub(crate) const MAX_FIRST: usize = 4 * 1024;
