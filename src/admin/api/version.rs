//! The version of a record: the `ETag` of an answer, and the `If-Match` of a change.

use axum::{
    extract::FromRequestParts,
    http::{HeaderValue, request::Parts},
};

use utoipa::{
    IntoParams,
    openapi::{
        ObjectBuilder, Required, Type,
        path::{Parameter, ParameterBuilder, ParameterIn},
    },
};

use super::refusal::Refusal;
use crate::administration::ErrorCode;

/// The name of the header field in the OpenAPI document.
pub(super) const IF_MATCH: &str = "If-Match";

/// The version that a change expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ExpectedVersion(
    /// The version, or `None` for any, which `If-Match: *` means.
    pub(super) Option<i64>,
);

impl<S: Send + Sync> FromRequestParts<S> for ExpectedVersion {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let mut values = parts.headers.get_all(IF_MATCH).iter();
        let Some(value) = values.next() else {
            let message = "the change names no version (send the ETag that you have read as \
                           If-Match, or * for any)";
            return Err(Refusal::new(ErrorCode::VersionRequired, message));
        };
        match values.next() {
            None => parse(value),
            Some(_) => Err(unknown_version()),
        }
    }
}

impl IntoParams for ExpectedVersion {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let description = "The ETag of the version that the change expects, or * for any";
        let parameter = ParameterBuilder::new()
            .name(IF_MATCH)
            .parameter_in(ParameterIn::Header)
            .required(Required::True)
            .description(Some(description))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)));
        vec![parameter.build()]
    }
}

/// Reads `If-Match`. No record has another version than a number.
fn parse(value: &HeaderValue) -> Result<ExpectedVersion, Refusal> {
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(ExpectedVersion(None));
    }
    let number = text
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    number
        .and_then(|number| number.parse().ok())
        .map(|version| ExpectedVersion(Some(version)))
        .ok_or_else(unknown_version)
}

fn unknown_version() -> Refusal {
    let message = "If-Match is not one ETag of the record (read it again)";
    Refusal::new(ErrorCode::Conflict, message)
}

/// Returns the `ETag` of a version.
pub(super) fn etag(version: i64) -> HeaderValue {
    // Digits are valid in a header field.
    HeaderValue::from_str(&format!("\"{version}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    async fn read(values: &[&str]) -> Result<Option<i64>, u16> {
        let mut request = Request::builder();
        for value in values {
            request = request.header(IF_MATCH, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        match ExpectedVersion::from_request_parts(&mut parts, &()).await {
            Ok(ExpectedVersion(version)) => Ok(version),
            Err(refusal) => Err(refusal.status().as_u16()),
        }
    }

    #[tokio::test]
    async fn an_etag_is_read_as_it_is_written() {
        let tag = etag(17);
        assert_eq!(tag, "\"17\"");
        assert_eq!(read(&[tag.to_str().unwrap()]).await, Ok(Some(17)));
        assert_eq!(read(&["*"]).await, Ok(None));
    }

    #[tokio::test]
    async fn a_change_names_one_version_of_the_record() {
        assert_eq!(read(&[]).await, Err(428));
        for values in [
            &["17"][..],
            &["W/\"17\""],
            &["\"x\""],
            &["\"1\", \"2\""],
            &["\"1\"", "\"2\""],
            &["\""],
            &[""],
        ] {
            assert_eq!(read(values).await, Err(412), "{values:?}");
        }
    }
}
