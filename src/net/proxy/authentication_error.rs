//! Why authentication to a proxy failed.

use super::{auth_scheme::AuthScheme, token_error::TokenError};
use crate::diagnosis::{Diagnosis, DiagnosisCode};

/// The remedy where nothing better is known.
pub(super) const CHECK_PROXY: &str = "check `proxy` and the proxy's log";

/// Why authentication to a proxy failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.diagnosis())]
pub enum AuthenticationError {
    /// The proxy requires authentication, but no user is configured.
    NoUser {
        /// The schemes that the proxy offers.
        offered: Vec<String>,
    },
    /// The proxy offers only unknown schemes.
    Unknown {
        /// The schemes that the proxy offers.
        offered: Vec<String>,
    },
    /// Every scheme failed on this side.
    Unable {
        /// The user's name.
        user: String,
        /// The schemes that failed on this side.
        problems: Vec<(AuthScheme, SchemeProblem)>,
    },
    /// The proxy rejected the credentials.
    Refused {
        /// The user's name.
        user: String,
        /// The schemes with which the credentials were sent.
        tried: Vec<AuthScheme>,
        /// The schemes that failed on this side.
        problems: Vec<(AuthScheme, SchemeProblem)>,
        /// The scheme that carried NTLM, and why it could not use Kerberos.
        fallback: Option<Box<(AuthScheme, TokenError)>>,
    },
    /// The proxy closes the connection between two rounds of one scheme.
    Interrupted(AuthScheme),
}

/// Why a scheme failed on this side.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemeProblem {
    /// The Digest challenge cannot be parsed.
    #[error("its challenge cannot be read")]
    Challenge,
    /// The Digest challenge cannot be answered.
    #[error("{0}")]
    Digest(String),
    /// There is no token of NTLM or Negotiate.
    #[error("{0}")]
    Token(#[from] TokenError),
}

impl SchemeProblem {
    fn reason(&self) -> String {
        match self {
            SchemeProblem::Token(error) => error.reason.clone(),
            problem => problem.to_string(),
        }
    }

    fn remedy(&self) -> Option<String> {
        match self {
            SchemeProblem::Token(error) => Some(error.remedy()),
            SchemeProblem::Challenge | SchemeProblem::Digest(_) => None,
        }
    }
}

impl AuthenticationError {
    /// Returns the evidence, the likely cause and the remedy.
    #[must_use]
    pub fn diagnosis(&self) -> Diagnosis {
        match self {
            AuthenticationError::NoUser { offered } => Diagnosis::new(
                DiagnosisCode::ProxyAuthenticationRequired,
                format!(
                    "it requires authentication (it offers {})",
                    offered.join(", ")
                ),
                "",
                "write http://USER:PASSWORD@… in `proxy`",
            ),
            AuthenticationError::Unknown { offered } => Diagnosis::new(
                DiagnosisCode::ProxyAuthenticationUnsupported,
                format!("it requires authentication by {} only", offered.join(", ")),
                "",
                "rePort supports Negotiate, NTLM, Digest and Basic",
            ),
            AuthenticationError::Unable { user, problems } => unable(user, problems),
            AuthenticationError::Refused { user, tried, .. } => {
                let tried: Vec<String> = tried.iter().map(AuthScheme::to_string).collect();
                Diagnosis::new(
                    DiagnosisCode::ProxyCredentialsRefused,
                    format!("it refuses \"{user}\" (tried {})", tried.join(", ")),
                    "",
                    format!(
                        "check the user and the password in `proxy`{}",
                        self.local_problems()
                    ),
                )
            }
            AuthenticationError::Interrupted(scheme) => Diagnosis::new(
                DiagnosisCode::ProxyAuthenticationInterrupted,
                format!("it closed the connection in the middle of {scheme}"),
                "a device on the path does not keep connections open, which this scheme requires",
                CHECK_PROXY,
            ),
        }
    }

    /// Describes in parentheses what failed on this side before the proxy rejected the credentials.
    fn local_problems(&self) -> String {
        let AuthenticationError::Refused {
            problems, fallback, ..
        } = self
        else {
            return String::new();
        };
        let failed = joined(problems, |(scheme, problem)| {
            Some(format!("{scheme}: {problem}"))
        });
        let failed = (!failed.is_empty()).then(|| format!("failed here: {failed}"));
        let fallback = fallback.as_deref().map(|(scheme, reason)| {
            format!("{scheme} carried NTLM because Kerberos failed here: {reason}")
        });
        let notes: Vec<String> = failed.into_iter().chain(fallback).collect();
        if notes.is_empty() {
            String::new()
        } else {
            format!(" ({})", notes.join("; "))
        }
    }
}

/// Diagnoses schemes that all failed on this side.
fn unable(user: &str, problems: &[(AuthScheme, SchemeProblem)]) -> Diagnosis {
    let reasons = joined(problems, |(scheme, problem)| {
        Some(format!("{scheme}: {}", problem.reason()))
    });
    let remedies = joined(problems, |(_, problem)| problem.remedy());
    Diagnosis::new(
        DiagnosisCode::ProxyAuthenticationFailed,
        format!("it requires authentication, and \"{user}\" cannot authenticate by {reasons}"),
        "",
        if remedies.is_empty() {
            CHECK_PROXY.to_owned()
        } else {
            remedies
        },
    )
}

fn joined<T>(items: &[T], to_text: impl Fn(&T) -> Option<String>) -> String {
    let texts: Vec<String> = items.iter().filter_map(to_text).collect();
    texts.join("; ")
}
