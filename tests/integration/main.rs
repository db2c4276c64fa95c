//! The integration tests: real daemons on loopback, one module for each subject.

mod bad_configuration;
mod bad_peers;
mod blindness;
mod ends;
mod harness;
mod resources;
mod roles;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each subject uses its part")]
mod support;
mod traffic;
