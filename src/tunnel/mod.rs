//! The end-to-end session of one client and one server under one port key.
//!
//! A tunnel drives a [`mux`] over a sequence of channels. It performs the handshake, seals and
//! compresses, and splices streams to local sockets.
//!
//! ```text
//!  socket ⇄ splice ⇄ compress ⇄ TunnelStream ⇄ mux ⇄ seal ⇄ Attachment (a Lane) ⇄ the link
//!                                 Tunnel: outlives ▲ its attachments
//! ```
//!
//! A [`Tunnel`] owns the streams. An [`attach::Attachment`] binds it to one channel with the keys
//! of one handshake, and `core` decides which attachment carries the tunnel. Without an attachment
//! the tunnel keeps its streams and waits for the next one, until `resume_timeout` expires.
//!
//! The link calls the attachment when it has received a message or has room to send. Sealing
//! happens inside that call, so no task of the tunnel sits on the data path. One small task per
//! tunnel waits for the deadlines of the mux and of the tunnel.
//!
//! This module knows channels. It does not know links, WebSockets, TLS or HTTP.

pub mod attach;
mod attachment;
mod core;
mod handle;
mod handshake;
mod local_socket;
pub mod offer;
pub mod origin;
mod parameters;
pub mod raw;
pub mod reclaim;
mod shared;
pub mod splice;
mod stream;
#[cfg(test)]
pub(crate) mod tests;

#[cfg(test)]
pub(crate) use self::core::{CANDIDATE_TIMEOUT, MOVE_TIMEOUT};
pub use self::{
    core::TunnelStatus,
    handle::Tunnel,
    parameters::{Counter, PortParameters, ProcessShared, TunnelCounters},
    stream::{TunnelStream, TunnelStreamError},
};
pub use report_proto::mux::{MemoryBudget, ResetCode, WindowSize};
