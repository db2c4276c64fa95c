//! rePort: a tunnel over WebSockets with a blind relay and connections that survive link failures.
//!
//! ```text
//!  app ──TCP──► client ══WebSocket══► master ◄══WebSocket══ server ──TCP──► service
//!                                 (public relay)       (in the private network)
//! ```
//!
//! # Layers
//! Each module may use only the modules in its row. A test checks the source against this table.
//!
//! | module | responsibility | may use |
//! |---|---|---|
//! | [`id`], [`random`], [`map`], [`text`], [`suspend`], [`tcp_table`] | sixteen-byte identifiers; the system's random numbers; hash tables; text files; time in suspend; the kernel's table of TCP connections | |
//! | [`frame`] | link frames: encode, decode, limits | `id` |
//! | [`crypto`] | key derivation, proofs, the tunnel handshake, sealing | `id` |
//! | [`compress`] | compressed chunks of a stream | |
//! | [`mux`] | streams, windows, acknowledgements | `map` |
//! | [`link`] | dialling, TLS, WebSocket, authentication, keep-alive, the send schedule | `frame`, `crypto`, `id`, `random`, `map`, `text`, `suspend`, `tcp_table` |
//! | [`tunnel`] | a multiplexer over a channel: handshake, sealing, splicing to sockets | `mux`, `crypto`, `compress`, `link::channel`, `id`, `random`, `map`, `suspend`, `tcp_table` |
//! | [`bench`] | the built-in measurement: both ends of a benchmark stream | `tunnel`, `compress` |
//! | [`master`], [`server`], [`client`] | the roles | the layers above, not each other |
//! | [`doctor`] | the diagnosis of a role's path, layer by layer | the layers above |
//! | [`config`] | the configuration file: parsing, validation, defaults | the names of methods in `crypto` and `compress`, the addresses and dial parameters in `link::dial`, `text` |
//! | [`telemetry`] | logs | |
//! | [`cli`] | the commands | everything |
//!
//! `frame`, `crypto`, `compress` and `mux` are pure: they use no runtime, no sockets, no clock and
//! no random source.
//!
//! `docs/PROTOCOL.md` specifies the protocol.
//!
//! [`bench`]: mod@bench

pub mod bench;
pub mod cli;
pub mod client;
pub mod config;
pub mod doctor;
pub mod link;
pub mod master;
pub mod random;
pub mod server;
pub mod suspend;
pub mod tcp_table;
pub mod telemetry;
pub mod text;
pub mod tunnel;

#[cfg(test)]
mod states_test;
