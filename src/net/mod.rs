//! From a host name to a socket of messages: name resolution, TCP, proxies, TLS, the upgrade, and
//! the WebSocket. Both ends are here: a role dials, a master accepts.
//!
//! ```text
//!  resolve ──► connect ──► proxy ──► tls ──► upgrade ──► websocket::MessageSocket
//!  └───────────────── dial::Dialer (a role) ─────────────────┘
//! ```
//!
//! Connections on this machine are `local_stream` and `local_listener`: TCP, or unix sockets.
//! Datagrams on this machine and in its networks are `udp`.
//!
//! This module knows addresses and bytes. It does not know links, frames or channels.

pub mod address;
pub(crate) mod authority;
pub mod congestion_control;
pub mod connect;
mod connect_error;
pub mod dial;
mod evidence;
pub mod file_limit;
pub mod local_listener;
pub mod local_stream;
pub mod memory;
pub mod middlebox;
mod name_error;
pub mod passed_sockets;
pub mod proxy;
pub mod proxy_protocol;
pub mod read_ahead;
pub mod resolve;
pub mod tcp;
pub mod tcp_stats;
pub mod tls;
pub mod udp;
#[cfg(unix)]
pub mod unix_connect;
#[cfg(unix)]
pub mod unix_owner;
#[cfg(unix)]
pub mod unix_socket;
pub mod upgrade;
pub mod websocket;
mod write_through;
