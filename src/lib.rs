//! rePort: a tunnel over WebSockets whose relay is blind and whose connections survive.
//!
//! ```text
//!  app ──TCP──► client ══WebSocket══► master ◄══WebSocket══ server ──TCP──► service
//!               (visitor)             (public relay)        (agent in the private network)
//! ```
//!
//! # Layers
//! Each module may use those in its row and no other; a test holds the source to this table.
//!
//! | module | what it owns | may use |
//! |---|---|---|
//! | [`id`], [`random`], [`map`], [`text`], [`suspend`], [`tcp_table`] | sixteen-byte names; the system's random numbers; tables; the text of files; time in suspend; what the kernel knows of connections | |
//! | [`frame`] | link frames: encode, decode, limits | `id` |
//! | [`crypto`] | key derivation, proofs, the tunnel handshake, sealing | `id` |
//! | [`compress`] | chunks of a stream | |
//! | [`mux`] | streams, windows, acknowledgement | `map` |
//! | [`link`] | dialling, TLS, WebSocket, authentication, heartbeat, the order of sending | `frame`, `crypto`, `id`, `random`, `map`, `text`, `suspend`, `tcp_table` |
//! | [`tunnel`] | a mux over a channel: handshake, sealing, splicing to sockets | `mux`, `crypto`, `compress`, `link::channel`, `id`, `random`, `map`, `suspend`, `tcp_table` |
//! | [`bench`] | the built-in measure: what each end of a measuring stream does | `tunnel`, `compress` |
//! | [`master`], [`server`], [`client`] | the roles | the layers above, not each other |
//! | [`doctor`] | the walk along a role's way, layer by layer | the layers above |
//! | [`config`] | the file, as written and as meant | the names of methods in `crypto` and `compress`, how a master is named and dialled in `link::dial`, `text` |
//! | [`telemetry`] | logs | |
//! | [`cli`] | the commands | everything |
//!
//! `frame`, `crypto`, `compress` and `mux` are pure: no runtime, no sockets, no clock and no random source of their own.
//!
//! The protocol is specified in `docs/PROTOCOL.md`.
//!
//! [`bench`]: mod@bench

pub mod bench;
pub mod cli;
pub mod client;
pub mod compress;
pub mod config;
pub mod crypto;
pub mod doctor;
pub mod frame;
pub mod id;
pub mod link;
pub mod map;
pub mod master;
pub mod mux;
pub mod random;
pub mod server;
pub mod suspend;
pub mod tcp_table;
pub mod telemetry;
pub mod text;
pub mod tunnel;

#[cfg(test)]
mod layers_test;
#[cfg(test)]
mod states_test;
