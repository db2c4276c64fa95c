//! The errors of the store.

use std::fmt;

use super::{Dialect, InvalidStoreUrl, StoreUrl};

/// A failed operation of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The field is not the address of a database.
    #[error("store {0}")]
    Url(#[from] InvalidStoreUrl),
    /// The database cannot be opened at the start.
    #[error("store: cannot open {database}: {cause} ({remedy})")]
    Unreachable {
        /// The database, without its password.
        database: String,
        /// The cause.
        cause: String,
        /// The remedy.
        remedy: &'static str,
    },
    /// A newer program has changed the schema.
    #[error(
        "store: the schema of {database} has version {found}, and this program knows versions up \
         to {known} (update the program, or use another database)"
    )]
    SchemaNewer {
        /// The database, without its password.
        database: String,
        /// The version of the schema.
        found: i64,
        /// The newest version that the program knows.
        known: i64,
    },
    /// A migration ended in the middle, which MariaDB cannot undo.
    #[error(
        "store: step {step} of the schema of {database} is incomplete (restore a backup, or drop \
         the tables of a new database)"
    )]
    SchemaIncomplete {
        /// The database, without its password.
        database: String,
        /// The version whose migration ended.
        step: i64,
    },
    /// The schema cannot be created or updated.
    #[error(
        "store: the schema of {database} cannot be created or updated: {cause} (let its user \
         create and change tables)"
    )]
    Schema {
        /// The database, without its password.
        database: String,
        /// The cause.
        cause: String,
    },
    /// The database does not answer. A later attempt may succeed.
    #[error("store: the database is away: {0} (the policies in memory continue to apply)")]
    Away(String),
    /// Another record has the value.
    #[error("{field} \"{value}\" exists already: {reason}")]
    Duplicate {
        /// The field.
        field: &'static str,
        /// The value.
        value: String,
        /// The other record and the remedy.
        reason: String,
    },
    /// The record does not exist.
    #[error("{field}: there is no {kind} \"{id}\"")]
    NotFound {
        /// The field that names the record: `id`, or `account` in another record.
        field: &'static str,
        /// The kind of the absent record.
        kind: RecordKind,
        /// The id.
        id: String,
    },
    /// The record has changed since it was read.
    #[error(
        "the {kind} \"{id}\" has changed: version {found} instead of {expected} (read it again)"
    )]
    Conflict {
        /// The kind of the record.
        kind: RecordKind,
        /// The id.
        id: String,
        /// The version that the caller has read.
        expected: i64,
        /// The present version.
        found: i64,
    },
    /// The record cannot be removed.
    #[error("the {kind} \"{id}\" cannot be removed: {reason}")]
    InUse {
        /// The kind of the record.
        kind: RecordKind,
        /// The id.
        id: String,
        /// The cause and the remedy.
        reason: String,
    },
    /// A row has a value that this program does not write.
    #[error("store: {column} of the {kind} \"{id}\" is invalid: {problem} (correct it)")]
    Corrupt {
        /// The kind of the record.
        kind: RecordKind,
        /// The id.
        id: String,
        /// The column.
        column: &'static str,
        /// The problem.
        problem: String,
    },
    /// The database has refused a statement.
    #[error("store: the database refused a statement: {0}")]
    Statement(sqlx::Error),
}

/// The kind of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordKind {
    /// An account.
    Account,
    /// A credential.
    Credential,
    /// A service key.
    Key,
    /// A token of the admin API.
    Token,
    /// The policy of the relay.
    Relay,
    /// The usage of an account, of a key or of the relay.
    Usage,
    /// A master.
    Master,
    /// An entry of the audit log.
    Audit,
}

impl fmt::Display for RecordKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            RecordKind::Account => "account",
            RecordKind::Credential => "credential",
            RecordKind::Key => "key",
            RecordKind::Token => "token",
            RecordKind::Relay => "relay",
            RecordKind::Usage => "usage",
            RecordKind::Master => "master",
            RecordKind::Audit => "audit entry",
        })
    }
}

impl StoreError {
    /// Returns the error of a database that cannot be opened.
    pub(super) fn unreachable(url: &StoreUrl, cause: &dyn fmt::Display) -> Self {
        StoreError::Unreachable {
            database: url.to_string(),
            cause: cause.to_string(),
            remedy: match url.dialect() {
                Dialect::Sqlite => "let this user read and write the file and its folder",
                Dialect::Postgres | Dialect::Mysql => {
                    "start the database, create it and its user, or correct \"store\""
                }
            },
        }
    }

    /// Returns the error of a value that another record has. `reason` names that record and the
    /// remedy.
    pub(super) fn duplicate(field: &'static str, value: impl fmt::Display, reason: String) -> Self {
        StoreError::Duplicate {
            field,
            value: value.to_string(),
            reason,
        }
    }

    /// Returns the error of a row with an invalid value.
    pub(crate) fn corrupt(
        kind: RecordKind,
        id: impl fmt::Display,
        column: &'static str,
        problem: impl fmt::Display,
    ) -> Self {
        StoreError::Corrupt {
            kind,
            id: id.to_string(),
            column,
            problem: problem.to_string(),
        }
    }

    /// Whether the database does not answer, so that a later attempt may succeed.
    #[must_use]
    pub fn is_away(&self) -> bool {
        matches!(self, StoreError::Away(_))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if is_lost(&error) {
            StoreError::Away(error.to_string())
        } else {
            StoreError::Statement(error)
        }
    }
}

/// Whether the connection is lost, or the database is too busy to serve it.
fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            is_transient(&code)
        }
        _ => false,
    }
}

/// Whether a statement with this code may succeed later: a lost connection (SQLSTATE 08), an operator
/// or a shutdown (57, 70100), too many connections or a full disk (53), an error of the system (58), a
/// deadlock or a lock that was not granted (40, 55P03), a server that is a replica now (25006), or a
/// transaction that did nothing for too long (25P03); and SQLITE_BUSY, SQLITE_LOCKED, SQLITE_IOERR, SQLITE_FULL and SQLITE_CANTOPEN in the low byte.
fn is_transient(code: &str) -> bool {
    if code.len() == 5 {
        return [
            "08", "40", "53", "57", "58", "25006", "25P03", "55P03", "70100",
        ]
        .iter()
        .any(|class| code.starts_with(class));
    }
    let code: Result<u32, _> = code.parse();
    code.is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 10 | 13 | 14))
}

#[cfg(test)]
mod tests {
    use super::is_transient;

    #[test]
    fn codes_of_lost_connections_are_transient() {
        for code in [
            "08006", "08S01", "57P01", "53300", "40001", "40P01", "57014", "58030", "25006",
            "25P03", "55P03", "70100", "5", "261", "517", "14",
        ] {
            assert!(is_transient(code), "{code}");
        }
        for code in ["23505", "25001", "42601", "HY000", "1", "19", "2067", ""] {
            assert!(!is_transient(code), "{code}");
        }
    }
}
