//! Stands in for the token exchanges in a build without the feature `proxy-sso`: every exchange
//! fails at its start, and the next scheme of the proxy is tried.

use super::{
    address::ProxyUser,
    auth_scheme::AuthScheme,
    token_error::{TokenError, TokenFault},
};

/// A token exchange, of which this build has none.
pub(super) enum TokenExchange {}

impl TokenExchange {
    /// Fails.
    ///
    /// # Errors
    /// Always: this build has no NTLM and no Negotiate.
    pub(super) fn new(
        _scheme: AuthScheme,
        _user: &ProxyUser,
        _proxy_host: &str,
    ) -> Result<Self, TokenError> {
        Err(TokenError {
            fault: TokenFault::Unsupported,
            reason: "this build has no NTLM and no Negotiate".to_owned(),
        })
    }

    /// Returns why Negotiate carries NTLM.
    pub(super) fn fallback_reason(&self) -> Option<&TokenError> {
        match *self {}
    }

    /// Returns the next token to send.
    ///
    /// # Errors
    /// Never called: there is no exchange.
    pub(super) async fn next(
        self,
        _received: Option<Vec<u8>>,
    ) -> Result<(Self, Vec<u8>), TokenError> {
        match self {}
    }
}
