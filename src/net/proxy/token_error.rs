//! Why there is no token for NTLM or Negotiate. Maps the errors of the `sspi` crate, which tells
//! some failures of Kerberos apart by their text only.

use sspi::{Error, ErrorKind};

/// Why there is no token to send to a proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {}", self.remedy())]
pub struct TokenError {
    /// The kind of failure.
    pub fault: TokenFault,
    /// The reason that the library gives.
    pub reason: String,
}

/// The kind of a failure without a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenFault {
    /// The user's name is not valid for the scheme.
    UserName,
    /// No KDC of the realm was found or answers.
    NoKdc,
    /// The realm does not know the user.
    UnknownUser,
    /// The realm does not know the service of the proxy, whose name this is.
    UnknownService(String),
    /// The clocks of this machine and the KDC differ.
    ClockSkew,
    /// The realm does not require pre-authentication of the user.
    NoPreauthentication,
    /// The computation failed.
    Internal,
    /// Another failure, usually a wrong password.
    Other,
}

/// Begins the description of a service in the texts of the library.
const SERVICE: &str = "server";

/// Occurs in the text about a user without pre-authentication.
const WITHOUT_PREAUTHENTICATION: &str = "AS_REQ";

/// Begins the KDC's additional error, which only repeats the cause in the library's debug format.
const ADDITIONAL: &str = ". Additional error";

impl TokenError {
    /// Converts an error of the library. `target` is the service principal of the proxy.
    pub(super) fn new(error: &Error, target: &str) -> Self {
        let (text, _) = error
            .description
            .split_once(ADDITIONAL)
            .unwrap_or((&error.description, ""));
        let fault = match error.error_type {
            ErrorKind::NoAuthenticatingAuthority => TokenFault::NoKdc,
            ErrorKind::UnknownCredentials if text.starts_with(SERVICE) => {
                TokenFault::UnknownService(target.to_owned())
            }
            ErrorKind::UnknownCredentials => TokenFault::UnknownUser,
            ErrorKind::TimeSkew => TokenFault::ClockSkew,
            ErrorKind::InvalidToken if text.contains(WITHOUT_PREAUTHENTICATION) => {
                TokenFault::NoPreauthentication
            }
            _ => TokenFault::Other,
        };
        let reason = if text.is_empty() {
            format!("{:?}", error.error_type)
        } else {
            text.to_owned()
        };
        TokenError { fault, reason }
    }

    /// Returns whether the KDC does not know the user or the service.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(
            self.fault,
            TokenFault::UnknownUser | TokenFault::UnknownService(_)
        )
    }

    /// Returns whether Kerberos is not available, whatever the password.
    pub(super) fn is_without_kerberos(&self) -> bool {
        self.is_unknown() || matches!(self.fault, TokenFault::NoKdc | TokenFault::ClockSkew)
    }

    /// Returns the remedy.
    #[must_use]
    pub fn remedy(&self) -> String {
        let remedy = match &self.fault {
            TokenFault::UnknownService(target) => {
                return format!(
                    "the realm has no service {target}: write the proxy's name as the realm knows it in `proxy`"
                );
            }
            TokenFault::UserName => "write USER, DOMAIN\\USER or USER@REALM in `proxy`",
            TokenFault::NoKdc => {
                "for Kerberos write USER@REALM in `proxy`, and the realm's KDC in /etc/krb5.conf (or the file that KRB5_CONFIG names)"
            }
            TokenFault::ClockSkew => "set this machine's clock",
            TokenFault::NoPreauthentication => {
                "let the realm require pre-authentication of this user: rePort requests no ticket without it"
            }
            TokenFault::Internal => "please report this",
            TokenFault::UnknownUser | TokenFault::Other => {
                "check the user and the password in `proxy`"
            }
        };
        remedy.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: ErrorKind, text: &str) -> TokenError {
        TokenError::new(&Error::new(kind, text), "HTTP/proxy")
    }

    #[test]
    fn texts_of_the_library_are_recognised() {
        use ErrorKind::{
            InvalidToken, KdcInvalidRequest, NoAuthenticatingAuthority, TimeSkew,
            UnknownCredentials,
        };
        for (kind, text, fault) in [
            (
                NoAuthenticatingAuthority,
                "No KDC server found",
                TokenFault::NoKdc,
            ),
            (
                UnknownCredentials,
                "client not found in Kerberos database",
                TokenFault::UnknownUser,
            ),
            (
                UnknownCredentials,
                "server not found in Kerberos database",
                TokenFault::UnknownService("HTTP/proxy".to_owned()),
            ),
            (
                UnknownCredentials,
                "server not yet valid; try again later",
                TokenFault::UnknownService("HTTP/proxy".to_owned()),
            ),
            (TimeSkew, "clock skew too great", TokenFault::ClockSkew),
            (
                InvalidToken,
                "KDC server should not process AS_REQ without the pa-pac data",
                TokenFault::NoPreauthentication,
            ),
            (InvalidToken, "ASN1 DER error", TokenFault::Other),
            (
                KdcInvalidRequest,
                "pre-authentication information was invalid",
                TokenFault::Other,
            ),
        ] {
            let error = of(kind, text);
            assert_eq!((error.fault, error.reason.as_str()), (fault, text));
        }
    }

    #[test]
    fn additional_error_is_omitted_and_a_missing_text_replaced() {
        let text = "client not found in Kerberos database. Additional error text: GeneralString";
        let error = of(ErrorKind::UnknownCredentials, text);
        assert_eq!(error.reason, "client not found in Kerberos database");
        assert_eq!(of(ErrorKind::TimeSkew, "").reason, "TimeSkew");
    }
}
