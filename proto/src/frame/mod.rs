//! Link frames (PROTOCOL 3): the messages between a role and a master.
//!
//! One WebSocket message carries one frame. This layer converts between bytes and frames. It does
//! not know sockets, the behaviour of roles, or the contents of channels.

mod codec;
mod hello;
mod notice;
mod registered;
mod slot;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use codec::{FrameError, data_channel, data_header, is_ping, is_pong};
pub use hello::{Claims, Nonce, Role, Terms};
pub use notice::{Code, MAX_REASON, Notice};
pub use registered::{RefusedPort, Registered};
pub use slot::{MAX_SLOTS, Slot};

pub use crate::constants::LINK_VERSION as VERSION;
use crate::id::Id;

/// The largest message, in bytes (PROTOCOL 12).
///
/// A DATA frame of 64 KiB fits, with room for headers and tags.
pub const MAX_MESSAGE: usize = 131_072;

/// The largest control frame, in bytes (PROTOCOL 12): a REGISTER with about 1,800 key ids.
pub const MAX_CONTROL: usize = 65_536;

/// The length of a DATA frame's header in bytes: type (1) and channel (4).
pub const DATA_HEADER_LENGTH: usize = 5;

/// The largest payload of a DATA frame, in bytes.
pub const MAX_DATA: usize = MAX_MESSAGE - DATA_HEADER_LENGTH;

/// The number of key ids that always fit into one REGISTER or UNREGISTER frame.
///
/// Each key id takes 35 bytes in JSON. A sender with more key ids sends several frames.
pub const MAX_PORTS_PER_FRAME: usize = 1_800;

/// The number of channels after which a link is replaced (PROTOCOL 5.6).
///
/// Channel numbers have 32 bits and are never reused on a link.
pub const CHANNEL_RENEWAL_THRESHOLD: u32 = 1 << 31;

/// The length of a proof in HELLO and WELCOME, in bytes.
pub const PROOF_LENGTH: usize = 32;

/// The length of a signature in SIGNED_HELLO, in bytes.
pub const SIGNATURE_LENGTH: usize = 64;

/// The key ids of a REGISTER or UNREGISTER frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// The key ids. Up to [`MAX_PORTS_PER_FRAME`] always fit into a frame.
    pub ports: Vec<Id>,
}

/// The maximum number of servers to avoid in one ATTACH. The receiver ignores further ones.
pub const MAX_AVOIDED: usize = 8;

/// The routing header of an ATTACH: selects the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachHeader {
    /// The key id that the server has registered.
    pub port: Id,
    /// The required server instance, if the ATTACH resumes a tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<Id>,
    /// Server instances to use only as a last resort, at most [`MAX_AVOIDED`].
    ///
    /// Their service has refused a connection recently.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub avoid: Vec<Id>,
}

/// One message of a link after the challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A role introduces and authenticates itself.
    Hello {
        /// The MAC over the challenge and the claims.
        proof: [u8; PROOF_LENGTH],
        /// The encoded [`Claims`]. The proof covers exactly these bytes.
        claims: Bytes,
    },
    /// A role introduces itself and proves a credential.
    SignedHello {
        /// The signature over the challenge and the claims.
        signature: [u8; SIGNATURE_LENGTH],
        /// The encoded [`Claims`]. The signature covers exactly these bytes.
        claims: Bytes,
    },
    /// The master accepts the role and authenticates itself.
    Welcome {
        /// The MAC over the challenge, the role's nonce and the terms.
        proof: [u8; PROOF_LENGTH],
        /// The encoded [`Terms`]. The proof covers exactly these bytes.
        terms: Bytes,
    },
    /// A server adds key ids to its link's registrations.
    Register(Ports),
    /// A server removes key ids from its link's registrations.
    Unregister(Ports),
    /// The master's answer to [`Frame::Register`], and its report of later changes.
    Registered(Registered),
    /// A client opens a channel.
    ///
    /// The master forwards the frame to a server, with a channel number of that server's link.
    Attach {
        /// The number of the channel on this link.
        channel: u32,
        /// The routing header.
        header: AttachHeader,
        /// The first message of the tunnel handshake.
        message: Bytes,
    },
    /// Closes a channel in both directions.
    Close {
        /// The channel.
        channel: u32,
        /// The reason.
        notice: Notice,
    },
    /// Asks the peer to stop sending DATA on the channel.
    Pause(u32),
    /// Asks the peer to continue sending DATA on the channel.
    Resume(u32),
    /// Asks for a PONG with the same token.
    Ping(u64),
    /// Answers a PING.
    Pong(u64),
    /// Asks the peer to move to a new link. This link stays up until it is closed.
    GoAway(Notice),
    /// Reports an error. The link ends after this frame.
    Error(Notice),
    /// Carries the data of a channel.
    Data {
        /// The channel.
        channel: u32,
        /// At least one byte and at most [`MAX_DATA`].
        payload: Bytes,
    },
    /// A frame of a later version, which the receiver ignores: its type byte, from `0x80` up.
    Extension(u8),
}
