//! One WebSocket between a role and a master: dialling, TLS, authentication, heartbeat, the order of sending.
//!
//! ```text
//!  role:   dial ──► MessageSocket ──► authenticate::join ────────────► Link::run ──► LinkEnd
//!  master: accept ► MessageSocket ──► challenge, hello, welcome ─────► Link::run ──► LinkEnd
//!                                                                        │  ▲
//!                                                     Lane::receive ◄────┘  └──── Outbox ◄── Lane::transmit, control frames
//! ```
//!
//! Knows WebSocket messages and frames; not what a channel carries.

pub mod accept;
mod address;
pub mod authenticate;
pub mod backoff;
pub mod channel;
pub mod connect;
pub mod dial;
pub mod drain;
pub mod files;
pub mod heartbeat;
pub mod memory;
mod outbox;
pub mod proxy;
pub mod proxy_protocol;
pub mod read_ahead;
mod reason;
mod resolve;
pub mod session;
pub mod tcp;
pub mod tls;
pub mod upgrade;
pub mod uplink;
pub mod websocket;
mod write_through;

pub use channel::{Lane, Outbox, Transmit};
pub use heartbeat::Timing;
#[cfg(test)]
pub(crate) use outbox::ANSWERS_WAITING;
pub use outbox::Ledger;
pub use reason::Reason;
pub use session::{Ended, Handler, Link, LinkEnd};
pub use websocket::{MessageSocket, SocketError};
