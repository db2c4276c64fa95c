//! The authentication schemes that a proxy offers, with their challenges.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, header};
use http_auth::{DigestClient, parse_challenges};

use super::auth_scheme::AuthScheme;

/// The schemes that a proxy offers.
#[derive(Debug, Default)]
pub(super) struct OfferedSchemes {
    /// The schemes, without duplicates.
    pub(super) schemes: Vec<String>,
    /// The parsed Digest challenge.
    pub(super) digest: Option<DigestClient>,
    /// The next token of a multi-round scheme.
    pub(super) token: Option<(AuthScheme, Vec<u8>)>,
}

impl OfferedSchemes {
    /// Adds the offers of a response. Its token and its Digest challenge replace the previous ones.
    pub(super) fn read(&mut self, headers: &HeaderMap) {
        self.token = None;
        for value in headers
            .get_all(header::PROXY_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
        {
            let (first, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
            // The header contains only a token, without parameters.
            if let Some(scheme) =
                AuthScheme::from_name(first).filter(|scheme| scheme.is_multi_round())
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
                if AuthScheme::from_name(challenge.scheme) == Some(AuthScheme::Digest)
                    && digest.is_none()
                {
                    digest = DigestClient::try_from(&challenge).ok();
                }
            }
            self.digest = digest.or(self.digest.take());
        }
    }

    /// Returns whether the proxy offers this scheme.
    pub(super) fn contains(&self, scheme: AuthScheme) -> bool {
        self.schemes
            .iter()
            .any(|name| AuthScheme::from_name(name) == Some(scheme))
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
