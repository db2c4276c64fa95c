//! The error of the deserializer of a file.

use std::fmt;

use serde::de::{self, Expected, Unexpected};
use serde_json::Number;

use super::{error::InvalidValue, secret::SECRET_FORMS};
use crate::text::without_password;

/// Why a value cannot be read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The object lacks this field.
    Missing(&'static str),
    /// The object has this field more than once.
    Duplicate(&'static str),
    /// The object has an unknown field.
    Unknown {
        name: String,
        known: &'static [&'static str],
    },
    /// The value has the wrong type.
    WrongType { found: String, expected: String },
    /// The value is invalid. The text follows the name of the field.
    Invalid(InvalidValue),
}

impl std::error::Error for ReadError {}

impl fmt::Display for ReadError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Missing(name) => write!(formatter, "the field `{name}` is missing"),
            ReadError::Duplicate(name) => write!(formatter, "duplicate field `{name}`"),
            ReadError::Unknown { name, .. } => write!(formatter, "the field `{name}` is unknown"),
            ReadError::WrongType { found, expected } => write!(formatter, "is {found}: {expected}"),
            ReadError::Invalid(value) => write!(formatter, "{value}"),
        }
    }
}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        ReadError::Invalid(InvalidValue::from_error(&message))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = expected.to_string();
        let holds_secrets = expected == SECRET_FORMS
            || expected.starts_with("an object")
            || expected.starts_with("a sequence");
        ReadError::WrongType {
            found: describe(found, holds_secrets),
            expected: remedy(&expected),
        }
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn missing_field(name: &'static str) -> Self {
        ReadError::Missing(name)
    }

    fn duplicate_field(name: &'static str) -> Self {
        ReadError::Duplicate(name)
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        ReadError::Unknown {
            name: name.to_owned(),
            known,
        }
    }
}

/// Converts serde's description of an expected type into an instruction.
fn remedy(expected: &str) -> String {
    match expected {
        "a string" | "path string" => "write text, in quotes".to_owned(),
        "a boolean" => "write true or false".to_owned(),
        "a sequence" => "write a list, [ … ]".to_owned(),
        other => format!("write {other}"),
    }
}

/// Describes a value. Hides values that may contain a secret.
pub(super) fn describe(found: Unexpected<'_>, holds_secrets: bool) -> String {
    match found {
        Unexpected::Unit | Unexpected::Option => "null".to_owned(),
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) if holds_secrets => {
            "a number".to_owned()
        }
        Unexpected::Unsigned(number) => format!("the number {number}"),
        Unexpected::Signed(number) => format!("the number {number}"),
        Unexpected::Float(number) => match Number::from_f64(number) {
            Some(number) => format!("the number {number}"),
            None => "a number".to_owned(),
        },
        Unexpected::Str(_) if holds_secrets => "a text".to_owned(),
        Unexpected::Str(text) => format!("the text {:?}", without_password(text)),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "an object".to_owned(),
        other => other.to_string(),
    }
}
