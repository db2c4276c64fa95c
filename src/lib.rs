//! rePort: a tunnel over WebSockets with a blind relay and connections that survive link failures.
//!
//! ```text
//!  app ──TCP──► client ══WebSocket══► master ◄══WebSocket══ server ──TCP──► service
//!                                 (public relay)       (in the private network)
//! ```
//!
//! # Layers
//! Each module uses modules below it, never above.
//!
//! | module | responsibility |
//! |---|---|
//! | [`cli`] | commands, argument parsing, output |
//! | [`doctor`] | the diagnosis of a role's path |
//! | [`admin`] | the admin address: metrics, health checks and the API of a master over HTTP |
//! | `administration` | the operations on the records of a store, for the API and the commands (feature `store`) |
//! | [`master`], [`server`], [`client`] | the roles; none of them uses another |
//! | [`bench`] | the built-in measurement |
//! | [`metrics`] | what a role reports about itself, as text |
//! | [`config`], [`telemetry`] | the configuration file; logs |
//! | [`tunnel`] | a multiplexer over a channel: handshake, resumption, sealing, splicing to sockets |
//! | [`supervisor`] | keeps links up: which master to dial, when, and which link follows which |
//! | [`link`] | one link: authentication, keep-alive, the send schedule of its channels |
//! | [`net`] | from a host name to a socket of messages: TCP, proxies, TLS, the WebSocket |
//! | [`diagnosis`] | a failure as data: its code, the evidence, the cause and the remedy |
//! | [`throttle`] | limits guesses of a secret, for each address |
//! | `store` | the database of a master: records, changes, usage (feature `store`) |
//! | [`policy`] | accounts, keys and their limits: records, validation, decisions |
//! | [`reload`] | reads the configuration again while a role runs: requests, the control socket, watched files |
//! | [`grace`] | the grace period, which a reload may change |
//! | [`successor`] | starts the executable again, and passes listeners to the new process |
//! | [`systemd`] | reports the state of the process to systemd |
//! | [`random`], [`text`], [`quantity`], [`suspend`], [`tcp_table`], `interner` | the system's random numbers; text files; sizes and rates with a unit; time in suspend; the kernel's table of TCP connections; shared equal values |
//! | [`report_proto`] | the pure layers, a separate crate: frames, multiplexer, ciphers, compression |
//!
//! `docs/PROTOCOL.md` specifies the protocol. `docs/architecture.md` shows the path of a byte and
//! where to change what.
//!
//! [`bench`]: mod@bench

pub mod admin;
#[cfg(feature = "store")]
pub mod administration;
pub mod bench;
pub mod cli;
pub mod client;
pub mod config;
pub mod diagnosis;
pub mod doctor;
pub mod grace;
mod interner;
pub mod link;
pub mod master;
pub mod metrics;
pub mod net;
pub mod policy;
pub mod quantity;
pub mod random;
pub mod reload;
pub mod server;
#[cfg(feature = "store")]
pub mod store;
pub mod successor;
pub mod supervisor;
pub mod suspend;
pub mod systemd;
pub mod tcp_table;
pub mod telemetry;
pub mod text;
pub mod throttle;
pub mod tunnel;

#[cfg(test)]
mod states_test;
