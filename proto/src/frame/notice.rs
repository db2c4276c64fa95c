//! The reason why a channel or a link ends: a code for the program and a text for people.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::constants::RETRY_AFTER_MAX;

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
    /// The proof of the master key is wrong, or the credential is unknown.
    Unauthorized,
    /// This address sent too many wrong proofs.
    Throttled,
    /// A policy of the master's operator forbids it. The reason names the policy.
    Denied,
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
    /// In ERROR: for how many seconds the role should not return. `None` is no advice.
    ///
    /// Earlier versions ignore it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u64>,
}

impl Notice {
    /// Creates a notice.
    #[must_use]
    pub fn new(code: Code, reason: impl Into<String>) -> Self {
        Notice {
            code,
            reason: reason.into(),
            retry_after_seconds: None,
        }
    }

    /// Returns the notice with the advice not to return before this time, in whole seconds.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after_seconds = Some(wait.as_secs());
        self
    }

    /// Returns how long the sender of an ERROR asks the role to wait before its next attempt, at
    /// most [`RETRY_AFTER_MAX`].
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after_seconds
            .map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
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
            retry_after_seconds: self.retry_after_seconds,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn text(notice: &Notice) -> String {
        serde_json::to_string(notice).unwrap()
    }

    fn read(text: &str) -> Notice {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn notices_omit_the_advice_when_there_is_none() {
        let usual = Notice::new(Code::Limit, "full");
        assert_eq!(text(&usual), r#"{"code":"limit","reason":"full"}"#);
        assert_eq!(usual.retry_after(), None);
        let advised = usual.with_retry_after(Duration::from_secs(20));
        assert!(text(&advised).contains(r#""retry_after_seconds":20"#));
        for notice in [read(&text(&advised)), advised.sanitized()] {
            assert_eq!(notice.retry_after(), Some(Duration::from_secs(20)));
        }
    }

    #[test]
    fn advice_is_bounded() {
        for (seconds, wait) in [
            (0, Duration::ZERO),
            (600, RETRY_AFTER_MAX),
            (601, RETRY_AFTER_MAX),
            (u64::MAX, RETRY_AFTER_MAX),
        ] {
            let notice = read(&format!(
                r#"{{"code":"limit","retry_after_seconds":{seconds}}}"#
            ));
            assert_eq!(notice.retry_after(), Some(wait), "{seconds} s");
        }
    }
}
