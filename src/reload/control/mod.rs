//! The control socket of a running role: a unix socket for the commands of its operator on the same
//! machine.
//!
//! ```text
//!  `report reload`, `report master restart` ── {"command": …} ──► role
//!                                           ◄── {"outcome": …, "text": …} ──
//! ```
//!
//! Each direction is one line of JSON. Only the user of the role and root may connect.

mod address;
mod client;
mod server;
#[cfg(test)]
mod tests;
mod wire;

pub use self::{
    client::{ControlError, send},
    server::{ControlSocket, ControlSocketError},
    wire::ControlCommand,
};
