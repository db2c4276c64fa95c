//! The errors of the operations, with codes that never change.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    policy::{Problem, TokenRole},
    store::{RecordKind, StoreError},
};

/// A failed operation.
#[derive(Debug, thiserror::Error)]
pub enum AdministrationError {
    /// The request has invalid values.
    #[error("{}", Joined(.0))]
    Invalid(Vec<Problem>),
    /// The party lacks the rights.
    #[error(
        "{actor} has the role \"{}\", and this needs \"{}\" (use another token)",
        word(.role),
        word(.needed)
    )]
    Forbidden {
        /// The party.
        actor: String,
        /// Its rights.
        role: TokenRole,
        /// The rights that are needed.
        needed: TokenRole,
    },
    /// The store has refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The kind of the error, for programs. Codes are never renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// A value is invalid.
    Invalid,
    /// The record does not exist.
    NotFound,
    /// Another record has the value.
    Duplicate,
    /// The record has changed since it was read.
    Conflict,
    /// The record cannot be removed, because others need it.
    InUse,
    /// The rights do not suffice.
    Forbidden,
    /// The request has no valid token.
    Unauthorized,
    /// Too many wrong tokens came from the address.
    Throttled,
    /// The body is not JSON.
    Malformed,
    /// The body is too long.
    TooLarge,
    /// The body has another media type.
    UnsupportedMediaType,
    /// The path has no such method.
    MethodNotAllowed,
    /// A change names no version of the record.
    VersionRequired,
    /// The master has its maximum of such things.
    Busy,
    /// The database does not answer.
    StoreAway,
    /// The master or its database has failed.
    Internal,
}

/// An error as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErrorBody {
    /// The kind of the error, for programs.
    pub code: ErrorCode,
    /// The error and its remedy, for people.
    pub message: String,
    /// The field that the error is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The value of the field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// All invalid fields, if the code is `invalid`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

impl AdministrationError {
    /// Creates the error of one invalid value.
    pub(super) fn invalid(
        field: &str,
        value: impl fmt::Display,
        message: impl Into<String>,
    ) -> Self {
        AdministrationError::Invalid(vec![Problem {
            field: field.to_owned(),
            value: value.to_string(),
            message: message.into(),
        }])
    }

    /// Creates the error of the rotation of a revoked record.
    pub(super) fn revoked(kind: RecordKind, id: impl fmt::Display) -> Self {
        let message = format!("it is revoked (add a new {kind} instead)");
        AdministrationError::invalid("id", id, message)
    }

    /// Creates the error of a rotation for which no name is free.
    pub(super) fn no_free_name(name: &str) -> Self {
        let message = "all names with the next numbers exist (write a name for the new one)";
        AdministrationError::invalid("name", format_args!("{name:?}"), message)
    }

    /// Creates the error of a record that does not exist.
    pub(super) fn not_found(kind: RecordKind, id: impl fmt::Display) -> Self {
        AdministrationError::Store(StoreError::NotFound {
            field: "id",
            kind,
            id: id.to_string(),
        })
    }

    /// Returns what went wrong.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            AdministrationError::Invalid(_) => ErrorCode::Invalid,
            AdministrationError::Forbidden { .. } => ErrorCode::Forbidden,
            AdministrationError::Store(error) => match error {
                StoreError::NotFound { field: "id", .. } => ErrorCode::NotFound,
                // A record names another one that does not exist.
                StoreError::NotFound { .. } => ErrorCode::Invalid,
                StoreError::Duplicate { .. } => ErrorCode::Duplicate,
                StoreError::Conflict { .. } => ErrorCode::Conflict,
                StoreError::InUse { .. } => ErrorCode::InUse,
                StoreError::Away(_) => ErrorCode::StoreAway,
                _ => ErrorCode::Internal,
            },
        }
    }

    /// Returns the error as JSON.
    #[must_use]
    pub fn body(&self) -> ErrorBody {
        let (field, value) = match self {
            AdministrationError::Invalid(problems) => {
                let first = problems.first();
                let text = |text: &String| (!text.is_empty()).then(|| text.clone());
                (
                    first.and_then(|problem| text(&problem.field)),
                    first.and_then(|problem| text(&problem.value)),
                )
            }
            AdministrationError::Store(
                StoreError::NotFound {
                    field, id: value, ..
                }
                | StoreError::Duplicate { field, value, .. },
            ) => (Some((*field).to_owned()), Some(value.clone())),
            AdministrationError::Store(
                StoreError::Conflict { id, .. } | StoreError::InUse { id, .. },
            ) => (Some("id".to_owned()), Some(id.clone())),
            _ => (None, None),
        };
        let problems = match self {
            AdministrationError::Invalid(problems) => problems.clone(),
            _ => Vec::new(),
        };
        ErrorBody {
            code: self.code(),
            message: self.to_string(),
            field,
            value,
            problems,
        }
    }
}

/// Prints problems, separated by semicolons.
struct Joined<'a>(&'a [Problem]);

impl fmt::Display for Joined<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                formatter.write_str("; ")?;
            }
            problem.fmt(formatter)?;
        }
        Ok(())
    }
}

/// Returns the word of a role.
fn word(role: &TokenRole) -> &'static str {
    match role {
        TokenRole::Read => "read",
        TokenRole::Operate => "operate",
        TokenRole::Own => "own",
    }
}
