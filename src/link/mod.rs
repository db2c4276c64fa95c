//! One WebSocket between a role and a master: dialling, TLS, authentication, keep-alive and the
//! scheduler of its channels.
//!
//! ```text
//!  role:   dial ──► MessageSocket ──► authenticate::join ──────────► Link::run ──► EndReason
//!  master: accept ► MessageSocket ──► challenge, hello, welcome ───► Link::run ──► EndReason
//!                                                                     │   ▲
//!                                                 Lane::receive ◄─────┘   └── Outbox
//!                                                  Outbox ◄── Lane::transmit, control frames
//! ```
//!
//! This module knows WebSocket messages and frames, and not the content of a channel.

pub mod accept;
mod address;
pub mod authenticate;
pub mod backoff;
pub mod channel;
pub mod connect;
pub mod dial;
pub mod drain;
pub mod file_limit;
pub mod keep_alive;
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
pub use keep_alive::KeepAliveTiming;
#[cfg(test)]
pub(crate) use outbox::ANSWERS_WAITING;
pub use outbox::MemoryAccount;
pub use reason::Reason;
pub use session::{EndReason, Handler, Link, LinkSummary};
pub use websocket::{MessageSocket, SocketError};
