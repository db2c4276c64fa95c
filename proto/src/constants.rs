//! Constants of the protocol (PROTOCOL 12) that several layers use.
//!
//! A constant of one layer is defined in that layer.

/// The version of the link protocol that this code implements.
///
/// The challenge encodes it, and HELLO and WELCOME state it. The tunnel protocol has a separate
/// version.
pub const LINK_VERSION: u8 = 1;
