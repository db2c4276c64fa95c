//! The reason why a channel or a link ends: a code for the program and a text for people.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The maximum length of a reason in bytes, sent or received: one or two lines.
pub const MAX_REASON: usize = 512;

/// The code of a CLOSE, GOAWAY or ERROR frame (PROTOCOL 13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// A frame is malformed or invalid in the current state.
    Protocol,
    /// The peer speaks another protocol version.
    Version,
    /// The proof of the master key is wrong.
    Unauthorized,
    /// This address sent too many wrong proofs.
    Throttled,
    /// A newer link of the same instance replaces this one.
    Superseded,
    /// A limit of the master is reached.
    Limit,
    /// The sender shuts down.
    Shutdown,
    /// Nothing was received before a deadline.
    Timeout,
    /// The link at the other end of the channel ended.
    PeerLost,
    /// More data is in flight than a channel may buffer.
    Overflow,
    /// The first handshake message does not decrypt.
    Handshake,
    /// The methods of the two ends differ.
    Mismatch,
    /// The server cannot accept the tunnel now.
    Refused,
    /// A sealed message failed authentication.
    Seal,
    /// The peer sent more than its credit allows.
    FlowControl,
    /// The sender no longer needs the channel.
    Cancelled,
    /// A code of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for Code {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(formatter)
    }
}

/// Why a channel or a link ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The machine-readable code.
    pub code: Code,
    /// The text for people. It never contains a key or payload.
    #[serde(default)]
    pub reason: String,
}

impl Notice {
    /// Creates a notice.
    #[must_use]
    pub fn new(code: Code, reason: impl Into<String>) -> Self {
        Notice {
            code,
            reason: reason.into(),
        }
    }

    /// Returns the notice with its reason on one line and at most [`MAX_REASON`] bytes long.
    ///
    /// This keeps a peer from flooding a log or a control frame.
    #[must_use]
    pub fn sanitized(&self) -> Self {
        let mut reason = String::new();
        for character in self.reason.chars().map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        }) {
            if reason.len().saturating_add(character.len_utf8()) > MAX_REASON {
                break;
            }
            reason.push(character);
        }
        Notice {
            code: self.code,
            reason,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reason.is_empty() {
            write!(formatter, "{}", self.code)
        } else {
            write!(formatter, "{}: {}", self.code, self.reason)
        }
    }
}
