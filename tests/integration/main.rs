//! The integration tests: real daemons on loopback, one module for each subject.

mod harness;
mod layers;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each subject uses its part")]
mod support;
