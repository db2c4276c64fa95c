//! The request of a client on a benchmark stream: the `details` of its OPEN (PROTOCOL 9.10).

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::payload::PayloadKind;
use crate::tunnel::ResetCode;

/// The field that marks a benchmark stream.
const FIELD: &str = "bench";

/// The task of the server on a stream. It replaces the connection to the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "bench", rename_all = "snake_case")]
pub enum BenchRequest {
    /// Sends received data back.
    Echo,
    /// Discards received data and regularly reports its amount.
    Sink,
    /// Sends data.
    Source {
        /// The kind of data.
        #[serde(default)]
        data: PayloadKind,
        /// The maximum duration in milliseconds.
        duration_ms: u64,
        /// The maximum number of bytes.
        bytes: u64,
    },
}

/// Why the details are invalid.
#[derive(Debug, thiserror::Error)]
pub enum BenchRequestError {
    /// The details are not a JSON object.
    #[error("the details of the stream are not a JSON object: {0}")]
    NoObject(serde_json::Error),
    /// This version does not know the requested measurement.
    #[error("the stream requests a measurement that this version does not support: {0}")]
    Unknown(serde_json::Error),
}

impl BenchRequestError {
    /// The code of the RESET that the client receives.
    #[must_use]
    pub fn reset_code(&self) -> ResetCode {
        match self {
            BenchRequestError::NoObject(_) => ResetCode::Protocol,
            BenchRequestError::Unknown(_) => ResetCode::Refused,
        }
    }
}

impl BenchRequest {
    /// Parses the details of a stream. Returns `None` for an ordinary stream.
    ///
    /// # Errors
    /// Fails when the details are neither empty nor a JSON object, or request an unknown
    /// measurement.
    pub fn read(details: &[u8]) -> Result<Option<BenchRequest>, BenchRequestError> {
        if details.is_empty() {
            return Ok(None);
        }
        let fields: Map<String, Value> =
            serde_json::from_slice(details).map_err(BenchRequestError::NoObject)?;
        if !fields.contains_key(FIELD) {
            return Ok(None);
        }
        serde_json::from_value(Value::Object(fields))
            .map(Some)
            .map_err(BenchRequestError::Unknown)
    }

    /// Encodes the request as the details of an OPEN.
    #[must_use]
    pub fn details(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_round_trip() {
        for request in [
            BenchRequest::Echo,
            BenchRequest::Sink,
            BenchRequest::Source {
                data: PayloadKind::Text,
                duration_ms: 200,
                bytes: u64::MAX,
            },
        ] {
            let details = request.details();
            assert!(
                details.len() < 4096 && BenchRequest::read(&details).unwrap() == Some(request),
                "{request:?}"
            );
        }
        let written = br#"{"bench": "source", "duration_ms": 3000, "bytes": 5, "later": [1]}"#;
        let read = BenchRequest::read(written).unwrap();
        assert_eq!(
            read,
            Some(BenchRequest::Source {
                data: PayloadKind::Random,
                duration_ms: 3000,
                bytes: 5
            }),
            "unknown fields are ignored"
        );
        assert_eq!(
            BenchRequest::read(br#"{"later": 1, "bench": "echo"}"#).unwrap(),
            Some(BenchRequest::Echo)
        );
    }

    #[test]
    fn a_stream_without_the_field_is_ordinary() {
        for details in ["", "{}", r#"{"later": {"bench": "echo"}}"#] {
            assert_eq!(
                BenchRequest::read(details.as_bytes()).unwrap(),
                None,
                "{details}"
            );
        }
    }

    #[test]
    fn invalid_requests_are_errors_and_not_ordinary_streams() {
        for details in [
            r#"{"bench": "flood"}"#,
            r#"{"bench": null}"#,
            r#"{"bench": "source"}"#,
            r#"{"bench": "source", "duration_ms": -1, "bytes": 1}"#,
            r#"{"bench": "source", "duration_ms": 1, "bytes": 1e99}"#,
            r#"{"bench": "source", "duration_ms": 1, "bytes": 1, "data": "prose"}"#,
        ] {
            let error = BenchRequest::read(details.as_bytes()).expect_err(details);
            assert_eq!(error.reset_code(), ResetCode::Refused, "{details}");
        }
        for details in ["echo", "[]", "{", "\"bench\"", "\u{0}"] {
            assert_eq!(
                BenchRequest::read(details.as_bytes())
                    .expect_err(details)
                    .reset_code(),
                ResetCode::Protocol,
                "{details:?}"
            );
        }
    }
}
