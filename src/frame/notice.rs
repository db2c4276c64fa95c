//! Why a channel or a link ends: a code for the program, a reason for the reader.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes of a reason that are sent, and that are kept of what came: a line or two.
pub const MAX_REASON: usize = 512;

/// The code of a CLOSE, GOAWAY or ERROR frame (PROTOCOL 13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// A frame that is malformed or out of state.
    Protocol,
    /// The peer speaks another version.
    Version,
    /// The proof of the master key is wrong.
    Unauthorized,
    /// Too many wrong proofs from this address.
    Throttled,
    /// A newer link of the same instance took over.
    Superseded,
    /// A limit of the master.
    Limit,
    /// The sender ends.
    Shutdown,
    /// Nothing was received for too long.
    Timeout,
    /// The link at the other side of the channel ended.
    PeerLost,
    /// More in flight than a channel may hold.
    Overflow,
    /// The first handshake message does not open.
    Handshake,
    /// The methods of both ends differ.
    Mismatch,
    /// The server cannot take the tunnel now.
    Refused,
    /// A message did not open.
    Seal,
    /// More was sent than the limit.
    FlowControl,
    /// The sender has no more use for it.
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
    /// For the program.
    pub code: Code,
    /// For the reader; never a key, never a payload.
    #[serde(default)]
    pub reason: String,
}

impl Notice {
    /// A notice with this code and reason.
    #[must_use]
    pub fn new(code: Code, reason: impl Into<String>) -> Self {
        Notice {
            code,
            reason: reason.into(),
        }
    }

    /// This notice with at most [`MAX_REASON`] bytes of reason on one line, so that no peer fills a log or a control frame with it.
    #[must_use]
    pub fn shortened(&self) -> Self {
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
