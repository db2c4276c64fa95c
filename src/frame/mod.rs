//! Link frames (PROTOCOL 3): what a role and a master say to each other. One WebSocket message is one frame.
//!
//! Knows bytes; not sockets, not roles' behaviour, not what a channel carries.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod codec;
mod introduction;
mod notice;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use codec::{FrameError, data_channel, data_header, is_ping, is_pong};
pub use introduction::{Claims, Nonce, Role, Terms};
pub use notice::{Code, MAX_REASON, Notice};

use crate::id::Id;

/// The version of the link protocol that this code speaks.
pub const VERSION: u8 = 1;

/// The largest message, in bytes: a DATA frame of 64 KiB with room for headers and tags (PROTOCOL 12).
pub const MAX_MESSAGE: usize = 131_072;

/// The largest control frame, in bytes: some 1,800 key ids in a REGISTER (PROTOCOL 12).
pub const MAX_CONTROL: usize = 65_536;

/// The bytes before the payload of a DATA frame: type and channel.
pub const DATA_HEADER: usize = 5;

/// The largest payload of a DATA frame, in bytes.
pub const MAX_DATA: usize = MAX_MESSAGE - DATA_HEADER;

/// Key ids that surely fit into one REGISTER, UNREGISTER or REGISTERED frame: 35 bytes each in JSON. Who has more sends several.
pub const MAX_PORTS_PER_FRAME: usize = 1_800;

/// A link on which this many channels have been numbered is replaced: numbers have 32 bits and are not used again (PROTOCOL 5.6).
pub const CHANNELS_RENEWED: u32 = 1 << 31;

/// The length of the proofs in HELLO and WELCOME, in bytes.
pub const PROOF: usize = 32;

/// The key ids of a REGISTER, UNREGISTER or REGISTERED frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// At most [`MAX_PORTS_PER_FRAME`] of them are sure to fit.
    pub ports: Vec<Id>,
}

/// Servers that one ATTACH names to be avoided; more are ignored.
pub const MAX_AVOIDED: usize = 8;

/// Which server an ATTACH asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachHeader {
    /// The key id that the server has registered.
    pub port: Id,
    /// The one server that is meant, when a tunnel resumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Id>,
    /// Servers that are the last choice: their service refused a connection of late. At most [`MAX_AVOIDED`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub avoid: Vec<Id>,
}

/// One message of a link, after the challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A role says who it is.
    Hello {
        /// Over the challenge and the claims.
        proof: [u8; PROOF],
        /// [`Claims`] as sent: the proof is over these very bytes.
        claims: Bytes,
    },
    /// The master takes the role in.
    Welcome {
        /// Over the challenge, the role's nonce and the terms.
        proof: [u8; PROOF],
        /// [`Terms`] as sent: the proof is over these very bytes.
        terms: Bytes,
    },
    /// A server adds key ids to those of its link.
    Register(Ports),
    /// A server removes key ids.
    Unregister(Ports),
    /// The master's answer to [`Frame::Register`]: those that now stand.
    Registered(Ports),
    /// A client opens a channel, and the master passes it to a server with a number of that link.
    Attach {
        /// The number of the channel on this link.
        channel: u32,
        /// Whom it is for.
        header: AttachHeader,
        /// The first message of the tunnel handshake.
        message: Bytes,
    },
    /// The channel is over in both directions.
    Close {
        /// Which one.
        channel: u32,
        /// Why.
        notice: Notice,
    },
    /// Send no more DATA on the channel for now.
    Pause(u32),
    /// Send DATA on the channel again.
    Resume(u32),
    /// Asks for a PONG with the same token.
    Ping(u64),
    /// The answer to a PING.
    Pong(u64),
    /// Move to a new link; this one goes on until it is closed.
    GoAway(Notice),
    /// The link ends after this.
    Error(Notice),
    /// What the channel carries.
    Data {
        /// Which one.
        channel: u32,
        /// At least one byte and at most [`MAX_DATA`].
        payload: Bytes,
    },
    /// A frame of a later version, to be ignored: its type byte, from `0x80` up.
    Extension(u8),
}
