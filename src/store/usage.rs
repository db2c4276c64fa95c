//! Usage: increments of minutes and of quotas, written by flushes.
//!
//! A flush is one transaction with a number. The row of the master holds the number of its latest
//! committed flush, so a flush that is repeated after a lost answer has no further effect. The
//! increments of several masters add up.

use sqlx::any::AnyRow;

use super::{
    LiveRow, RecordKind, Store, StoreError,
    dialect::{Query, Upsert},
    rows::Columns,
    transaction::WriteTransaction,
};
use crate::policy::{LimitSubject, Moved};
use report_proto::id::Id;

/// The rows of one statement.
pub(super) const ROWS: usize = 100;

/// Serializes the transactions that write usage: a rollup must not delete what a flush adds in the
/// meantime, and flushes of several masters must not wait for each other in a circle.
const LOCK: &str = "UPDATE store_locks SET taken = taken + 1 WHERE name = 'usage'";

const ADVANCE: &str = "UPDATE masters SET flush_sequence = $1, beat = $2, name = $3 \
                       WHERE epoch = $4 AND flush_sequence < $5";

const ENTER: &str =
    "INSERT INTO masters (epoch, name, beat, flush_sequence) VALUES ($1, $2, $3, $4)";

const MINUTES: Upsert = Upsert {
    table: "usage_minutes",
    keys: &["kind", "subject", "minute"],
    sums: &["up", "down"],
    values: &[],
};

const QUOTAS: Upsert = Upsert {
    table: "quota_usage",
    keys: &["kind", "subject", "quota", "period_start"],
    sums: &["up", "down"],
    values: &[],
};

/// The bytes of a subject in one minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinuteUsage {
    /// The subject.
    pub subject: LimitSubject,
    /// The first second of the minute, in Unix seconds.
    pub minute: i64,
    /// The bytes.
    pub moved: Moved,
}

/// A quota of a subject in one of its periods. Quotas with the same period share the counter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuotaCounter {
    /// The subject.
    pub subject: LimitSubject,
    /// The text of the [`Period`](crate::policy::Period).
    pub quota: String,
    /// The start of the period, in Unix seconds. 0 for all time.
    pub period_start: i64,
}

/// The bytes of a quota in one of its periods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaUsage {
    /// The quota and the period.
    pub counter: QuotaCounter,
    /// The bytes.
    pub moved: Moved,
}

/// What a master writes at a time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageFlush {
    /// The number of the flush, from 1. A repeated flush keeps its number.
    pub sequence: i64,
    /// The time, in Unix seconds.
    pub beat: i64,
    /// The increments of minutes, each subject and minute once.
    pub minutes: Vec<MinuteUsage>,
    /// The increments of quotas, each counter once.
    pub quotas: Vec<QuotaUsage>,
    /// The live numbers that have changed, each subject once.
    pub live: Vec<LiveRow>,
}

/// Returns the value of a column of bytes.
fn column(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Returns the bytes of a row.
pub(super) fn moved(columns: Columns<'_>) -> Result<Moved, StoreError> {
    Ok(Moved {
        up: columns.bytes("up")?,
        down: columns.bytes("down")?,
    })
}

/// Returns the subject of a row.
pub(super) fn subject(columns: Columns<'_>) -> Result<LimitSubject, StoreError> {
    let (kind, id) = (columns.text("kind")?, columns.text("subject")?);
    LimitSubject::parse(kind, id).ok_or_else(|| columns.corrupt("kind", "it is no subject"))
}

/// Binds the columns of a subject.
pub(super) fn bind_subject(query: Query, subject: LimitSubject) -> Query {
    query.bind(subject.kind()).bind(subject.id())
}

/// Binds the columns of moved bytes.
fn bind_moved(query: Query, moved: Moved) -> Query {
    query.bind(column(moved.up)).bind(column(moved.down))
}

/// Returns the row of a quota.
fn quota_usage(row: &AnyRow) -> Result<QuotaUsage, StoreError> {
    let columns = Columns::new(row, RecordKind::Usage, "subject");
    Ok(QuotaUsage {
        counter: QuotaCounter {
            subject: subject(columns)?,
            quota: columns.text("quota")?.to_owned(),
            period_start: columns.number("period_start")?,
        },
        moved: moved(columns)?,
    })
}

impl Store {
    /// Writes the increments of a master. `epoch` is the id of its present start, and `name` is for
    /// people. A flush whose number is already committed has no effect.
    ///
    /// # Errors
    /// If the database is away. It is unknown then whether the flush is committed, so the caller
    /// repeats it.
    pub async fn flush_usage(
        &self,
        epoch: Id,
        name: &str,
        flush: &UsageFlush,
    ) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        transaction.lock_usage().await?;
        if !transaction.begin_flush(epoch, name, flush).await? {
            return Ok(());
        }
        transaction.add_minutes(&flush.minutes).await?;
        transaction.add_quotas(&flush.quotas).await?;
        transaction.set_live(epoch, &flush.live).await?;
        transaction.commit().await
    }

    /// Returns the bytes of the counters that exist, in any order.
    ///
    /// # Errors
    /// If the database is away, or a row is invalid.
    pub async fn quota_usage(
        &self,
        counters: &[QuotaCounter],
    ) -> Result<Vec<QuotaUsage>, StoreError> {
        let mut found = Vec::with_capacity(counters.len());
        for counters in counters.chunks(ROWS) {
            let mut sql = "SELECT kind, subject, quota, period_start, up, down FROM quota_usage \
                           WHERE "
                .to_owned();
            for index in 0..counters.len() {
                let first = index.saturating_mul(4);
                let [kind, subject, quota, start] = [1, 2, 3, 4].map(|n| first.saturating_add(n));
                if index > 0 {
                    sql.push_str(" OR ");
                }
                sql.push_str(&format!(
                    "(kind = ${kind} AND subject = ${subject} AND quota = ${quota} \
                     AND period_start = ${start})"
                ));
            }
            let mut query = self.dialect.dynamic_query(sql.into());
            for counter in counters {
                query = bind_subject(query, counter.subject)
                    .bind(counter.quota.as_str())
                    .bind(counter.period_start);
            }
            let rows = self.fetch_all(query).await?;
            for row in &rows {
                found.push(quota_usage(row)?);
            }
        }
        Ok(found)
    }
}

impl WriteTransaction<'_> {
    /// Waits until no other transaction writes usage.
    pub(super) async fn lock_usage(&mut self) -> Result<(), StoreError> {
        let query = self.dialect().query(LOCK);
        self.execute(query).await?;
        Ok(())
    }

    /// Records the number of a flush. Returns `false` if it is committed already.
    async fn begin_flush(
        &mut self,
        epoch: Id,
        name: &str,
        flush: &UsageFlush,
    ) -> Result<bool, StoreError> {
        let epoch = epoch.to_string();
        let query = self.dialect().query(ADVANCE);
        let query = query
            .bind(flush.sequence)
            .bind(flush.beat)
            .bind(name)
            .bind(epoch.as_str())
            .bind(flush.sequence);
        if self.execute(query).await? > 0 {
            return Ok(true);
        }
        let query = self
            .dialect()
            .query("SELECT flush_sequence FROM masters WHERE epoch = $1");
        if self
            .fetch_optional(query.bind(epoch.as_str()))
            .await?
            .is_some()
        {
            return Ok(false);
        }
        let query = self.dialect().query(ENTER);
        let query = query
            .bind(epoch.as_str())
            .bind(name)
            .bind(flush.beat)
            .bind(flush.sequence);
        self.execute(query).await?;
        Ok(true)
    }

    /// Adds increments of minutes.
    async fn add_minutes(&mut self, minutes: &[MinuteUsage]) -> Result<(), StoreError> {
        for rows in minutes.chunks(ROWS) {
            let mut query = self.dialect().upsert(&MINUTES, rows.len());
            for row in rows {
                query = bind_subject(query, row.subject).bind(row.minute);
                query = bind_moved(query, row.moved);
            }
            self.execute(query).await?;
        }
        Ok(())
    }

    /// Adds increments of quotas.
    async fn add_quotas(&mut self, quotas: &[QuotaUsage]) -> Result<(), StoreError> {
        for rows in quotas.chunks(ROWS) {
            let mut query = self.dialect().upsert(&QUOTAS, rows.len());
            for QuotaUsage { counter, moved } in rows {
                query = bind_subject(query, counter.subject)
                    .bind(counter.quota.as_str())
                    .bind(counter.period_start);
                query = bind_moved(query, *moved);
            }
            self.execute(query).await?;
        }
        Ok(())
    }
}
