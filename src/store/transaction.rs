//! Statements with a deadline, and transactions that write.

use std::{fmt, future::Future, time::Duration};

use futures_util::TryStreamExt as _;
use sqlx::{Any, Transaction, any::AnyRow};

use super::{Access, Dialect, RecordKind, Store, StoreError, dialect::Query, rows::Columns};

/// How long a statement may take. SQLite waits for another process for 5 s.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// The channel of PostgreSQL on which changes are announced.
pub(super) const CHANGES_CHANNEL: &str = "report_store";

/// Waits for a statement for a limited time.
pub(super) async fn bounded<T>(
    statement: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(STATEMENT_TIMEOUT, statement).await {
        Ok(result) => result.map_err(StoreError::from),
        Err(_) => Err(StoreError::Away(format!(
            "no answer within {} s",
            STATEMENT_TIMEOUT.as_secs()
        ))),
    }
}

/// A transaction that writes. Dropped without a commit, it has no effect.
#[derive(Debug)]
pub(crate) struct WriteTransaction<'a> {
    store: &'a Store,
    inner: Transaction<'static, Any>,
}

impl WriteTransaction<'_> {
    /// Returns the dialect, for the statements of the transaction.
    pub(crate) fn dialect(&self) -> Dialect {
        self.store.dialect
    }

    /// Executes a statement. Returns the number of affected rows.
    pub(crate) async fn execute(&mut self, query: Query) -> Result<u64, StoreError> {
        let done = bounded(query.execute(&mut *self.inner)).await;
        Ok(self.store.observe(Access::Write, done)?.rows_affected())
    }

    /// Returns the row of a query, if there is one.
    pub(crate) async fn fetch_optional(
        &mut self,
        query: Query,
    ) -> Result<Option<AnyRow>, StoreError> {
        let row = bounded(query.fetch_optional(&mut *self.inner)).await;
        self.store.observe(Access::Write, row)
    }

    /// Returns the rows of a query.
    pub(crate) async fn fetch_all(&mut self, query: Query) -> Result<Vec<AnyRow>, StoreError> {
        let rows = bounded(query.fetch_all(&mut *self.inner)).await;
        self.store.observe(Access::Write, rows)
    }

    /// Commits the transaction. After an error, it is unknown whether it is committed.
    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        let done = bounded(self.inner.commit()).await;
        self.store.observe(Access::Write, done)
    }
}

/// A transaction that changes records. Its methods are defined with each kind of record.
///
/// It holds the lock of the change counter until its end, so changes are committed in the order of
/// their counters, and a reader that has seen a counter has seen all changes up to it. Dropped
/// without a commit, it has no effect.
#[derive(Debug)]
pub struct Change<'a> {
    pub(super) transaction: WriteTransaction<'a>,
    pub(super) counter: i64,
}

impl<'a> Change<'a> {
    /// Returns the counter, which becomes the version of the records that change.
    #[must_use]
    pub fn counter(&self) -> i64 {
        self.counter
    }

    /// Returns a statement.
    pub(super) fn query(&self, sql: &'static str) -> Query {
        self.transaction.dialect().query(sql)
    }

    /// Returns a new id for an account or a token.
    pub(super) async fn next_id(&mut self) -> Result<i64, StoreError> {
        let increment = self.query("UPDATE store_state SET last_id = last_id + 1 WHERE id = 1");
        self.transaction.execute(increment).await?;
        let query = self.query("SELECT last_id FROM store_state WHERE id = 1");
        let row = self.transaction.fetch_optional(query).await?;
        super::counter_of(row.as_ref(), "last_id")
    }

    /// Checks that a record exists and has the expected version. The query selects its `changed`.
    ///
    /// The lock of the change counter keeps the version until the end of the change.
    pub(super) async fn check_version(
        &mut self,
        query: Query,
        kind: RecordKind,
        id: &(dyn fmt::Display + Sync),
        expected: Option<i64>,
    ) -> Result<(), StoreError> {
        let row = self.transaction.fetch_optional(query).await?;
        let row = row.ok_or_else(|| StoreError::NotFound {
            field: "id",
            kind,
            id: id.to_string(),
        })?;
        let found = Columns::new(&row, kind, "changed").number("changed")?;
        match expected {
            Some(expected) if expected != found => Err(StoreError::Conflict {
                kind,
                id: id.to_string(),
                expected,
                found,
            }),
            _ => Ok(()),
        }
    }

    /// Commits the change and announces it. Returns its counter.
    ///
    /// # Errors
    /// If the database is away. It is unknown then whether the change is committed.
    pub async fn commit(mut self) -> Result<i64, StoreError> {
        let dialect = self.transaction.dialect();
        if dialect == Dialect::Postgres {
            let notify = dialect.query("SELECT pg_notify($1, '')");
            self.transaction
                .execute(notify.bind(CHANGES_CHANNEL))
                .await?;
        }
        self.transaction.commit().await?;
        Ok(self.counter)
    }
}

impl Store {
    /// Begins a transaction that changes no record, such as one that writes usage.
    pub(crate) async fn write(&self) -> Result<WriteTransaction<'_>, StoreError> {
        let begun = match self.dialect.begin() {
            Some(begin) => bounded(self.write.begin_with(begin)).await,
            None => bounded(self.write.begin()).await,
        };
        let inner = self.observe(Access::Write, begun)?;
        Ok(WriteTransaction { store: self, inner })
    }

    /// Begins a transaction that changes records.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn change(&self) -> Result<Change<'_>, StoreError> {
        let mut transaction = self.write().await?;
        let dialect = self.dialect;
        let increment = "UPDATE store_state SET change_counter = change_counter + 1 WHERE id = 1";
        transaction.execute(dialect.query(increment)).await?;
        let counter = "SELECT change_counter FROM store_state WHERE id = 1";
        let row = transaction.fetch_optional(dialect.query(counter)).await?;
        let counter = super::counter_of(row.as_ref(), "change_counter")?;
        Ok(Change {
            transaction,
            counter,
        })
    }

    /// Returns the rows of a query.
    pub(crate) async fn fetch_all(&self, query: Query) -> Result<Vec<AnyRow>, StoreError> {
        let rows = bounded(query.fetch_all(&self.read)).await;
        self.observe(Access::Read, rows)
    }

    /// Passes each row of a query to `each` as it arrives, so that few rows are in memory. Ends at the
    /// first error.
    pub(crate) async fn fetch_each(
        &self,
        query: Query,
        mut each: impl FnMut(&AnyRow) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let read = async {
            let mut rows = query.fetch(&self.read);
            while let Some(row) = rows.try_next().await? {
                if let Err(invalid) = each(&row) {
                    return Ok(Err(invalid));
                }
            }
            Ok::<_, sqlx::Error>(Ok(()))
        };
        let read = bounded(read).await;
        self.observe(Access::Read, read)?
    }

    /// Returns the row of a query, if there is one.
    pub(crate) async fn fetch_optional(&self, query: Query) -> Result<Option<AnyRow>, StoreError> {
        let row = bounded(query.fetch_optional(&self.read)).await;
        self.observe(Access::Read, row)
    }
}
