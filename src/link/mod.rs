//! One WebSocket between a role and a master.

pub mod channel;
