//! Why a role could not join a master.

use std::time::Duration;

use super::link_secret::LinkSecret;
use crate::{
    diagnosis::{Diagnosis, DiagnosisCode},
    net::websocket::SocketError,
};
use report_proto::{
    constants::EARLY_RETRY_AFTER_MAX,
    frame::{self, Code, FrameError, Notice},
};

/// An error of [`join`](super::join).
#[derive(Debug, thiserror::Error)]
#[error("{}", self.diagnosis())]
pub enum JoinError {
    /// The peer speaks WebSocket, but is not a master.
    NotAMaster,
    /// The master speaks another version of the protocol.
    Version {
        /// The master's version.
        theirs: u8,
    },
    /// The master does not know the master key.
    FalseMaster,
    /// The master does not know the verifier of the credential.
    MasterWithoutVerifier,
    /// The master refused the proof of the master key.
    Unauthorized(Notice),
    /// The master does not know the credential, or refused its signature.
    CredentialRefused(Notice),
    /// A policy of the master's operator forbids the link.
    Denied(Notice),
    /// Too many wrong proofs came from this address.
    Throttled(Notice),
    /// A newer link of this process is up.
    Superseded(Notice),
    /// A limit of the master is reached.
    Limit(Notice),
    /// The master refused the link for another reason.
    Refused(Notice),
    /// The master sent nothing for [`AUTHENTICATION_TIMEOUT`](super::AUTHENTICATION_TIMEOUT).
    TimedOut {
        /// The missing message.
        awaited: &'static str,
        /// The timeout.
        after: Duration,
    },
    /// The master closed the WebSocket instead of answering.
    Closed {
        /// The missing message.
        awaited: &'static str,
    },
    /// The master sent a malformed or unexpected message.
    Protocol(ProtocolFault),
    /// The connection failed.
    Socket(#[from] SocketError),
}

/// How a master broke the protocol.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolFault {
    /// The message is not a valid frame.
    #[error("{0}")]
    Frame(FrameError),
    /// The frame with this name came too early.
    #[error("{0} before WELCOME")]
    OutOfState(&'static str),
}

impl JoinError {
    /// Returns the code of the error.
    #[must_use]
    pub fn code(&self) -> DiagnosisCode {
        match self {
            JoinError::NotAMaster => DiagnosisCode::NotAMaster,
            JoinError::Version { .. } => DiagnosisCode::VersionMismatch,
            JoinError::FalseMaster | JoinError::MasterWithoutVerifier => DiagnosisCode::FalseMaster,
            JoinError::Unauthorized(_) => DiagnosisCode::MasterKeyRefused,
            JoinError::CredentialRefused(_) => DiagnosisCode::CredentialRefused,
            JoinError::Denied(_) => DiagnosisCode::AccessDenied,
            JoinError::Throttled(_) => DiagnosisCode::MasterThrottles,
            JoinError::Superseded(_) => DiagnosisCode::LinkSuperseded,
            JoinError::Limit(_) => DiagnosisCode::MasterLimit,
            JoinError::Refused(_) => DiagnosisCode::LinkRefused,
            JoinError::TimedOut { .. } => DiagnosisCode::AuthenticationTimeout,
            JoinError::Closed { .. } => DiagnosisCode::AuthenticationClosed,
            JoinError::Protocol(_) => DiagnosisCode::ProtocolViolated,
            JoinError::Socket(error) if error.is_violation() => DiagnosisCode::NotAWebSocket,
            JoinError::Socket(_) => DiagnosisCode::AuthenticationFailed,
        }
    }

    /// Returns how long the master asks to wait before the next attempt. It has not proven its key
    /// yet, so this is at most [`EARLY_RETRY_AFTER_MAX`].
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        let wait = match self {
            JoinError::Unauthorized(notice)
            | JoinError::CredentialRefused(notice)
            | JoinError::Denied(notice)
            | JoinError::Throttled(notice)
            | JoinError::Superseded(notice)
            | JoinError::Limit(notice)
            | JoinError::Refused(notice) => notice.retry_after(),
            JoinError::NotAMaster
            | JoinError::Version { .. }
            | JoinError::FalseMaster
            | JoinError::MasterWithoutVerifier
            | JoinError::TimedOut { .. }
            | JoinError::Closed { .. }
            | JoinError::Protocol(_)
            | JoinError::Socket(_) => None,
        };
        wait.map(|wait| wait.min(EARLY_RETRY_AFTER_MAX))
    }

    /// Returns the evidence and the remedy.
    #[must_use]
    pub fn diagnosis(&self) -> Diagnosis {
        Diagnosis::new(
            self.code(),
            format!("authentication: {}", self.evidence()),
            "",
            self.remedy(),
        )
    }

    fn evidence(&self) -> String {
        match self {
            JoinError::NotAMaster => "the peer is not a rePort master".to_owned(),
            JoinError::Version { theirs } => format!(
                "the master speaks version {theirs} of the protocol, this is version {}",
                frame::VERSION
            ),
            JoinError::FalseMaster => {
                "the master could not prove the master key (false master)".to_owned()
            }
            JoinError::MasterWithoutVerifier => {
                "the master could not prove that it knows the credential (false master)".to_owned()
            }
            JoinError::Unauthorized(notice) => {
                format!("the master refused the master key ({notice})")
            }
            JoinError::CredentialRefused(notice) => {
                format!("the master refused the credential ({notice})")
            }
            JoinError::Denied(notice) => {
                format!("the master's operator does not permit this link ({notice})")
            }
            JoinError::Throttled(notice) => {
                format!("the master throttles this address after wrong keys ({notice})")
            }
            JoinError::Superseded(notice) => {
                format!("a newer link of this instance is up ({notice})")
            }
            JoinError::Limit(notice) => {
                let wait = self.retry_after().map(|wait| wait.as_secs());
                let wait = wait.map(|seconds| format!(", return in {seconds} s"));
                let wait = wait.unwrap_or_default();
                format!("a limit of the master is reached ({notice}{wait})")
            }
            JoinError::Refused(notice) => format!("the master refused the link ({notice})"),
            JoinError::TimedOut { awaited, after } => format!(
                "no {awaited} from the master within {} s",
                after.as_secs_f32()
            ),
            JoinError::Closed { awaited } => {
                format!("the master closed the link before its {awaited}")
            }
            JoinError::Protocol(fault) => format!("the master broke the protocol: {fault}"),
            JoinError::Socket(error) => error.to_string(),
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            JoinError::NotAMaster => "check the address and the path in `master`",
            JoinError::Version { .. } => "upgrade the older one",
            JoinError::FalseMaster | JoinError::Unauthorized(_) => {
                "compare `master_key` at both ends"
            }
            JoinError::MasterWithoutVerifier => {
                "check the address in `master`, and compare the verifier at the master"
            }
            JoinError::CredentialRefused(_) => {
                "check `credential`, or ask the master's operator for another one"
            }
            JoinError::Denied(_) => "ask the master's operator",
            JoinError::Throttled(_) => {
                "wait, and compare `master_key` or `credential` at both ends"
            }
            JoinError::Superseded(_) => "no action is needed, it carries the traffic",
            JoinError::Limit(_) => "raise it there",
            JoinError::Refused(_) => "see the master's log",
            JoinError::TimedOut { .. } => "check whether another program listens there",
            JoinError::Closed { .. } => {
                "see the master's log, or a middlebox cuts WebSockets: try wss:// in `master`, or another port"
            }
            JoinError::Protocol(_) => {
                "a middlebox alters the data, or one end is too old: try wss:// in `master`, and the same version at both ends"
            }
            // The socket failed directly after its upgrade.
            JoinError::Socket(error) if error.is_violation() => {
                "the peer that answered 101 does not speak WebSocket, or a middlebox alters the data: try wss:// in `master`, and check what listens there"
            }
            JoinError::Socket(_) => {
                "a middlebox cuts WebSockets directly after their upgrade: try wss:// in `master`, another port or another network"
            }
        }
    }

    /// Whether another attempt can succeed without a change at either end. A role retries in any
    /// case: the other end may change. For an error that is not retryable it waits longer.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            JoinError::NotAMaster
            | JoinError::Version { .. }
            | JoinError::FalseMaster
            | JoinError::MasterWithoutVerifier
            | JoinError::Unauthorized(_)
            | JoinError::CredentialRefused(_)
            | JoinError::Denied(_) => false,
            JoinError::Throttled(_)
            | JoinError::Superseded(_)
            | JoinError::Limit(_)
            | JoinError::Refused(_)
            | JoinError::TimedOut { .. }
            | JoinError::Closed { .. }
            | JoinError::Protocol(_)
            | JoinError::Socket(_) => true,
        }
    }

    /// Returns the error for a WELCOME without a valid proof.
    pub(super) fn of_false_master(secret: &LinkSecret) -> Self {
        match secret {
            LinkSecret::Credential(_) => JoinError::MasterWithoutVerifier,
            LinkSecret::MasterKey(_) | LinkSecret::Anonymous => JoinError::FalseMaster,
        }
    }

    /// Returns the error for the master's ERROR to a role with this secret.
    pub(super) fn from_notice(notice: Notice, secret: &LinkSecret) -> Self {
        match (notice.code, secret) {
            (Code::Unauthorized, LinkSecret::MasterKey(_)) => JoinError::Unauthorized(notice),
            (Code::Unauthorized, LinkSecret::Credential(_)) => JoinError::CredentialRefused(notice),
            (Code::Denied, _) => JoinError::Denied(notice),
            (Code::Throttled, _) => JoinError::Throttled(notice),
            (Code::Superseded, _) => JoinError::Superseded(notice),
            (Code::Limit, _) => JoinError::Limit(notice),
            // An anonymous client has no secret that could be wrong.
            _ => JoinError::Refused(notice),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::EndReason;
    use report_proto::crypto::{Credential, CredentialSecret, LinkKey};

    #[test]
    fn wait_before_welcome_is_short_and_the_one_after_it_may_be_longer() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        for (asked, before, after) in [
            (Duration::from_secs(20), 20, 20),
            (minutes(1), 60, 60),
            (minutes(5), 60, 300),
            (minutes(60), 60, 600),
        ] {
            let notice = Notice::new(Code::Limit, "full").with_retry_after(asked);
            let error = JoinError::Limit(notice.clone());
            assert_eq!(error.retry_after(), Some(Duration::from_secs(before)));
            let shown = format!("return in {before} s");
            assert!(error.to_string().contains(&shown), "{error}");
            let refused = JoinError::Refused(notice.clone());
            assert_eq!(refused.retry_after(), Some(Duration::from_secs(before)));
            let ended = EndReason::PeerError(notice);
            assert_eq!(ended.retry_after(), Some(Duration::from_secs(after)));
        }
        let unadvised = JoinError::Limit(Notice::new(Code::Limit, "full"));
        assert_eq!(unadvised.retry_after(), None);
    }

    #[test]
    fn errors_print_the_evidence_and_the_remedy() {
        let notice = || Notice::new(Code::Unauthorized, "no");
        for (error, code, text) in [
            (
                JoinError::NotAMaster,
                DiagnosisCode::NotAMaster,
                "authentication: the peer is not a rePort master; check the address and the path in `master`",
            ),
            (
                JoinError::Version { theirs: 9 },
                DiagnosisCode::VersionMismatch,
                "authentication: the master speaks version 9 of the protocol, this is version 1; upgrade the older one",
            ),
            (
                JoinError::TimedOut {
                    awaited: "WELCOME",
                    after: Duration::from_secs(10),
                },
                DiagnosisCode::AuthenticationTimeout,
                "authentication: no WELCOME from the master within 10 s; check whether another program listens there",
            ),
            (
                JoinError::Protocol(ProtocolFault::OutOfState("PONG")),
                DiagnosisCode::ProtocolViolated,
                "authentication: the master broke the protocol: PONG before WELCOME; a middlebox alters the data, or one end is too old: \
                 try wss:// in `master`, and the same version at both ends",
            ),
            (
                JoinError::Socket(SocketError::Text),
                DiagnosisCode::NotAWebSocket,
                "authentication: a text message, where all are binary; the peer that answered 101 does not speak WebSocket, or a \
                 middlebox alters the data: try wss:// in `master`, and check what listens there",
            ),
        ] {
            assert_eq!((error.code(), error.to_string()), (code, text.to_owned()));
        }
        let refused = JoinError::Unauthorized(notice());
        assert_eq!(refused.code(), DiagnosisCode::MasterKeyRefused);
        assert!(
            refused.to_string().starts_with(&format!(
                "authentication: the master refused the master key ({}); ",
                notice()
            )),
            "{refused}"
        );
    }

    #[test]
    fn a_denied_link_reports_the_reason_and_is_not_retried_soon() {
        let notice = Notice::new(Code::Denied, "the credential has expired");
        for secret in [
            LinkSecret::Anonymous,
            LinkSecret::MasterKey(LinkKey::derive(None)),
        ] {
            let denied = JoinError::from_notice(notice.clone(), &secret);
            assert_eq!(denied.code(), DiagnosisCode::AccessDenied);
            assert!(!denied.is_retryable());
            let text = denied.to_string();
            assert!(
                text.contains("the credential has expired") && text.contains("operator"),
                "{text}"
            );
        }
    }

    #[test]
    fn unauthorized_names_the_secret_that_was_refused() {
        let notice = || Notice::new(Code::Unauthorized, "no");
        let credential = Credential::derive(&CredentialSecret::new([1; 32]));
        for (secret, code, field) in [
            (
                LinkSecret::Credential(credential),
                DiagnosisCode::CredentialRefused,
                "`credential`",
            ),
            (
                LinkSecret::MasterKey(LinkKey::derive(None)),
                DiagnosisCode::MasterKeyRefused,
                "`master_key`",
            ),
            (
                LinkSecret::Anonymous,
                DiagnosisCode::LinkRefused,
                "the master's log",
            ),
        ] {
            let error = JoinError::from_notice(notice(), &secret);
            assert_eq!(error.code(), code);
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
