//! The JSON of a request.

use axum::{
    body::HttpBody as _,
    extract::{FromRequest, Request},
    http::{HeaderMap, header},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::{DeserializeOwned, IgnoredAny};

use super::refusal::Refusal;
use crate::{
    administration::{AdministrationError, ErrorCode},
    policy,
};

/// The longest body of a request, in bytes. The longest record takes about half of it.
pub(super) const BODY_MAX: usize = 64 * 1024;

/// The body of a request, read from JSON.
#[derive(Debug)]
pub(super) struct JsonBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        if !is_json(request.headers()) {
            let message = "the body has another media type (send Content-Type: application/json)";
            return Err(Refusal::new(ErrorCode::UnsupportedMediaType, message));
        }
        let bytes = read(request).await?;
        let text = str::from_utf8(&bytes).map_err(|_| malformed("the body is not UTF-8"))?;
        // An error of the syntax has no field.
        serde_json::from_str::<IgnoredAny>(text)
            .map_err(|error| malformed(&format!("the body is not JSON: {error}")))?;
        let value = policy::from_json(text);
        let value = value.map_err(|problem| AdministrationError::Invalid(vec![problem]))?;
        Ok(JsonBody(value))
    }
}

/// Reads the whole body.
async fn read(request: Request) -> Result<Vec<u8>, Refusal> {
    let body = request.into_body();
    let too_large = || {
        let message = format!("the body has more than {BODY_MAX} bytes");
        Refusal::new(ErrorCode::TooLarge, message)
    };
    let announced = body.size_hint().lower();
    if !usize::try_from(announced).is_ok_and(|announced| announced <= BODY_MAX) {
        return Err(too_large());
    }
    match Limited::new(body, BODY_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes().to_vec()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(malformed("the body has no end")),
    }
}

fn malformed(message: &str) -> Refusal {
    Refusal::new(ErrorCode::Malformed, message)
}

/// Whether the body is JSON, with or without parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    let text = value.and_then(|value| value.to_str().ok());
    let media_type = text.and_then(|text| text.split(';').next());
    media_type.is_some_and(|found| found.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Body;
    use futures_util::stream;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Eq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        number: u32,
    }

    async fn parse(media_type: Option<&str>, body: Body) -> Result<Sample, (u16, Option<String>)> {
        let mut request = Request::builder();
        if let Some(media_type) = media_type {
            request = request.header(header::CONTENT_TYPE, media_type);
        }
        let request = request.body(body).unwrap();
        match JsonBody::<Sample>::from_request(request, &()).await {
            Ok(JsonBody(sample)) => Ok(sample),
            Err(refusal) => Err((refusal.status().as_u16(), refusal.body().field.clone())),
        }
    }

    #[tokio::test]
    async fn json_is_read_with_and_without_parameters() {
        for media_type in ["application/json", "Application/JSON; charset=utf-8"] {
            let sample = parse(Some(media_type), Body::from(r#"{"number": 5}"#)).await;
            assert_eq!(sample, Ok(Sample { number: 5 }));
        }
    }

    #[tokio::test]
    async fn another_media_type_is_refused() {
        for media_type in [None, Some("text/json"), Some("application/jsonp"), Some("")] {
            let refused = parse(media_type, Body::from(r#"{"number": 5}"#)).await;
            assert_eq!(refused, Err((415, None)), "{media_type:?}");
        }
    }

    #[tokio::test]
    async fn syntax_and_values_have_different_statuses() {
        let json = Some("application/json");
        for body in ["", "{", "{\"number\": 5} x", "\u{0}"] {
            assert_eq!(parse(json, body.into()).await, Err((400, None)), "{body}");
        }
        let bytes = Body::from(&b"\"\xff\""[..]);
        assert_eq!(parse(json, bytes).await, Err((400, None)));
        let deep = Body::from("[".repeat(BODY_MAX));
        assert_eq!(parse(json, deep).await, Err((400, None)));
        for (body, field) in [
            (r#"{"number": "x"}"#, Some("number")),
            (r#"{"number": 5, "other": 1}"#, Some("other")),
            ("{}", None),
        ] {
            let field = field.map(str::to_owned);
            assert_eq!(parse(json, body.into()).await, Err((422, field)), "{body}");
        }
    }

    #[tokio::test]
    async fn a_long_body_is_refused_whether_announced_or_not() {
        let json = Some("application/json");
        let long = vec![b' '; BODY_MAX + 1];
        let announced = parse(json, Body::from(long.clone())).await;
        assert_eq!(announced, Err((413, None)));
        let parts = long
            .chunks(1_000)
            .map(<[u8]>::to_vec)
            .map(Ok::<_, Infallible>);
        let parts: Vec<_> = parts.collect();
        let streamed = Body::from_stream(stream::iter(parts));
        assert_eq!(parse(json, streamed).await, Err((413, None)));
    }
}
