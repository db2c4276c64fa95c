//! Why an attachment failed: the code, the evidence and the remedy.

use super::offer::Mismatch;
use crate::diagnosis::{Diagnosis, DiagnosisCode};
use report_proto::{
    crypto::HandshakeError,
    frame::{Code, Notice},
};

/// Why an attachment failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// The channel was closed before the server answered.
    #[error("the channel was closed: {0}")]
    Closed(Notice),
    /// A handshake message does not open: the peer has another port key, or the message was
    /// altered.
    #[error("the tunnel handshake failed: {0} (check that the port key is the same at both ends)")]
    Handshake(String),
    /// Both ends hold the port key, but their configurations differ.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The server refuses the tunnel.
    #[error("the server refused the tunnel: {0}")]
    Refused(Code),
    /// A newer attempt carries the tunnel, or this attempt is a replay.
    #[error("a newer attempt has already resumed the tunnel")]
    Superseded,
}

impl AttachError {
    /// Returns whether a retry can succeed without a change at either end.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            AttachError::Closed(_) => !self.is_denied(),
            AttachError::Refused(_) | AttachError::Superseded => true,
            AttachError::Handshake(_) | AttachError::Mismatch(_) => false,
        }
    }

    /// Whether a policy of the master's operator forbids the tunnel.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, AttachError::Closed(notice) if notice.code == Code::Denied)
    }

    /// Returns the code for logs and the doctor.
    #[must_use]
    pub fn diagnosis_code(&self) -> DiagnosisCode {
        match self {
            AttachError::Closed(_) if self.is_denied() => DiagnosisCode::TunnelDenied,
            AttachError::Closed(_) => DiagnosisCode::ChannelClosed,
            AttachError::Handshake(_) => DiagnosisCode::PortKeyMismatch,
            AttachError::Mismatch(_) => DiagnosisCode::MethodMismatch,
            AttachError::Refused(_) => DiagnosisCode::TunnelRefused,
            AttachError::Superseded => DiagnosisCode::TunnelSuperseded,
        }
    }

    /// Returns the evidence, the likely cause and the remedy of a refusal that a retry does not
    /// change.
    #[must_use]
    pub fn diagnosis(&self) -> Diagnosis {
        let (cause, remedy) = if self.is_denied() {
            (
                "a policy of the master's operator forbids the tunnel",
                "ask the operator; a `credential` may be needed",
            )
        } else {
            (
                "both ends know the port, but their configurations differ",
                "compare `port_key`, `protocol`, `encrypt_method`, `compress_method` and the ranges of ports at both ends",
            )
        };
        Diagnosis::new(self.diagnosis_code(), self.to_string(), cause, remedy)
    }

    fn wire_code(&self) -> Code {
        match self {
            AttachError::Closed(notice) => notice.code,
            AttachError::Handshake(_) => Code::Handshake,
            AttachError::Mismatch(_) => Code::Mismatch,
            AttachError::Refused(_) => Code::Refused,
            AttachError::Superseded => Code::Superseded,
        }
    }
}

impl From<HandshakeError> for AttachError {
    fn from(error: HandshakeError) -> Self {
        AttachError::Handshake(error.to_string())
    }
}

/// Returns the notice that closes the channel of a failed attachment. It carries the code alone,
/// because the master can read it.
#[must_use]
pub fn closing_notice(error: &AttachError) -> Notice {
    Notice::new(error.wire_code(), "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denied_attachment_names_the_reason_and_is_not_retried_soon() {
        let denied = AttachError::Closed(Notice::new(Code::Denied, "the key needs a credential"));
        assert!(denied.is_denied() && !denied.is_retryable());
        assert_eq!(denied.diagnosis_code(), DiagnosisCode::TunnelDenied);
        let text = denied.diagnosis().to_string();
        assert!(
            text.contains("the key needs a credential") && text.contains("operator"),
            "{text}"
        );
        let closed = AttachError::Closed(Notice::new(Code::PeerLost, ""));
        assert!(!closed.is_denied() && closed.is_retryable());
        assert_eq!(closed.diagnosis_code(), DiagnosisCode::ChannelClosed);
    }
}
