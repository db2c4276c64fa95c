//! The reason why a link ended.

use std::{fmt, time::Duration};

use crate::net::websocket::SocketError;
use report_proto::frame::{Code, Notice};

/// The reason why a link ended.
#[derive(Debug)]
pub enum EndReason {
    /// The caller of `Link::run` cancelled the link.
    Cancelled,
    /// This side requested the end with `Outbox::end` or through its `Handler`.
    Requested(Notice),
    /// The peer broke the protocol. This side sent it ERROR.
    ProtocolViolation(Notice),
    /// The peer sent ERROR.
    PeerError(Notice),
    /// The peer closed the WebSocket gracefully.
    PeerClosed,
    /// The peer was silent for this long, which exceeds a timeout (PROTOCOL 6.2).
    TimedOut(Duration),
    /// The connection failed.
    ConnectionLost(SocketError),
}

impl EndReason {
    /// Returns the notice with which the channel ends are closed.
    #[must_use]
    pub fn notice(&self) -> Notice {
        match self {
            EndReason::Cancelled => Notice::new(Code::Shutdown, "the link was closed here"),
            EndReason::Requested(notice)
            | EndReason::ProtocolViolation(notice)
            | EndReason::PeerError(notice) => notice.clone(),
            EndReason::PeerClosed => Notice::new(Code::PeerLost, "the peer closed the link"),
            EndReason::TimedOut(_) => Notice::new(Code::Timeout, self.to_string()),
            EndReason::ConnectionLost(error) => Notice::new(Code::PeerLost, error.to_string()),
        }
    }

    /// Returns how long the peer asks to wait before the next attempt.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            EndReason::PeerError(notice) => notice.retry_after(),
            _ => None,
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EndReason::Cancelled => formatter.write_str("closed locally"),
            EndReason::Requested(notice) => write!(formatter, "ended locally ({notice})"),
            EndReason::ProtocolViolation(notice) => {
                write!(formatter, "the peer broke the protocol ({notice})")
            }
            EndReason::PeerError(notice) => write!(formatter, "ended by the peer ({notice})"),
            EndReason::PeerClosed => formatter.write_str("closed by the peer"),
            EndReason::TimedOut(silence) => write!(
                formatter,
                "nothing was received for {:.1} s",
                silence.as_secs_f32()
            ),
            EndReason::ConnectionLost(error) => error.fmt(formatter),
        }
    }
}
