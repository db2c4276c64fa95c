//! Telling a proxy who asks: what it offers, strongest first, and the answers to its challenges. Knows header values; not connections.
//!
//! ```text
//!  Negotiate (Kerberos, or NTLM inside it) ─► NTLM ─► Digest ─► Basic      each at most once; the first two take several rounds of one connection
//! ```

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, header};
use http_auth::{DigestClient, PasswordParams, parse_challenges};

use super::{address::ProxyUser, tokens::Tokens};

/// The method of the requests that are answered for.
const METHOD: &str = "CONNECT";

/// A way to say who asks (RFC 7617, RFC 7616, MS-NLMP over HTTP, RFC 4559), in the order of their strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// The password itself.
    Basic,
    /// A hash of the password and of what the proxy said.
    Digest,
    /// Windows' challenge and response.
    Ntlm,
    /// A Kerberos ticket, or NTLM where there is none.
    Negotiate,
}

impl Scheme {
    const ALL: [Scheme; 4] = [
        Scheme::Negotiate,
        Scheme::Ntlm,
        Scheme::Digest,
        Scheme::Basic,
    ];

    fn named(name: &str) -> Option<Scheme> {
        Scheme::ALL
            .into_iter()
            .find(|scheme| scheme.to_string().eq_ignore_ascii_case(name))
    }

    fn has_rounds(self) -> bool {
        matches!(self, Scheme::Ntlm | Scheme::Negotiate)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Scheme::Basic => "Basic",
            Scheme::Digest => "Digest",
            Scheme::Ntlm => "NTLM",
            Scheme::Negotiate => "Negotiate",
        })
    }
}

/// Why a proxy cannot be told who asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthenticationError {
    /// It wants to know, and nobody is named.
    #[error(
        "it wants to know who asks (it offers {offered}); write http://USER:PASSWORD@… in `proxy`"
    )]
    NoUser {
        /// The schemes that it offers.
        offered: String,
    },
    /// It offers nothing that we know.
    #[error(
        "it wants to know who asks, by {offered} only; rePort knows Negotiate, NTLM, Digest and Basic"
    )]
    Unknown {
        /// The schemes that it offers.
        offered: String,
    },
    /// Nothing can be said to it from here.
    #[error("it wants to know who asks, and \"{user}\" cannot be told from here by {problems}")]
    Unable {
        /// Who asked.
        user: String,
        /// Which schemes failed here, each with the reason and what can be done.
        problems: String,
    },
    /// It was told, and is not content.
    #[error("it refuses \"{user}\" (tried {tried}); check the user and the password in `proxy`{}", .problems.as_deref().unwrap_or_default())]
    Refused {
        /// Who asked.
        user: String,
        /// By which schemes it was told.
        tried: String,
        /// Which schemes failed here, each with the reason and what can be done.
        problems: Option<String>,
    },
    /// It closes the connection between two rounds of one scheme.
    #[error(
        "it closes the connection in the middle of {0}; something in between does not keep connections, which this scheme needs"
    )]
    Interrupted(Scheme),
}

/// What a proxy asks for.
#[derive(Debug, Default)]
struct Offers {
    /// Each once.
    schemes: Vec<String>,
    /// The challenge of Digest, as parsed.
    digest: Option<DigestClient>,
    /// The next token of a scheme that has rounds.
    token: Option<(Scheme, Vec<u8>)>,
}

/// One attempt to get a way through a proxy.
pub struct Authentication<'a> {
    user: Option<&'a ProxyUser>,
    /// The proxy's name, whose service a ticket is for.
    proxy_host: &'a str,
    /// Where the way is to lead.
    target: &'a str,
    /// In all its answers: after the first, some proxies name the scheme alone that was tried.
    offers: Offers,
    tried: Vec<Scheme>,
    /// What failed here, by the scheme.
    problems: Vec<(Scheme, String)>,
    /// By what Negotiate had to do without Kerberos.
    doubt: Option<String>,
    /// The scheme in the middle of its rounds.
    tokens: Option<(Scheme, Tokens)>,
    /// Over which connection the next request goes.
    next: Next,
}

/// What the next request asks of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Nothing.
    Any,
    /// That it is the same: it says something about what was heard over that one.
    Same,
    /// That it is another: squid, for one, takes no other scheme over a connection that has begun with one of those that belong to connections.
    Another,
}

impl<'a> Authentication<'a> {
    /// Nothing was asked yet.
    pub fn new(user: Option<&'a ProxyUser>, proxy_host: &'a str, target: &'a str) -> Self {
        let offers = Offers::default();
        Authentication {
            user,
            proxy_host,
            target,
            offers,
            tried: Vec::new(),
            problems: Vec::new(),
            doubt: None,
            tokens: None,
            next: Next::Any,
        }
    }

    /// Whether the next request must go over another connection.
    pub fn leaves_the_connection(&self) -> bool {
        self.next == Next::Another
    }

    /// The next request goes over another connection.
    ///
    /// # Errors
    /// When that cannot be.
    pub fn interrupted(&mut self) -> Result<(), AuthenticationError> {
        match (self.next, &self.tokens) {
            (Next::Same, Some((scheme, _))) => Err(AuthenticationError::Interrupted(*scheme)),
            _ => Ok(()),
        }
    }

    /// What to say in the next request, after an answer 407 with these headers.
    ///
    /// # Errors
    /// When there is nothing left to say.
    pub async fn answer(
        &mut self,
        headers: &HeaderMap,
    ) -> Result<HeaderValue, AuthenticationError> {
        self.offers.read(headers);
        let Some(user) = self.user else {
            return Err(self.given_up());
        };
        if let Some((scheme, tokens)) = self.tokens.take() {
            // Without a token of its own it has heard everything, and is not content.
            if let Some((_, token)) = self
                .offers
                .token
                .take()
                .filter(|(offered, _)| *offered == scheme)
                && let Some(value) = self.round(scheme, tokens, Some(token)).await
            {
                self.next = Next::Same;
                return Ok(value);
            }
        }
        self.next = if self.tried.last().is_some_and(|last| last.has_rounds()) {
            Next::Another
        } else {
            Next::Any
        };
        for scheme in Scheme::ALL {
            let is_offered = self
                .offers
                .schemes
                .iter()
                .any(|name| Scheme::named(name) == Some(scheme));
            // What was answered in time may be stale on arrival, once.
            let is_stale = scheme == Scheme::Digest
                && self.offers.digest.as_ref().is_some_and(DigestClient::stale);
            let attempts = self.tried.iter().filter(|tried| **tried == scheme).count();
            if !is_offered || attempts > usize::from(is_stale) {
                continue;
            }
            self.tried.push(scheme);
            let value = match scheme {
                Scheme::Basic => sensitive(&format!(
                    "Basic {}",
                    STANDARD.encode(format!("{}:{}", user.name, user.password()))
                )),
                Scheme::Digest => self.digest(user),
                Scheme::Ntlm | Scheme::Negotiate => {
                    match Tokens::new(scheme, user, self.proxy_host) {
                        Ok(tokens) => self.round(scheme, tokens, None).await,
                        Err(problem) => self.failed(scheme, problem),
                    }
                }
            };
            if let Some(value) = value {
                return Ok(value);
            }
        }
        Err(self.given_up())
    }

    /// Who is to blame, when nothing is left to be said: this side, or what the proxy makes of it.
    pub fn given_up(&self) -> AuthenticationError {
        let offered = self.offers.schemes.join(", ");
        let Some(user) = self.user else {
            return AuthenticationError::NoUser { offered };
        };
        if self.tried.is_empty() {
            return AuthenticationError::Unknown { offered };
        }
        let failed: Vec<_> = self
            .problems
            .iter()
            .map(|(scheme, problem)| format!("{scheme}: {problem}"))
            .collect();
        let is_told = |scheme: &&Scheme| self.problems.iter().all(|(failed, _)| failed != *scheme);
        let told: Vec<_> = self
            .tried
            .iter()
            .filter(is_told)
            .map(Scheme::to_string)
            .collect();
        let user = user.name.clone();
        if told.is_empty() {
            return AuthenticationError::Unable {
                user,
                problems: failed.join("; "),
            };
        }
        let failed = (!failed.is_empty()).then(|| format!("here failed {}", failed.join("; ")));
        let notes: Vec<_> = failed.into_iter().chain(self.doubt.clone()).collect();
        let problems = (!notes.is_empty()).then(|| format!(" ({})", notes.join("; ")));
        AuthenticationError::Refused {
            user,
            tried: told.join(", "),
            problems,
        }
    }

    fn failed(&mut self, scheme: Scheme, problem: impl fmt::Display) -> Option<HeaderValue> {
        self.problems.push((scheme, problem.to_string()));
        None
    }

    async fn round(
        &mut self,
        scheme: Scheme,
        tokens: Tokens,
        token: Option<Vec<u8>>,
    ) -> Option<HeaderValue> {
        match tokens.next(token).await {
            Ok((tokens, token)) => {
                self.doubt = tokens
                    .doubt()
                    .map(|doubt| {
                        format!("{scheme} carried NTLM, for Kerberos failed here: {doubt}")
                    })
                    .or(self.doubt.take());
                self.tokens = Some((scheme, tokens));
                sensitive(&format!("{scheme} {}", STANDARD.encode(token)))
            }
            Err(problem) => self.failed(scheme, problem),
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
        let client = self
            .offers
            .digest
            .as_mut()
            .ok_or_else(|| "its challenge cannot be read".to_owned());
        match client.and_then(|client| client.respond(&parameters)) {
            Ok(value) => sensitive(&value),
            Err(problem) => self.failed(Scheme::Digest, problem),
        }
    }
}

fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl Offers {
    /// Adds what an answer says. Its token and its challenge of Digest are the ones that count from now on.
    fn read(&mut self, headers: &HeaderMap) {
        self.token = None;
        for value in headers
            .get_all(header::PROXY_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
        {
            let (first, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
            // A token stands alone, and is no parameter.
            if let Some(scheme) = Scheme::named(first).filter(|scheme| scheme.has_rounds())
                && let Ok(token) = STANDARD.decode(rest.trim())
                && !rest.trim().is_empty()
            {
                self.add(first);
                self.token = Some((scheme, token));
                continue;
            }
            let Ok(challenges) = parse_challenges(value) else {
                self.add(first.trim_end_matches(','));
                continue;
            };
            let mut digest = None;
            for challenge in challenges {
                self.add(challenge.scheme);
                if Scheme::named(challenge.scheme) == Some(Scheme::Digest) && digest.is_none() {
                    digest = DigestClient::try_from(&challenge).ok();
                }
            }
            self.digest = digest.or(self.digest.take());
        }
    }

    fn add(&mut self, scheme: &str) {
        if !self
            .schemes
            .iter()
            .any(|known| known.eq_ignore_ascii_case(scheme))
        {
            self.schemes.push(scheme.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::proxy::address::ProxyAddress;

    fn user() -> ProxyUser {
        "http://ann:open sesame@proxy"
            .parse::<ProxyAddress>()
            .unwrap()
            .user
            .unwrap()
    }

    fn asked(values: &[&str]) -> HeaderMap {
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
    async fn the_strongest_that_is_offered_is_tried_first_and_each_once() {
        let user = user();
        let mut authentication = Authentication::new(Some(&user), "proxy", "example.com:443");
        let offer = asked(&[
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
    async fn a_stale_nonce_is_answered_once_more() {
        let user = user();
        let mut authentication = Authentication::new(Some(&user), "proxy", "example.com:443");
        let fresh = |stale| {
            asked(&[&format!(
                "Digest realm=\"r\", nonce=\"n\", qop=\"auth\", stale={stale}"
            )])
        };
        authentication.answer(&fresh("false")).await.unwrap();
        authentication.answer(&fresh("true")).await.unwrap();
        assert!(authentication.answer(&fresh("false")).await.is_err());
    }

    #[tokio::test]
    async fn what_was_offered_once_is_tried_although_it_is_not_offered_again() {
        let user = user();
        let mut authentication = Authentication::new(Some(&user), "proxy", "example.com:443");
        let digest = "Digest realm=\"r\", nonce=\"n\", qop=\"auth\"";
        let first = authentication
            .answer(&asked(&["NTLM", digest, "Basic realm=\"x\""]))
            .await
            .unwrap();
        assert!(first.to_str().unwrap().starts_with("NTLM "));
        let second = authentication.answer(&asked(&["NTLM"])).await.unwrap();
        assert!(
            second.to_str().unwrap().starts_with("Digest ")
                && second.to_str().unwrap().contains("nonce=\"n\"")
        );
        let third = authentication.answer(&asked(&[digest])).await.unwrap();
        assert!(third.to_str().unwrap().starts_with("Basic "));
    }

    #[tokio::test]
    async fn what_fails_here_is_not_laid_at_the_proxys_door() {
        let user = "http://a%5Cb%5Cc:word@proxy"
            .parse::<ProxyAddress>()
            .unwrap()
            .user
            .unwrap();
        let mut authentication = Authentication::new(Some(&user), "proxy", "example.com:443");
        let error = authentication
            .answer(&asked(&["NTLM"]))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("cannot be told from here by NTLM: the user cannot be one there"),
            "{error}"
        );
        assert!(
            error.contains("write USER, DOMAIN\\USER or USER@REALM in `proxy`"),
            "{error}"
        );
        let mut authentication = Authentication::new(Some(&user), "proxy", "example.com:443");
        authentication
            .answer(&asked(&["NTLM", "Basic realm=\"x\""]))
            .await
            .unwrap();
        let error = authentication
            .answer(&asked(&["Basic realm=\"x\""]))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("(tried Basic)")
                && error.contains("here failed NTLM: the user cannot be"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn several_challenges_may_stand_in_one_line() {
        let user = user();
        let mut authentication = Authentication::new(Some(&user), "proxy", "example.com:443");
        let offer = asked(&["NTLM, Basic realm=\"x\""]);
        let first = authentication.answer(&offer).await.unwrap();
        assert!(
            first.to_str().unwrap().starts_with("NTLM TlRMTVNTUA"),
            "{first:?}"
        );
        assert!(
            authentication.interrupted().is_ok() && !authentication.leaves_the_connection(),
            "nothing was heard yet"
        );
        // It is not content with the first message, and says nothing to it.
        let second = authentication.answer(&offer).await.unwrap();
        assert!(second.to_str().unwrap().starts_with("Basic "));
        assert!(authentication.leaves_the_connection(), "it belongs to NTLM");
    }

    #[tokio::test]
    async fn what_cannot_be_answered_says_what_is_missing() {
        let mut nobody = Authentication::new(None, "proxy", "example.com:443");
        let error = nobody
            .answer(&asked(&["Negotiate", "NTLM"]))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("Negotiate, NTLM") && error.contains("USER:PASSWORD"),
            "{error}"
        );
        let user = user();
        let mut authentication = Authentication::new(Some(&user), "proxy", "example.com:443");
        let error = authentication
            .answer(&asked(&["Bearer realm=\"x\""]))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("by Bearer only"), "{error}");
    }
}
