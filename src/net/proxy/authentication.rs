//! Authenticates to an HTTP proxy: picks the strongest scheme offered and answers its challenges.
//! Handles header values, not connections.
//!
//! ```text
//!  Negotiate (Kerberos, or NTLM inside it) ─► NTLM ─► Digest ─► Basic
//!  Each is tried at most once. The first two take several rounds on one connection.
//! ```

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue};
use http_auth::{DigestClient, PasswordParams};

use super::{
    address::ProxyUser,
    auth_scheme::AuthScheme,
    authentication_error::{AuthenticationError, SchemeProblem},
    offered_schemes::OfferedSchemes,
    token_error::TokenError,
    tokens::TokenExchange,
};

/// The method of the requests to authenticate.
const METHOD: &str = "CONNECT";

/// The authentication of one connection attempt through a proxy.
pub struct Authentication<'a> {
    user: Option<&'a ProxyUser>,
    /// The proxy's name, which identifies its Kerberos service.
    proxy_host: &'a str,
    /// The destination, `host:port`.
    target: &'a str,
    /// The offers of all responses so far: after the first one, some proxies name only the scheme
    /// that was tried.
    offers: OfferedSchemes,
    tried: Vec<AuthScheme>,
    /// The schemes that failed on this side, with the reason.
    problems: Vec<(AuthScheme, SchemeProblem)>,
    /// The scheme that carries NTLM, and why it could not use Kerberos.
    fallback: Option<(AuthScheme, TokenError)>,
    /// The multi-round scheme in progress.
    tokens: Option<(AuthScheme, TokenExchange)>,
    /// The connection that the next request needs.
    next: NextConnection,
}

/// The connection that the next request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NextConnection {
    /// Any connection.
    Any,
    /// The same connection: the request continues a challenge received on it.
    Same,
    /// Another connection. Squid, for example, accepts no other scheme on a connection that began
    /// with NTLM or Negotiate.
    New,
}

impl<'a> Authentication<'a> {
    /// Starts an authentication; no request has been sent.
    pub fn new(user: Option<&'a ProxyUser>, proxy_host: &'a str, target: &'a str) -> Self {
        let offers = OfferedSchemes::default();
        Authentication {
            user,
            proxy_host,
            target,
            offers,
            tried: Vec::new(),
            problems: Vec::new(),
            fallback: None,
            tokens: None,
            next: NextConnection::Any,
        }
    }

    /// Returns whether the next request needs another connection.
    pub fn needs_new_connection(&self) -> bool {
        self.next == NextConnection::New
    }

    /// Returns the scheme of the last credentials.
    pub fn last_scheme(&self) -> Option<AuthScheme> {
        self.tried.last().copied()
    }

    /// Checks that the next request may use a new connection.
    ///
    /// # Errors
    /// If a multi-round scheme is in progress on the previous connection.
    pub fn check_reconnect(&mut self) -> Result<(), AuthenticationError> {
        match (self.next, &self.tokens) {
            (NextConnection::Same, Some((scheme, _))) => {
                Err(AuthenticationError::Interrupted(*scheme))
            }
            _ => Ok(()),
        }
    }

    /// Returns the credentials for the next request, after a 407 response with these headers.
    ///
    /// # Errors
    /// If no scheme is left to try.
    pub async fn answer(
        &mut self,
        headers: &HeaderMap,
    ) -> Result<HeaderValue, AuthenticationError> {
        self.offers.read(headers);
        let Some(user) = self.user else {
            return Err(self.final_error());
        };
        if let Some(value) = self.continue_exchange().await {
            return Ok(value);
        }
        self.next = if self.tried.last().is_some_and(|last| last.is_multi_round()) {
            NextConnection::New
        } else {
            NextConnection::Any
        };
        for scheme in AuthScheme::ALL {
            if !self.may_try(scheme) {
                continue;
            }
            self.tried.push(scheme);
            if let Some(value) = self.begin(scheme, user).await {
                return Ok(value);
            }
        }
        Err(self.final_error())
    }

    /// Continues the multi-round scheme in progress, if there is one. Returns `None` if it has
    /// failed.
    async fn continue_exchange(&mut self) -> Option<HeaderValue> {
        let (scheme, tokens) = self.tokens.take()?;
        // Without a further token from the proxy, this scheme has failed.
        let token = self.offers.token.take();
        let (_, token) = token.filter(|(offered, _)| *offered == scheme)?;
        let value = self.round(scheme, tokens, Some(token)).await?;
        self.next = NextConnection::Same;
        Some(value)
    }

    /// Returns whether the proxy offers the scheme and it has an attempt left.
    fn may_try(&self, scheme: AuthScheme) -> bool {
        // A nonce may become stale in flight, so Digest may be tried once more.
        let is_stale = scheme == AuthScheme::Digest
            && self.offers.digest.as_ref().is_some_and(DigestClient::stale);
        let attempts = self.tried.iter().filter(|tried| **tried == scheme).count();
        self.offers.contains(scheme) && attempts <= usize::from(is_stale)
    }

    /// Returns the first credentials of the scheme, or `None` if it fails on this side.
    async fn begin(&mut self, scheme: AuthScheme, user: &ProxyUser) -> Option<HeaderValue> {
        match scheme {
            AuthScheme::Basic => sensitive(&format!(
                "Basic {}",
                STANDARD.encode(format!("{}:{}", user.name, user.password()))
            )),
            AuthScheme::Digest => self.digest(user),
            AuthScheme::Ntlm | AuthScheme::Negotiate => {
                match TokenExchange::new(scheme, user, self.proxy_host) {
                    Ok(tokens) => self.round(scheme, tokens, None).await,
                    Err(problem) => self.record_failure(scheme, problem),
                }
            }
        }
    }

    /// Returns the final error: it blames this side, or the proxy's rejection.
    pub fn final_error(&self) -> AuthenticationError {
        let offered = self.offers.schemes.clone();
        let Some(user) = self.user else {
            return AuthenticationError::NoUser { offered };
        };
        if self.tried.is_empty() {
            return AuthenticationError::Unknown { offered };
        }
        let was_sent =
            |scheme: &AuthScheme| self.problems.iter().all(|(failed, _)| failed != scheme);
        let tried: Vec<_> = self.tried.iter().copied().filter(was_sent).collect();
        let user = user.name.clone();
        let problems = self.problems.clone();
        if tried.is_empty() {
            return AuthenticationError::Unable { user, problems };
        }
        AuthenticationError::Refused {
            user,
            tried,
            problems,
            fallback: self.fallback.clone().map(Box::new),
        }
    }

    fn record_failure(
        &mut self,
        scheme: AuthScheme,
        problem: impl Into<SchemeProblem>,
    ) -> Option<HeaderValue> {
        self.problems.push((scheme, problem.into()));
        None
    }

    async fn round(
        &mut self,
        scheme: AuthScheme,
        tokens: TokenExchange,
        token: Option<Vec<u8>>,
    ) -> Option<HeaderValue> {
        match tokens.next(token).await {
            Ok((tokens, token)) => {
                if let Some(reason) = tokens.fallback_reason() {
                    self.fallback = Some((scheme, reason.clone()));
                }
                self.tokens = Some((scheme, tokens));
                sensitive(&format!("{scheme} {}", STANDARD.encode(token)))
            }
            Err(problem) => self.record_failure(scheme, problem),
        }
    }

    fn digest(&mut self, user: &ProxyUser) -> Option<HeaderValue> {
        let (username, password, uri) = (user.name.as_str(), user.password(), self.target);
        let parameters = PasswordParams {
            username,
            password,
            uri,
            method: METHOD,
            body: Some(b""),
        };
        let client = self.offers.digest.as_mut();
        let answer = match client.map(|client| client.respond(&parameters)) {
            Some(Ok(value)) => return sensitive(&value),
            Some(Err(problem)) => SchemeProblem::Digest(problem),
            None => SchemeProblem::Challenge,
        };
        self.record_failure(AuthScheme::Digest, answer)
    }
}

fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;
    use crate::net::proxy::address::ProxyAddress;

    fn user() -> ProxyUser {
        "http://ann:open sesame@proxy"
            .parse::<ProxyAddress>()
            .unwrap()
            .user
            .unwrap()
    }

    fn new_authentication(user: Option<&ProxyUser>) -> Authentication<'_> {
        Authentication::new(user, "proxy", "example.com:443")
    }

    /// Returns the text of the error that ends the authentication after this offer.
    async fn failure(authentication: &mut Authentication<'_>, offer: &[&str]) -> String {
        let answer = authentication.answer(&challenge_headers(offer)).await;
        answer.unwrap_err().to_string()
    }

    fn challenge_headers(values: &[&str]) -> HeaderMap {
        values
            .iter()
            .map(|value| {
                (
                    header::PROXY_AUTHENTICATE,
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect()
    }

    #[tokio::test]
    async fn schemes_are_tried_once_by_strength() {
        let user = user();
        let mut authentication = new_authentication(Some(&user));
        let offer = challenge_headers(&[
            "Basic realm=\"a, b\"",
            "Digest realm=\"r\", nonce=\"n\", qop=\"auth\", algorithm=MD5",
        ]);
        let digest = authentication.answer(&offer).await.unwrap();
        let digest = digest.to_str().unwrap();
        assert!(
            digest.starts_with("Digest username=\"ann\"")
                && digest.contains("uri=\"example.com:443\""),
            "{digest}"
        );
        let basic = authentication.answer(&offer).await.unwrap();
        assert_eq!(basic.to_str().unwrap(), "Basic YW5uOm9wZW4gc2VzYW1l");
        let error = authentication.answer(&offer).await.unwrap_err().to_string();
        assert!(
            error.contains("refuses \"ann\" (tried Digest, Basic)"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn stale_nonce_is_answered_once_more() {
        let user = user();
        let mut authentication = new_authentication(Some(&user));
        let fresh = |stale| {
            challenge_headers(&[&format!(
                "Digest realm=\"r\", nonce=\"n\", qop=\"auth\", stale={stale}"
            )])
        };
        authentication.answer(&fresh("false")).await.unwrap();
        authentication.answer(&fresh("true")).await.unwrap();
        assert!(authentication.answer(&fresh("false")).await.is_err());
    }

    #[cfg(feature = "proxy-sso")]
    #[tokio::test]
    async fn earlier_offers_remain_valid() {
        let user = user();
        let mut authentication = new_authentication(Some(&user));
        let digest = "Digest realm=\"r\", nonce=\"n\", qop=\"auth\"";
        let first = authentication
            .answer(&challenge_headers(&["NTLM", digest, "Basic realm=\"x\""]))
            .await
            .unwrap();
        assert!(first.to_str().unwrap().starts_with("NTLM "));
        let second = authentication
            .answer(&challenge_headers(&["NTLM"]))
            .await
            .unwrap();
        assert!(
            second.to_str().unwrap().starts_with("Digest ")
                && second.to_str().unwrap().contains("nonce=\"n\"")
        );
        let third = authentication
            .answer(&challenge_headers(&[digest]))
            .await
            .unwrap();
        assert!(third.to_str().unwrap().starts_with("Basic "));
    }

    #[cfg(feature = "proxy-sso")]
    #[tokio::test]
    async fn local_failures_do_not_blame_the_proxy() {
        let user = "http://a%5Cb%5Cc:word@proxy"
            .parse::<ProxyAddress>()
            .unwrap()
            .user
            .unwrap();
        let mut authentication = new_authentication(Some(&user));
        let error = failure(&mut authentication, &["NTLM"]).await;
        assert!(
            error.contains("cannot authenticate by NTLM: the user name is not valid for it"),
            "{error}"
        );
        assert!(
            error.contains("write USER, DOMAIN\\USER or USER@REALM in `proxy`"),
            "{error}"
        );
        let mut authentication = new_authentication(Some(&user));
        authentication
            .answer(&challenge_headers(&["NTLM", "Basic realm=\"x\""]))
            .await
            .unwrap();
        let error = failure(&mut authentication, &["Basic realm=\"x\""]).await;
        assert!(
            error.contains("(tried Basic)")
                && error.contains("failed here: NTLM: the user name is not valid"),
            "{error}"
        );
    }

    #[cfg(feature = "proxy-sso")]
    #[tokio::test]
    async fn several_challenges_in_one_header_are_parsed() {
        let user = user();
        let mut authentication = new_authentication(Some(&user));
        let offer = challenge_headers(&["NTLM, Basic realm=\"x\""]);
        let first = authentication.answer(&offer).await.unwrap();
        assert!(
            first.to_str().unwrap().starts_with("NTLM TlRMTVNTUA"),
            "{first:?}"
        );
        assert!(
            authentication.check_reconnect().is_ok() && !authentication.needs_new_connection(),
            "no challenge was received yet"
        );
        // The proxy rejects the first message and sends no challenge.
        let second = authentication.answer(&offer).await.unwrap();
        assert!(second.to_str().unwrap().starts_with("Basic "));
        assert!(authentication.needs_new_connection(), "it belongs to NTLM");
    }

    #[tokio::test]
    async fn unanswerable_challenge_reports_the_missing_part() {
        let mut anonymous = new_authentication(None);
        let error = failure(&mut anonymous, &["Negotiate", "NTLM"]).await;
        assert!(
            error.contains("Negotiate, NTLM") && error.contains("USER:PASSWORD"),
            "{error}"
        );
        let user = user();
        let mut authentication = new_authentication(Some(&user));
        let error = failure(&mut authentication, &["Bearer realm=\"x\""]).await;
        assert!(error.contains("by Bearer only"), "{error}");
    }

    #[cfg(not(feature = "proxy-sso"))]
    #[tokio::test]
    async fn build_without_ntlm_uses_the_next_scheme_or_says_so() {
        let user = user();
        let mut authentication = new_authentication(Some(&user));
        let error = failure(&mut authentication, &["NTLM"]).await;
        assert!(
            error.contains("this build has no NTLM") && error.contains("proxy-sso"),
            "{error}"
        );
        let mut authentication = new_authentication(Some(&user));
        let answer = authentication
            .answer(&challenge_headers(&["Negotiate", "Basic realm=\"x\""]))
            .await
            .unwrap();
        assert!(answer.to_str().unwrap().starts_with("Basic "));
    }
}
