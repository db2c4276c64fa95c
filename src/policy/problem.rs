//! The problems of a policy. Each one names the field, its value, and the remedy.

use std::fmt;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// One problem of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "store", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Problem {
    /// The path of the field, as in `limits.quotas[0].bytes`. Empty if the problem concerns the
    /// whole text.
    pub field: String,
    /// The value found. Empty if the field is absent, or if the message contains the value.
    pub value: String,
    /// The cause and the remedy.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.field.as_str(), self.value.as_str()) {
            ("", _) => write!(formatter, "{}", self.message),
            (field, "") => write!(formatter, "{field}: {}", self.message),
            (field, value) => write!(formatter, "{field} is {value}: {}", self.message),
        }
    }
}

impl std::error::Error for Problem {}

/// Reads a policy, or a part of one, from JSON.
///
/// # Errors
/// The first field that does not parse.
pub fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    let whole = |error: &serde_json::Error| Problem {
        field: String::new(),
        value: String::new(),
        message: error.to_string(),
    };
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path();
        if path.iter().next().is_none() {
            return whole(error.inner());
        }
        Problem {
            field: path.to_string(),
            ..whole(error.inner())
        }
    })?;
    reader.end().map_err(|error| whole(&error))?;
    Ok(value)
}

/// Returns the path of a field of the object at `path`. The empty path is the whole text.
pub(super) fn field_of(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// Collects problems.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    /// Adds a problem of the field with this path.
    pub(super) fn add(
        &mut self,
        field: impl Into<String>,
        value: impl fmt::Display,
        message: impl Into<String>,
    ) {
        self.0.push(Problem {
            field: field.into(),
            value: value.to_string(),
            message: message.into(),
        });
    }

    /// Adds a problem if an optional maximum is 0.
    pub(super) fn check_maximum(&mut self, field: impl Into<String>, maximum: Option<u32>) {
        if maximum == Some(0) {
            self.add(
                field,
                0,
                "nothing would be allowed (omit it for no maximum)",
            );
        }
    }

    /// Returns the problems in the order of the fields.
    pub(super) fn into_vec(self) -> Vec<Problem> {
        self.0
    }
}
