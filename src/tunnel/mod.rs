//! The end-to-end session of one client and one server under one port key.
//!
//! A tunnel drives a multiplexer ([`report_proto::mux`]) over its channels, one or several at a
//! time. It performs the handshake, seals and compresses, and splices streams to local sockets.
//!
//! ```text
//!  socket ⇄ splice ⇄ compress ⇄ TunnelStream ⇄ mux ⇄ seal ⇄ Attachment ⇄ the link
//!                                 Tunnel: outlives ▲ its attachments
//! ```
//!
//! A [`Tunnel`] owns the streams. An [`attach::Attachment`] binds it to one channel with the keys
//! of one handshake, and `core` decides which attachments carry the tunnel. Without an attachment
//! the tunnel keeps its streams and waits for the next one, until `resume_timeout` expires.
//!
//! The link calls the attachment when it has received a message or has room to send. Sealing
//! happens inside that call, so no task of the tunnel sits on the data path. One small task per
//! tunnel waits for the deadlines of the mux and of the tunnel.
//!
//! This module knows channels. It does not know links, WebSockets, TLS or HTTP.
//!
//! # Files
//! Each file uses files to its right, never to its left.
//!
//! ```text
//!  attach ─► attachment ─► candidate ─► handle ─► stream, flow ─► shared ─► core
//!                                                   ▲               └─► handshake ─► offer ─► parameters
//!  metrics ─► handle
//!  reclaim ─► splice ─► raw ────────────────────────┘
//!               └─► local_socket                                                            origin
//! ```
//!
//! | file | content |
//! |---|---|
//! | [`attach`] | what the roles call: a client requests an attachment, a server replies |
//! | `attachment` | one channel bound to a tunnel: its phases, seal and open |
//! | `candidate` | an attachment whose peer has not proven itself |
//! | `handshake`, [`offer`] | pure: messages in, keys out; the payloads of the messages |
//! | `handle`, `stream`, `flow` | [`Tunnel`], [`TunnelStream`] and [`DatagramFlow`], which the roles and the splices hold |
//! | `datagram_counters` | what happened to the datagrams of a port |
//! | `shared` | the lock around the core, the execution of effects, the task for deadlines |
//! | `core` | pure: the binding to attachments, deadlines, waiting tasks, the end |
//! | [`splice`], [`raw`] | joins a stream to a local socket, to bytes in memory |
//! | `metrics` | the tunnels of a process in numbers |
//! | [`reclaim`] | takes a connection back that the peer never saw |
//! | [`confirmation`] | the first byte of a stream to a destination that an application named |
//! | `local_socket`, [`origin`] | options of a local socket; the addresses of a connection in OPEN |
//!
//! # The path of a received DATA message
//! The task of the link runs all steps but the last.
//!
//! | step | file | lock |
//! |---|---|---|
//! | reads the message, finds the end of its channel | `link::session`, `link::outbox` | outbox |
//! | opens the message in place | `attachment` | attachment, for the steps below |
//! | passes it to the mux, if the binding accepts it | `shared`, `core::{transfer, binding}` | core |
//! | collects wakers and deadlines | `core::state` | core, still held |
//! | wakes the reader; marks the channel ready if an answer is due | `shared` | outbox, if marked |
//! | reads the bytes, writes them to the socket, returns the credit | `splice`, `stream` | core, twice |
//!
//! # The path of a sent DATA message
//!
//! | step | file | lock |
//! |---|---|---|
//! | asks for room, reads the socket, writes to the stream | `splice`, `stream` | core, twice |
//! | marks the channel ready, if it is idle | `shared` | outbox, if marked |
//! | the task of the link has room: takes the next channel | `link::session`, `link::outbox` | outbox |
//! | asks for a message | `attachment` | attachment, to the seal |
//! | takes it from the mux, if the attachment sends | `shared`, `core::{transfer, binding}` | core |
//! | collects deadlines | `core::state` | core, still held |
//! | seals the message in place | `attachment` | attachment, still held |
//! | schedules the channel again, sends | `link::outbox`, `link::session` | outbox |
//!
//! Only the task of the link takes the lock of an attachment, so that lock never waits. A cipher
//! never runs under the lock of the core, which the streams of the tunnel share.

pub mod attach;
mod attach_error;
mod attachment;
mod candidate;
pub mod confirmation;
mod core;
mod datagram_counters;
pub mod details;
mod flow;
mod handle;
mod handshake;
mod local_socket;
pub(crate) mod metrics;
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
pub(crate) use self::core::{CANDIDATE_TIMEOUT, LANES_MAX, MOVE_TIMEOUT};
pub use self::{
    core::TunnelStatus,
    datagram_counters::{DatagramCounters, DropReason, FlowSlot},
    flow::{DatagramFlow, DatagramFlowError},
    handle::Tunnel,
    parameters::{
        Counter, PortCounters, PortParameters, ProcessShared, ServiceProtocol, TunnelCounters,
    },
    stream::{TunnelStream, TunnelStreamError},
};
pub use report_proto::mux::{DATAGRAM_MAX, FlowError, MemoryBudget, ResetCode, WindowSize};
