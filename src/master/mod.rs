//! The master role: the relay.

mod limits;
mod memory;
mod queue;
mod registry;
mod throttle;

pub use limits::Limits;
