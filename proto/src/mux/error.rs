//! Errors of the multiplexer: protocol errors, which end the tunnel, errors of one stream, and the
//! codes of a reset.

/// A violation of the protocol by the peer. The tunnel must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MuxError {
    /// A frame is malformed or out of state.
    #[error("the peer broke the tunnel protocol: {0}")]
    Protocol(&'static str),
    /// The peer sent more than its credit allows.
    #[error("the peer sent beyond its credit: {0}")]
    FlowControl(&'static str),
}

/// The reason why an operation on a stream failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer or this end reset the stream.
    #[error("the stream was reset: {0}")]
    Reset(ResetCode),
    /// The application finished this direction before.
    #[error("the stream was already finished")]
    Finished,
    /// The write exceeds the peer's credit.
    #[error("the write exceeds the peer's credit")]
    NoCredit,
    /// The stream does not exist, or not any more.
    #[error("there is no such stream")]
    Unknown,
}

/// The reason for a reset (PROTOCOL 9.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResetCode {
    /// The application does not need the stream any more.
    Cancelled,
    /// The local service refused the connection.
    Refused,
    /// The local service does not answer, or its name does not resolve.
    Unreachable,
    /// The local connection was reset.
    Reset,
    /// An operation took too long.
    Timeout,
    /// The bytes of the stream could not be decoded.
    Corrupt,
    /// The sender is shutting down.
    Shutdown,
    /// There are too many streams.
    Limit,
    /// The peer broke the protocol.
    Protocol,
    /// The tunnel had no attachment for longer than the resume timeout.
    Expired,
    /// The rules of the server do not allow the destination.
    Denied,
    /// The name of the destination does not resolve.
    NotFound,
}

impl ResetCode {
    const ALL: [ResetCode; 12] = [
        ResetCode::Cancelled,
        ResetCode::Refused,
        ResetCode::Unreachable,
        ResetCode::Reset,
        ResetCode::Timeout,
        ResetCode::Corrupt,
        ResetCode::Shutdown,
        ResetCode::Limit,
        ResetCode::Protocol,
        ResetCode::Expired,
        ResetCode::Denied,
        ResetCode::NotFound,
    ];

    pub(super) fn wire_code(self) -> u64 {
        Self::ALL
            .iter()
            .position(|&code| code == self)
            .map_or(0, |position| position as u64)
    }

    pub(super) fn from_wire(code: u64) -> Self {
        usize::try_from(code)
            .ok()
            .and_then(|position| Self::ALL.get(position).copied())
            .unwrap_or(ResetCode::Cancelled)
    }
}

impl std::fmt::Display for ResetCode {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            ResetCode::Cancelled => "cancelled",
            ResetCode::Refused => "refused",
            ResetCode::Unreachable => "unreachable",
            ResetCode::Reset => "reset",
            ResetCode::Timeout => "timeout",
            ResetCode::Corrupt => "corrupt",
            ResetCode::Shutdown => "shutdown",
            ResetCode::Limit => "limit",
            ResetCode::Protocol => "protocol",
            ResetCode::Expired => "expired",
            ResetCode::Denied => "denied",
            ResetCode::NotFound => "not_found",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_numbers_of_the_protocol() {
        for (code, number) in [
            (ResetCode::Cancelled, 0),
            (ResetCode::Expired, 9),
            (ResetCode::Denied, 10),
            (ResetCode::NotFound, 11),
        ] {
            assert_eq!(code.wire_code(), number);
            assert_eq!(ResetCode::from_wire(number), code);
        }
        assert_eq!(ResetCode::from_wire(12), ResetCode::Cancelled);
        assert_eq!(ResetCode::from_wire(u64::MAX), ResetCode::Cancelled);
    }
}
