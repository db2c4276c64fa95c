//! The admin API of a running master: curl over the unix socket, loopback and TLS, and generated
//! requests by schemathesis.

mod addresses;
mod client;
mod events;
mod generated;
