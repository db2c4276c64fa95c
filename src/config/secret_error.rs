//! Why a secret cannot be loaded, and what to do. No text contains a secret.

use std::{fmt, path::PathBuf};

use super::error::InvalidValue;

/// The kind of a secret, which decides how one is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretKind {
    /// A key of the master or of a port.
    Key,
    /// The secret of a credential, which the operator of the master issues.
    Credential,
}

/// Why a secret cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretError {
    /// The field is empty.
    Empty,
    /// The file cannot be read.
    Unreadable {
        /// The full path.
        path: PathBuf,
        /// The error of the system.
        reason: String,
    },
    /// The file is not text.
    NotText {
        /// The full path.
        path: PathBuf,
        /// The position of the first invalid byte.
        error: crate::text::NotText,
    },
    /// The file is empty.
    EmptyFile(PathBuf),
    /// The variable is not set, or not text.
    NoVariable(String),
    /// The variable is empty.
    EmptyVariable(String),
}

impl SecretError {
    /// Returns the problem of a field with a secret of this kind, and the remedy.
    pub(super) fn invalid(&self, kind: SecretKind) -> InvalidValue {
        match self.remedy(kind) {
            Some(remedy) => InvalidValue::new(self.to_string(), remedy),
            None => InvalidValue::from_error(self),
        }
    }

    /// Returns what to do, unless the text of the problem contains it.
    #[must_use]
    pub fn remedy(&self, kind: SecretKind) -> Option<&'static str> {
        match kind {
            SecretKind::Key => self.key_remedy(),
            SecretKind::Credential => self.credential_remedy(),
        }
    }

    fn key_remedy(&self) -> Option<&'static str> {
        Some(match self {
            SecretError::Empty => "write a key; `report keygen` generates a strong one",
            SecretError::Unreadable { .. } => {
                "create it with `report keygen --write FILE`, or correct the path"
            }
            SecretError::EmptyFile(_) => {
                "remove it, and create it again with `report keygen --write FILE`"
            }
            SecretError::NoVariable(_) => "set it before starting `report`",
            SecretError::EmptyVariable(_) => {
                "set it to a key; `report keygen` generates a strong one"
            }
            SecretError::NotText { .. } => return None,
        })
    }

    fn credential_remedy(&self) -> Option<&'static str> {
        Some(match self {
            SecretError::Empty => {
                "write the secret that `report credential add` or `report keygen --credential` prints"
            }
            SecretError::Unreadable { .. } => {
                "copy the file that `report credential add ACCOUNT NAME --write FILE` creates at the \
                 master, or correct the path"
            }
            SecretError::EmptyFile(_) => {
                "copy the file that `report credential add ACCOUNT NAME --write FILE` creates at the \
                 master"
            }
            SecretError::NoVariable(_) => "set it before starting `report`",
            SecretError::EmptyVariable(_) => {
                "set it to the secret that `report credential add` or `report keygen --credential` \
                 prints"
            }
            SecretError::NotText { .. } => return None,
        })
    }
}

impl std::error::Error for SecretError {}

impl fmt::Display for SecretError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretError::Empty => formatter.write_str("is empty"),
            SecretError::Unreadable { path, reason } => {
                let path = path.display();
                write!(
                    formatter,
                    "names the file {path}, which cannot be read ({reason})"
                )
            }
            SecretError::NotText { path, error } => {
                write!(
                    formatter,
                    "names the file {}, which {error}",
                    path.display()
                )
            }
            SecretError::EmptyFile(path) => {
                write!(
                    formatter,
                    "names the file {}, which is empty",
                    path.display()
                )
            }
            SecretError::NoVariable(name) => write!(
                formatter,
                "names the environment variable {name}, which is not set to text"
            ),
            SecretError::EmptyVariable(name) => write!(
                formatter,
                "names the environment variable {name}, which is empty"
            ),
        }
    }
}
