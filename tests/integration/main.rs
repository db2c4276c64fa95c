//! The integration tests: real daemons on loopback, one module for each subject.

mod harness;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each subject uses its part")]
mod support;
