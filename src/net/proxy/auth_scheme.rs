//! The authentication schemes of HTTP proxies.

use std::fmt;

/// An authentication scheme (RFC 7617, RFC 7616, MS-NLMP over HTTP, RFC 4559), in order of
/// strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuthScheme {
    /// Sends the password itself.
    Basic,
    /// Sends a hash of the password and the proxy's challenge.
    Digest,
    /// Sends the NTLM challenge response of Windows.
    Ntlm,
    /// Sends a Kerberos ticket, or NTLM if there is none.
    Negotiate,
}

impl AuthScheme {
    /// All schemes, the strongest first.
    pub(super) const ALL: [AuthScheme; 4] = [
        AuthScheme::Negotiate,
        AuthScheme::Ntlm,
        AuthScheme::Digest,
        AuthScheme::Basic,
    ];

    pub(super) fn from_name(name: &str) -> Option<AuthScheme> {
        AuthScheme::ALL
            .into_iter()
            .find(|scheme| scheme.to_string().eq_ignore_ascii_case(name))
    }

    /// Returns whether the scheme takes several rounds on one connection.
    pub(super) fn is_multi_round(self) -> bool {
        matches!(self, AuthScheme::Ntlm | AuthScheme::Negotiate)
    }
}

impl fmt::Display for AuthScheme {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            AuthScheme::Basic => "Basic",
            AuthScheme::Digest => "Digest",
            AuthScheme::Ntlm => "NTLM",
            AuthScheme::Negotiate => "Negotiate",
        })
    }
}
