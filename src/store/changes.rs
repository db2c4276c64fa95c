//! The changes since a counter, for a master that holds all policies in memory.

use sqlx::any::AnyRow;

use super::{
    Change, RecordKind, Store, StoreError, accounts, credentials, dialect::Query, keys,
    rows::Columns,
};
use crate::policy::{AccountId, Changes, CredentialId};

/// How many rows one query returns. A complete load makes several.
const PAGE: u32 = 5_000;

/// How many records are passed on at a time. A record in this form takes several times as much memory
/// as in the table of policies.
const PART: u32 = 500;

/// The tables with tombstones.
const TABLES: [(&str, &str); 3] = [
    (
        "SELECT COALESCE(MAX(changed), 0) AS newest FROM accounts \
         WHERE removed > 0 AND removed < $1",
        "DELETE FROM accounts WHERE removed > 0 AND removed < $1",
    ),
    (
        "SELECT COALESCE(MAX(changed), 0) AS newest FROM credentials \
         WHERE removed > 0 AND removed < $1",
        "DELETE FROM credentials WHERE removed > 0 AND removed < $1",
    ),
    (
        "SELECT COALESCE(MAX(changed), 0) AS newest FROM service_keys \
         WHERE removed > 0 AND removed < $1",
        "DELETE FROM service_keys WHERE removed > 0 AND removed < $1",
    ),
];

/// The records that have changed.
#[derive(Debug)]
pub struct Delta {
    /// The counter to ask from next. All changes up to it are part of this delta or of an earlier
    /// one.
    pub counter: i64,
    /// Whether these are all records, so that others do not exist any more.
    pub is_complete: bool,
    /// The records.
    pub changes: Changes,
}

/// The position of a row in the order of changes: its counter, then its id.
#[derive(Debug, Clone)]
struct Position {
    changed: i64,
    id: RowId,
}

#[derive(Debug, Clone)]
enum RowId {
    Number(i64),
    Text(String),
}

impl Position {
    /// Returns the position behind all rows of a counter.
    fn behind(counter: i64, lowest: RowId) -> Self {
        Position {
            changed: counter.saturating_add(1),
            id: lowest,
        }
    }

    fn bind(&self, query: Query) -> Query {
        let query = query.bind(self.changed).bind(self.changed);
        let query = match &self.id {
            RowId::Number(id) => query.bind(*id),
            RowId::Text(id) => query.bind(id.as_str()),
        };
        query.bind(i64::from(PAGE))
    }
}

/// Adds a row to the changes. Returns its position.
type AddRow = fn(&AnyRow, &mut Changes) -> Result<Position, StoreError>;

fn add_account(row: &AnyRow, changes: &mut Changes) -> Result<Position, StoreError> {
    let columns = Columns::new(row, RecordKind::Account, "id");
    let id = columns.number("id")?;
    if columns.flag("removed")? {
        changes.removed_accounts.push(AccountId(id));
    } else {
        changes.accounts.push(accounts::account(row)?.record);
    }
    Ok(Position {
        changed: columns.number("changed")?,
        id: RowId::Number(id),
    })
}

fn add_credential(row: &AnyRow, changes: &mut Changes) -> Result<Position, StoreError> {
    let columns = Columns::new(row, RecordKind::Credential, "id");
    if columns.flag("removed")? {
        let id = CredentialId(columns.parse("id")?);
        changes.removed_credentials.push(id);
    } else {
        let credential = credentials::credential(row)?;
        changes.credentials.push(credential.record);
    }
    Ok(Position {
        changed: columns.number("changed")?,
        id: RowId::Text(columns.text("id")?.to_owned()),
    })
}

fn add_key(row: &AnyRow, changes: &mut Changes) -> Result<Position, StoreError> {
    let columns = Columns::new(row, RecordKind::Key, "id");
    if columns.flag("removed")? {
        changes.removed_keys.push(columns.parse("id")?);
    } else {
        changes.keys.push(keys::key(row)?.record);
    }
    Ok(Position {
        changed: columns.number("changed")?,
        id: RowId::Text(columns.text("id")?.to_owned()),
    })
}

impl Store {
    /// Passes all records to `take` in parts, for the start of a master. Returns the counter to ask
    /// from next.
    ///
    /// A record that changes during the call may be part of it twice, the newer one later.
    ///
    /// # Errors
    /// If the database is away, or a row is invalid. Some parts may have been passed then.
    pub async fn load_parts(&self, mut take: impl FnMut(Changes)) -> Result<i64, StoreError> {
        let state = self.state().await?;
        self.read_changes(-1, &mut take).await?;
        take(Changes {
            relay: Some(state.relay.record),
            ..Changes::default()
        });
        Ok(state.counter)
    }

    /// Returns all records.
    ///
    /// # Errors
    /// If the database is away, or a row is invalid.
    pub async fn load(&self) -> Result<Delta, StoreError> {
        let mut changes = Changes::default();
        let counter = self.load_parts(|part| changes.append(part)).await?;
        Ok(Delta {
            counter,
            is_complete: true,
            changes,
        })
    }

    /// Returns the records that have changed after a counter. They are all records if the rows of
    /// removed ones are gone, or if the database is an older copy.
    ///
    /// A record that changes during the call may be part of this delta and of the next one.
    ///
    /// # Errors
    /// If the database is away, or a row is invalid.
    pub async fn delta(&self, since: i64) -> Result<Delta, StoreError> {
        // Changes are committed in the order of their counters, so rows that are read after the
        // counter contain all changes up to it.
        let state = self.state().await?;
        if since < state.purge_floor || since > state.counter {
            return self.load().await;
        }
        let mut changes = Changes::default();
        self.read_changes(since, &mut |part: Changes| changes.append(part))
            .await?;
        if state.relay.changed > since {
            changes.relay = Some(state.relay.record);
        }
        // Rows may have gone before they were read.
        if self.state().await?.purge_floor > since {
            return self.load().await;
        }
        Ok(Delta {
            counter: state.counter,
            is_complete: false,
            changes,
        })
    }

    /// Passes the records that have changed after a counter to `take`, except the policy of the relay.
    async fn read_changes(
        &self,
        counter: i64,
        take: &mut impl FnMut(Changes),
    ) -> Result<(), StoreError> {
        let number = Position::behind(counter, RowId::Number(0));
        let text = Position::behind(counter, RowId::Text(String::new()));
        self.read_table(accounts::CHANGED, add_account, number, take)
            .await?;
        self.read_table(credentials::CHANGED, add_credential, text.clone(), take)
            .await?;
        self.read_table(keys::CHANGED, add_key, text, take).await
    }

    /// Passes on the rows of one table, page by page. A row that changes in the meantime moves behind
    /// the position, so it is read again instead of being skipped.
    async fn read_table(
        &self,
        sql: &'static str,
        add: AddRow,
        mut position: Position,
        take: &mut impl FnMut(Changes),
    ) -> Result<(), StoreError> {
        loop {
            let query = position.bind(self.dialect.query(sql));
            let (mut rows, mut part) = (0_u32, Changes::default());
            let each = |row: &AnyRow| -> Result<(), StoreError> {
                position = add(row, &mut part)?;
                rows = rows.saturating_add(1);
                if rows.is_multiple_of(PART) {
                    take(std::mem::take(&mut part));
                }
                Ok(())
            };
            self.fetch_each(query, each).await?;
            take(part);
            if rows < PAGE {
                return Ok(());
            }
        }
    }

    /// Deletes the rows of records that were removed before a time. A master that has not seen
    /// their removal loads all records. Returns the number of rows.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn purge_removed(&self, before: i64) -> Result<u64, StoreError> {
        let mut change = self.change().await?;
        let purged = change.purge(before).await?;
        if purged > 0 {
            change.commit().await?;
        }
        Ok(purged)
    }
}

impl Change<'_> {
    async fn purge(&mut self, before: i64) -> Result<u64, StoreError> {
        let mut purged = 0_u64;
        let mut floor = 0;
        for (newest, delete) in TABLES {
            let query = self.query(newest).bind(before);
            if let Some(row) = self.transaction.fetch_optional(query).await? {
                let newest = Columns::new(&row, RecordKind::Relay, "newest").number("newest")?;
                floor = floor.max(newest);
            }
            let query = self.query(delete).bind(before);
            purged = purged.saturating_add(self.transaction.execute(query).await?);
        }
        let query = self
            .query("UPDATE store_state SET purge_floor = $1 WHERE id = 1 AND purge_floor < $2")
            .bind(floor)
            .bind(floor);
        self.transaction.execute(query).await?;
        Ok(purged)
    }
}
