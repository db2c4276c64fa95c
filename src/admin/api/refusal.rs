//! The answers of requests that fail: a status, and a body with a code that never changes.

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use tracing::error;

use crate::{
    administration::{AdministrationError, ErrorBody, ErrorCode},
    policy::Problem,
    throttle::THROTTLE_REFILL,
};

/// The first characters of secrets and verifiers. An answer never contains one, even if the request
/// did so in a wrong field.
const SECRET_PREFIXES: [&str; 3] = ["rt1_", "rc1_", "rv1_"];

/// The answer of a request that fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    status: StatusCode,
    body: Box<ErrorBody>,
    retry_after: Option<u64>,
}

impl Refusal {
    /// Creates the answer with the usual status of a code.
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Refusal {
            status: status_of(code),
            body: Box::new(ErrorBody {
                code,
                message: message.into(),
                field: None,
                value: None,
                problems: Vec::new(),
            }),
            retry_after: None,
        }
    }

    /// Creates the answer of one invalid value.
    pub(super) fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        let problem = Problem {
            field: field.into(),
            value: String::new(),
            message: message.into(),
        };
        AdministrationError::Invalid(vec![problem]).into()
    }

    /// Creates the answer of a thing that does not exist.
    pub(super) fn not_found(kind: &str, id: &str) -> Self {
        let shown: String = id.chars().take(64).collect();
        let message = format!("there is no {kind} {shown:?}");
        Refusal::new(ErrorCode::NotFound, message)
    }

    /// Creates the answer of a request without a valid token.
    pub(super) fn unauthorized(message: &str) -> Self {
        Refusal::new(ErrorCode::Unauthorized, message)
    }

    /// Creates the answer of a party that has sent too many wrong tokens.
    pub(super) fn throttled() -> Self {
        let message = "too many wrong tokens came from this address (try again later)";
        Refusal {
            retry_after: Some(THROTTLE_REFILL.as_secs()),
            ..Refusal::new(ErrorCode::Throttled, message)
        }
    }

    /// Creates the answer of a request that is too much at present.
    pub(super) fn busy(message: &str, retry_after: u64) -> Self {
        Refusal {
            retry_after: Some(retry_after),
            ..Refusal::new(ErrorCode::Busy, message)
        }
    }

    /// Creates the answer without a database.
    pub(super) fn store_away() -> Self {
        let message = "the database does not answer, and what is known continues to apply (try \
                       again later)";
        Refusal {
            retry_after: Some(5),
            ..Refusal::new(ErrorCode::StoreAway, message)
        }
    }

    /// Returns the status.
    #[cfg(test)]
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the body.
    #[cfg(test)]
    pub(super) fn body(&self) -> &ErrorBody {
        &self.body
    }
}

/// Returns the status of a code.
fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::Malformed => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorCode::Forbidden => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::Duplicate | ErrorCode::InUse => StatusCode::CONFLICT,
        ErrorCode::Conflict => StatusCode::PRECONDITION_FAILED,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ErrorCode::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::VersionRequired => StatusCode::PRECONDITION_REQUIRED,
        ErrorCode::Throttled | ErrorCode::Busy => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::StoreAway => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<AdministrationError> for Refusal {
    fn from(failure: AdministrationError) -> Self {
        match failure.code() {
            ErrorCode::StoreAway => Refusal::store_away(),
            ErrorCode::Internal => {
                // The text may describe the database, which is for the log only.
                error!(error = %failure, "admin request failed");
                let message = "the master has failed (its log has the cause)";
                Refusal::new(ErrorCode::Internal, message)
            }
            code => Refusal {
                status: status_of(code),
                body: Box::new(failure.body()),
                retry_after: None,
            },
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let fields: [Option<(HeaderName, HeaderValue)>; 2] = [
            self.retry_after
                .map(|seconds| (header::RETRY_AFTER, seconds.into())),
            (self.status == StatusCode::UNAUTHORIZED).then_some((
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"rePort\""),
            )),
        ];
        let mut response = (self.status, Json(without_secrets(*self.body))).into_response();
        response.headers_mut().extend(fields.into_iter().flatten());
        response
    }
}

/// Hides secrets and verifiers in a body. Parsers repeat the values that they refuse.
fn without_secrets(mut body: ErrorBody) -> ErrorBody {
    body.message = hide_secrets(&body.message);
    body.field = body.field.map(|field| hide_secrets(&field));
    body.value = body.value.map(|value| hide_secrets(&value));
    for problem in &mut body.problems {
        problem.field = hide_secrets(&problem.field);
        problem.value = hide_secrets(&problem.value);
        problem.message = hide_secrets(&problem.message);
    }
    body
}

/// Replaces what follows the prefix of a secret or a verifier.
fn hide_secrets(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((start, prefix)) = first_prefix(rest) {
        let (before, secret) = rest.split_at(start);
        let is_other = |character: char| {
            !character.is_ascii_alphanumeric() && character != '-' && character != '_'
        };
        let end = secret.find(is_other).unwrap_or(secret.len());
        shown.push_str(before);
        shown.push_str(prefix);
        shown.push('…');
        rest = secret.split_at(end).1;
    }
    shown.push_str(rest);
    shown
}

/// Returns the first prefix of a secret in a text, and its position.
fn first_prefix(text: &str) -> Option<(usize, &'static str)> {
    let found = SECRET_PREFIXES.iter().filter_map(|prefix| {
        let start = text.find(prefix)?;
        Some((start, *prefix))
    });
    found.min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{RecordKind, StoreError};

    fn refusal(error: StoreError) -> (u16, ErrorCode, Option<String>) {
        let refusal = Refusal::from(AdministrationError::Store(error));
        let ErrorBody { code, field, .. } = refusal.body().clone();
        (refusal.status().as_u16(), code, field)
    }

    #[test]
    fn errors_of_the_store_have_a_status_a_code_and_a_field() {
        let duplicate = StoreError::Duplicate {
            field: "name",
            value: "home".to_owned(),
            reason: "it is the name of account 2".to_owned(),
        };
        let field = Some("name".to_owned());
        assert_eq!(refusal(duplicate), (409, ErrorCode::Duplicate, field));
        let absent = |field| StoreError::NotFound {
            field,
            kind: RecordKind::Account,
            id: "7".to_owned(),
        };
        assert_eq!(refusal(absent("id")).0, 404);
        let field = Some("account".to_owned());
        assert_eq!(refusal(absent("account")), (422, ErrorCode::Invalid, field));
        let conflict = StoreError::Conflict {
            kind: RecordKind::Key,
            id: "1".to_owned(),
            expected: 1,
            found: 2,
        };
        assert_eq!(refusal(conflict).0, 412);
        let away = refusal(StoreError::Away("connection refused".to_owned()));
        assert_eq!(away, (503, ErrorCode::StoreAway, None));
    }

    #[test]
    fn causes_in_the_database_stay_in_the_log() {
        for error in [
            StoreError::Away("user report at db.example".to_owned()),
            StoreError::corrupt(RecordKind::Key, "1", "limits", "db.example"),
        ] {
            let refusal = Refusal::from(AdministrationError::Store(error));
            let text = serde_json::to_string(refusal.body()).unwrap();
            assert!(!text.contains("db.example"), "{text}");
        }
    }

    #[test]
    fn secrets_are_hidden_wherever_they_are() {
        let secret = format!("rt1_{}", "Ab-_".repeat(11));
        for (text, shown) in [
            (format!("unknown `{secret}`"), "unknown `rt1_…`".to_owned()),
            (
                format!("{secret} rv1_x rc1_"),
                "rt1_… rv1_… rc1_…".to_owned(),
            ),
            ("größer als rt1".to_owned(), "größer als rt1".to_owned()),
        ] {
            assert_eq!(hide_secrets(&text), shown);
        }
        let refusal = Refusal::invalid(&secret, format!("unknown {secret}"));
        let body = without_secrets(*refusal.body);
        assert!(!serde_json::to_string(&body).unwrap().contains(&secret));
    }

    #[test]
    fn refusals_say_how_to_continue() {
        let unauthorized = Refusal::unauthorized("no token").into_response();
        assert_eq!(
            unauthorized
                .headers()
                .get(header::WWW_AUTHENTICATE)
                .unwrap(),
            "Bearer realm=\"rePort\""
        );
        let throttled = Refusal::throttled().into_response();
        assert_eq!(throttled.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(throttled.headers().get(header::RETRY_AFTER).unwrap(), "10");
    }
}
