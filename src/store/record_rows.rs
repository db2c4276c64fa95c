//! The rows of the records that a master holds in memory. A row that cannot be read does not hide
//! the others: its record is denied, and named.

use std::fmt;

use sqlx::any::AnyRow;

use super::{RecordKind, StoreError, accounts, credentials, dialect::Query, keys, rows::Columns};
use crate::policy::{AccountId, Changes, CredentialId, RelayPolicy};
use report_proto::id::Id;

/// A record whose row has a value that this program does not write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableRecord {
    /// The kind of the record.
    pub kind: RecordKind,
    /// The id.
    pub id: String,
    /// The column.
    pub column: &'static str,
    /// The problem.
    pub problem: String,
}

impl UnreadableRecord {
    /// Returns the error of the record.
    #[must_use]
    pub fn error(&self) -> StoreError {
        StoreError::corrupt(self.kind, &self.id, self.column, &self.problem)
    }
}

impl fmt::Display for UnreadableRecord {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error().fmt(formatter)
    }
}

/// Records that were read.
#[derive(Debug, Default)]
pub struct FoundRecords {
    /// The records, and the ids of those that are removed or cannot be read.
    pub changes: Changes,
    /// The records that cannot be read.
    pub unreadable: Vec<UnreadableRecord>,
}

/// Adds the record of a row to the changes, or its id if it is removed.
type AddRow = fn(&AnyRow, &mut Changes) -> Result<(), StoreError>;

/// A table of records.
pub(super) struct RecordTable {
    /// The kind of the records.
    pub(super) kind: RecordKind,
    /// The statement of the rows that have changed, with removed ones, behind a position.
    pub(super) changed: &'static str,
    /// The statement of the row with an id, also of a removed one.
    by_id: &'static str,
    /// Whether the ids are numbers.
    has_numbers: bool,
    add: AddRow,
}

/// The tables of records.
pub(super) static RECORD_TABLES: [RecordTable; 3] = [
    RecordTable {
        kind: RecordKind::Account,
        changed: accounts::CHANGED,
        by_id: accounts::BY_ID,
        has_numbers: true,
        add: add_account,
    },
    RecordTable {
        kind: RecordKind::Credential,
        changed: credentials::CHANGED,
        by_id: credentials::BY_ID,
        has_numbers: false,
        add: add_credential,
    },
    RecordTable {
        kind: RecordKind::Key,
        changed: keys::CHANGED,
        by_id: keys::BY_ID,
        has_numbers: false,
        add: add_key,
    },
];

fn add_account(row: &AnyRow, changes: &mut Changes) -> Result<(), StoreError> {
    let columns = Columns::new(row, RecordKind::Account, "id");
    if columns.flag("removed")? {
        let id = AccountId(columns.number("id")?);
        changes.removed_accounts.push(id);
    } else {
        changes.accounts.push(accounts::account(row)?.record);
    }
    Ok(())
}

fn add_credential(row: &AnyRow, changes: &mut Changes) -> Result<(), StoreError> {
    let columns = Columns::new(row, RecordKind::Credential, "id");
    if columns.flag("removed")? {
        let id = CredentialId(columns.parse("id")?);
        changes.removed_credentials.push(id);
    } else {
        let credential = credentials::credential(row)?;
        changes.credentials.push(credential.record);
    }
    Ok(())
}

fn add_key(row: &AnyRow, changes: &mut Changes) -> Result<(), StoreError> {
    let columns = Columns::new(row, RecordKind::Key, "id");
    if columns.flag("removed")? {
        changes.removed_keys.push(columns.parse("id")?);
    } else {
        changes.keys.push(keys::key(row)?.record);
    }
    Ok(())
}

/// The position of a row in the order of changes: its counter, then its id.
#[derive(Debug, Clone)]
pub(super) struct Position {
    changed: i64,
    id: RowId,
}

#[derive(Debug, Clone)]
enum RowId {
    Number(i64),
    Text(String),
}

impl RowId {
    fn bind(&self, query: Query) -> Query {
        match self {
            RowId::Number(id) => query.bind(*id),
            RowId::Text(id) => query.bind(id.as_str()),
        }
    }
}

impl Position {
    /// Binds the position and the number of rows to a statement of changed rows.
    pub(super) fn bind(&self, query: Query, rows: i64) -> Query {
        let query = query.bind(self.changed).bind(self.changed);
        self.id.bind(query).bind(rows)
    }
}

impl RecordTable {
    /// Returns the position behind all rows of a counter.
    pub(super) fn behind(&self, counter: i64) -> Position {
        Position {
            changed: counter.saturating_add(1),
            id: if self.has_numbers {
                RowId::Number(0)
            } else {
                RowId::Text(String::new())
            },
        }
    }

    /// Returns the position of a row.
    pub(super) fn position(&self, row: &AnyRow) -> Result<Position, StoreError> {
        let columns = Columns::new(row, self.kind, "id");
        let id = if self.has_numbers {
            RowId::Number(columns.number("id")?)
        } else {
            RowId::Text(columns.text("id")?.to_owned())
        };
        let changed = columns.number("changed")?;
        Ok(Position { changed, id })
    }

    /// Binds an id to the statement of its row. Returns `None` if no row can have the id.
    pub(super) fn bind_id(
        &self,
        id: &str,
        query: impl FnOnce(&'static str) -> Query,
    ) -> Option<Query> {
        let id = if self.has_numbers {
            RowId::Number(id.parse().ok()?)
        } else {
            RowId::Text(id.to_owned())
        };
        Some(id.bind(query(self.by_id)))
    }
}

impl FoundRecords {
    /// Adds records that were read later.
    pub fn append(&mut self, later: FoundRecords) {
        self.changes.append(later.changes);
        self.unreadable.extend(later.unreadable);
    }

    /// Adds a row. Its record is denied if it cannot be read.
    pub(super) fn add(&mut self, table: &RecordTable, row: &AnyRow) -> Result<(), StoreError> {
        let added = (table.add)(row, &mut self.changes);
        added.or_else(|error| self.add_unreadable(error))
    }

    /// Adds the policy of the relay if it has changed. If it cannot be read, the former one stays.
    pub(super) fn add_relay(
        &mut self,
        relay: Result<RelayPolicy, StoreError>,
        has_changed: bool,
    ) -> Result<(), StoreError> {
        match relay {
            Ok(policy) if has_changed => self.changes.relay = Some(policy),
            Ok(_) => {}
            Err(error) => self.add_unreadable(error)?,
        }
        Ok(())
    }

    /// Adds a record whose row is gone.
    pub(super) fn add_removed(&mut self, kind: RecordKind, id: &str) {
        let changes = &mut self.changes;
        match kind {
            RecordKind::Account => changes.removed_accounts.extend(account_id(id)),
            RecordKind::Credential => changes.removed_credentials.extend(credential_id(id)),
            RecordKind::Key => changes.removed_keys.extend(key_id(id)),
            _ => {}
        }
    }

    /// Denies the record of an invalid row. Other errors concern all rows.
    fn add_unreadable(&mut self, error: StoreError) -> Result<(), StoreError> {
        let (kind, id, column, problem) = match error {
            StoreError::Corrupt {
                kind,
                id,
                column,
                problem,
            } => (kind, id, column, problem),
            other => return Err(other),
        };
        let changes = &mut self.changes;
        match kind {
            RecordKind::Account => changes.unreadable_accounts.extend(account_id(&id)),
            RecordKind::Credential => changes.unreadable_credentials.extend(credential_id(&id)),
            RecordKind::Key => changes.unreadable_keys.extend(key_id(&id)),
            _ => {}
        }
        self.unreadable.push(UnreadableRecord {
            kind,
            id,
            column,
            problem,
        });
        Ok(())
    }
}

fn account_id(text: &str) -> Option<AccountId> {
    text.parse().ok().map(AccountId)
}

fn credential_id(text: &str) -> Option<CredentialId> {
    key_id(text).map(CredentialId)
}

fn key_id(text: &str) -> Option<Id> {
    text.parse().ok()
}
