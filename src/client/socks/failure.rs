//! Why an application gets no connection, as its proxy protocol states it.

use super::{http_connect::HttpStatus, socks5::SocksReply};
use crate::tunnel::{ResetCode, confirmation::ConfirmationError};

/// Why there is no connection to the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectFailure {
    /// The rules of the server do not allow the destination.
    Denied,
    /// The destination refuses connections.
    Refused,
    /// There is no route to the destination.
    Unreachable,
    /// The name of the destination does not resolve.
    NotFound,
    /// The destination does not answer.
    NoAnswer,
    /// There is no server, or it has no room.
    Unavailable,
}

impl ConnectFailure {
    /// Returns the reason of a stream without a confirmation.
    pub(super) fn of(error: &ConfirmationError) -> Self {
        let ConfirmationError::Stream(error) = error else {
            return Self::Unavailable;
        };
        Self::of_code(error.reset_code())
    }

    /// Returns the reason of a stream or a flow that ended with this code.
    pub(super) fn of_code(code: Option<ResetCode>) -> Self {
        match code {
            Some(ResetCode::Denied) => Self::Denied,
            Some(ResetCode::Refused) => Self::Refused,
            Some(ResetCode::Unreachable) => Self::Unreachable,
            Some(ResetCode::NotFound) => Self::NotFound,
            Some(ResetCode::Timeout) => Self::NoAnswer,
            _ => Self::Unavailable,
        }
    }

    /// Returns the reply of SOCKS5. It has no code for a missing answer, for which proxies send that
    /// of an expired TTL.
    pub(super) fn reply(self) -> SocksReply {
        match self {
            Self::Denied => SocksReply::NotAllowed,
            Self::Refused => SocksReply::ConnectionRefused,
            Self::Unreachable | Self::NotFound => SocksReply::HostUnreachable,
            Self::NoAnswer => SocksReply::TtlExpired,
            Self::Unavailable => SocksReply::GeneralFailure,
        }
    }

    /// Returns the status of HTTP.
    pub(super) fn status(self) -> HttpStatus {
        match self {
            Self::Denied => HttpStatus::Forbidden,
            Self::Refused | Self::Unreachable | Self::NotFound => HttpStatus::BadGateway,
            Self::NoAnswer => HttpStatus::GatewayTimeout,
            Self::Unavailable => HttpStatus::Unavailable,
        }
    }

    /// Returns the reason in words.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Denied => "the rules of the server do not allow the destination",
            Self::Refused => "the destination refuses connections",
            Self::Unreachable => "there is no route to the destination",
            Self::NotFound => "the name of the destination does not resolve",
            Self::NoAnswer => "the destination does not answer",
            Self::Unavailable => "no server can take the connection now",
        }
    }

    /// Returns the reason in the metrics.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Denied => "destination_denied",
            Self::Refused => "destination_refused",
            Self::Unreachable => "destination_unreachable",
            Self::NotFound => "destination_not_found",
            Self::NoAnswer => "destination_timeout",
            Self::Unavailable => "destination_unavailable",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::TunnelStreamError;
    use report_proto::mux::StreamError;

    #[test]
    fn every_reset_has_a_reply_and_a_status() {
        for (code, reply, status) in [
            (ResetCode::Denied, 2, 403),
            (ResetCode::Refused, 5, 502),
            (ResetCode::Unreachable, 4, 502),
            (ResetCode::NotFound, 4, 502),
            (ResetCode::Timeout, 6, 504),
            (ResetCode::Limit, 1, 503),
            (ResetCode::Shutdown, 1, 503),
            (ResetCode::Protocol, 1, 503),
            (ResetCode::Cancelled, 1, 503),
        ] {
            let error = TunnelStreamError::from(StreamError::Reset(code));
            let failure = ConnectFailure::of(&error.into());
            assert_eq!(failure.reply().code(), reply, "{code}");
            assert_eq!(failure.status().code(), status, "{code}");
        }
        for error in [ConfirmationError::Unseen, ConfirmationError::Invalid] {
            assert_eq!(ConnectFailure::of(&error), ConnectFailure::Unavailable);
        }
    }
}
