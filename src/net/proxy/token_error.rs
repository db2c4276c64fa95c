//! Why there is no token for NTLM or Negotiate.

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
    /// This build has no NTLM and no Negotiate.
    Unsupported,
    /// The computation failed.
    Internal,
    /// Another failure, usually a wrong password.
    Other,
}

impl TokenError {
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
            TokenFault::Unsupported => {
                "use a build with the feature proxy-sso, or let the proxy accept Digest or Basic"
            }
            TokenFault::Internal => "please report this",
            TokenFault::UnknownUser | TokenFault::Other => {
                "check the user and the password in `proxy`"
            }
        };
        remedy.to_owned()
    }
}
