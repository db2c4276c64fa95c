//! Constants of the protocol that several layers use.
//!
//! A constant of one layer is defined in that layer.

use std::time::Duration;

/// The version of the link protocol that this code implements.
///
/// The challenge encodes it, and HELLO and WELCOME state it. The tunnel protocol has a separate
/// version.
pub const LINK_VERSION: u8 = 1;

/// The bytes that a master queues for one direction of a channel before it closes the channel
/// (PROTOCOL 12).
///
/// The largest tunnel window, 32 MiB, and its overhead. No configuration allows a master less
/// memory.
pub const CHANNEL_LIMIT: usize = 34 * 1024 * 1024;

/// How long both ends keep the state of a tunnel that has lost its link, unless configured
/// otherwise (PROTOCOL 12, the resume timeout).
///
/// The default covers the restart of a proxy, a router or a master.
pub const RESUME_TIMEOUT: Duration = Duration::from_secs(120);

/// The longest wait before an attempt to link that a master can ask for after WELCOME (PROTOCOL
/// 12).
///
/// A mistake of its operator must not keep a role away for days.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// The longest wait before an attempt to link that a peer can ask for before WELCOME (PROTOCOL 12).
///
/// The peer may be a gateway with a wrong clock. Half of the resume timeout, so that tunnels
/// survive the wait and the random part that a role adds.
pub const EARLY_RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
