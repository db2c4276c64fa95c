//! One link: authentication, keep-alive, and the send schedule of its channels.
//!
//! ```text
//!  role:   MessageSocket ──► authenticate::join ──────────► Link::run ──► EndReason
//!  master: MessageSocket ──► challenge, hello, welcome ───► Link::run ──► EndReason
//!                                                            │   ▲
//!                                  ChannelEnd::receive ◄─────┘   └── Outbox
//!                                   Outbox ◄── ChannelEnd::transmit, control frames
//! ```
//!
//! This module knows messages and frames. It does not know the content of a channel, and it does
//! not know how the socket came to exist.

pub mod authenticate;
pub mod channel;
pub mod keep_alive;
pub mod outbox;
pub mod session;

pub use channel::{ChannelEnd, ChannelHandle, LinkId, Transmit};
pub use keep_alive::KeepAliveTiming;
pub use outbox::Outbox;
pub use session::{EndReason, Handler, Link, LinkSummary};

/// An account to which a link charges its memory.
pub trait MemoryAccount: Send + Sync {
    /// Charges `bytes`.
    fn charge(&self, bytes: usize);

    /// Refunds `bytes` that were charged.
    fn refund(&self, bytes: usize);
}
