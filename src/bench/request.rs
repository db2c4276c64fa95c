//! What a client asks of the other end of a measuring stream: the `details` of its OPEN (PROTOCOL 9.10).

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::content::Data;
use crate::tunnel::ResetCode;

/// The field that makes a stream a measuring one.
const FIELD: &str = "bench";

/// What the server is to do on a stream, in place of leading it to the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "bench", rename_all = "snake_case")]
pub enum Request {
    /// Send back what comes.
    Echo,
    /// Take what comes, and say now and then how much it was.
    Sink,
    /// Send.
    Source {
        /// What.
        #[serde(default)]
        data: Data,
        /// For so long at most, in milliseconds.
        duration_ms: u64,
        /// So much at most.
        bytes: u64,
    },
}

/// The details cannot be made sense of.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No JSON object.
    #[error("the details of the stream are no JSON object: {0}")]
    NoObject(serde_json::Error),
    /// A measure that is not known here.
    #[error("the stream is to measure, and this version does not know how: {0}")]
    Unknown(serde_json::Error),
}

impl RequestError {
    /// What the client is told.
    #[must_use]
    pub fn wire_code(&self) -> ResetCode {
        match self {
            RequestError::NoObject(_) => ResetCode::Protocol,
            RequestError::Unknown(_) => ResetCode::Refused,
        }
    }
}

impl Request {
    /// What the details of a stream ask for; nothing when it is an ordinary one.
    ///
    /// # Errors
    /// When they are neither empty nor a JSON object, or ask for what is not known.
    pub fn read(details: &[u8]) -> Result<Option<Request>, RequestError> {
        if details.is_empty() {
            return Ok(None);
        }
        let fields: Map<String, Value> =
            serde_json::from_slice(details).map_err(RequestError::NoObject)?;
        if !fields.contains_key(FIELD) {
            return Ok(None);
        }
        serde_json::from_value(Value::Object(fields))
            .map(Some)
            .map_err(RequestError::Unknown)
    }

    /// The details that ask for this.
    #[must_use]
    pub fn details(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_written() {
        for request in [
            Request::Echo,
            Request::Sink,
            Request::Source {
                data: Data::Text,
                duration_ms: 200,
                bytes: u64::MAX,
            },
        ] {
            let details = request.details();
            assert!(
                details.len() < 4096 && Request::read(&details).unwrap() == Some(request),
                "{request:?}"
            );
        }
        let written = br#"{"bench": "source", "duration_ms": 3000, "bytes": 5, "later": [1]}"#;
        let read = Request::read(written).unwrap();
        assert_eq!(
            read,
            Some(Request::Source {
                data: Data::Random,
                duration_ms: 3000,
                bytes: 5
            }),
            "unknown fields are ignored"
        );
        assert_eq!(
            Request::read(br#"{"later": 1, "bench": "echo"}"#).unwrap(),
            Some(Request::Echo)
        );
    }

    #[test]
    fn a_stream_without_the_field_is_an_ordinary_one() {
        for details in ["", "{}", r#"{"later": {"bench": "echo"}}"#] {
            assert_eq!(
                Request::read(details.as_bytes()).unwrap(),
                None,
                "{details}"
            );
        }
    }

    #[test]
    fn what_cannot_be_made_sense_of_never_passes_for_an_ordinary_stream() {
        for details in [
            r#"{"bench": "flood"}"#,
            r#"{"bench": null}"#,
            r#"{"bench": "source"}"#,
            r#"{"bench": "source", "duration_ms": -1, "bytes": 1}"#,
            r#"{"bench": "source", "duration_ms": 1, "bytes": 1e99}"#,
            r#"{"bench": "source", "duration_ms": 1, "bytes": 1, "data": "prose"}"#,
        ] {
            let error = Request::read(details.as_bytes()).expect_err(details);
            assert_eq!(error.wire_code(), ResetCode::Refused, "{details}");
        }
        for details in ["echo", "[]", "{", "\"bench\"", "\u{0}"] {
            assert_eq!(
                Request::read(details.as_bytes())
                    .expect_err(details)
                    .wire_code(),
                ResetCode::Protocol,
                "{details:?}"
            );
        }
    }
}
