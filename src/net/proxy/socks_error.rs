//! Why a SOCKS5 handshake failed.

use tokio_socks::Error;

use crate::diagnosis::{Diagnosis, DiagnosisCode};

/// A SOCKS handshake failed.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.diagnosis())]
pub struct SocksError {
    /// The library's error. Its text is that of the reply's code.
    pub error: Error,
    /// Whether a user is configured.
    pub has_user: bool,
}

impl SocksError {
    /// Returns the evidence, the likely cause and the remedy.
    #[must_use]
    pub fn diagnosis(&self) -> Diagnosis {
        let (code, remedy) = match (&self.error, self.has_user) {
            (Error::NoAcceptableAuthMethods | Error::UnknownAuthMethod, false) => (
                DiagnosisCode::ProxyAuthenticationRequired,
                "it requires authentication: write socks5://USER:PASSWORD@… in `proxy`",
            ),
            (Error::NoAcceptableAuthMethods | Error::UnknownAuthMethod, true) => (
                DiagnosisCode::ProxyAuthenticationUnsupported,
                "it offers no supported authentication method",
            ),
            (Error::PasswordAuthFailure(_), _) => (
                DiagnosisCode::ProxyCredentialsRefused,
                "check the user and the password in `proxy`",
            ),
            (Error::ConnectionNotAllowedByRuleset, _) => (
                DiagnosisCode::ProxyForbidden,
                "its rules do not allow that: some proxies allow only port 443",
            ),
            (
                Error::HostUnreachable
                | Error::NetworkUnreachable
                | Error::ConnectionRefused
                | Error::TtlExpired,
                _,
            ) => (
                DiagnosisCode::ProxyCannotReachMaster,
                "it cannot reach the master: check `master`; with socks5:// the name is resolved here, with socks5h:// at the proxy",
            ),
            (Error::InvalidResponseVersion, _) => (
                DiagnosisCode::ProxyProtocolMismatch,
                "the port does not speak SOCKS5: check the scheme, host and port in `proxy`",
            ),
            _ => (DiagnosisCode::ProxyRefused, "ask its operator"),
        };
        Diagnosis::new(code, lower(&self.error.to_string()), "", remedy)
    }
}

/// Converts the first letter to lower case, because the text continues a line.
fn lower(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_lowercase().chain(characters).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reply_has_a_code() {
        for (error, has_user, code) in [
            (
                Error::NoAcceptableAuthMethods,
                false,
                DiagnosisCode::ProxyAuthenticationRequired,
            ),
            (
                Error::NoAcceptableAuthMethods,
                true,
                DiagnosisCode::ProxyAuthenticationUnsupported,
            ),
            (
                Error::PasswordAuthFailure(1),
                true,
                DiagnosisCode::ProxyCredentialsRefused,
            ),
            (
                Error::ConnectionNotAllowedByRuleset,
                false,
                DiagnosisCode::ProxyForbidden,
            ),
            (
                Error::HostUnreachable,
                false,
                DiagnosisCode::ProxyCannotReachMaster,
            ),
            (
                Error::InvalidResponseVersion,
                false,
                DiagnosisCode::ProxyProtocolMismatch,
            ),
            (
                Error::GeneralSocksServerFailure,
                false,
                DiagnosisCode::ProxyRefused,
            ),
        ] {
            let diagnosis = SocksError { error, has_user }.diagnosis();
            assert_eq!(diagnosis.code, code, "{diagnosis}");
            assert!(
                diagnosis.evidence.starts_with(char::is_lowercase) && !diagnosis.remedy.is_empty(),
                "{diagnosis}"
            );
        }
    }
}
