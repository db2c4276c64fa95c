//! Maps the errors of the `sspi` crate, which tells some failures of Kerberos apart by their text
//! only.

use sspi::{Error, ErrorKind};

use super::token_error::{TokenError, TokenFault};

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
