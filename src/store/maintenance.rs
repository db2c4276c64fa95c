//! The maintenance of the database: rolls usage up, and removes rows that are too old. One master at a
//! time does it.
//!
//! A clock that is far in the future would make everything too old. A round that is more than a day
//! after the one before it therefore needs a confirmation of the caller.

use super::{
    RecordKind, Store, StoreError, UsageStep,
    dialect::Upsert,
    history::History,
    rows::Columns,
    transaction::WriteTransaction,
    usage::{ROWS, bind_subject, moved, subject},
};
use crate::policy::LimitSubject;

/// The least time between two rounds, in seconds.
const INTERVAL: i64 = 60;

/// A time of the last round that is later than this is due to a wrong clock, in seconds.
const MAX_AHEAD: i64 = 3_600;

/// The longest time between two rounds without a confirmation, in seconds.
const MAX_STEP: i64 = DAY;

/// Minutes are rolled up in groups of this length, in seconds, so that a history is written once for
/// many of them.
const GROUP: i64 = 900;

/// The time that a minute has at least for late increments of other masters, in seconds. Later ones
/// are rolled up too, at the cost of another write.
const SETTLE: i64 = 600;

/// The starts of masters that have not written for this time are removed, in seconds. The row of a
/// master that returns later would be missing, and with it the number of its latest flush.
const FORGET_MASTER: i64 = 30 * DAY;

/// The same for the live numbers of a start.
const FORGET_LIVE: i64 = 3_600;

/// How long the usage of past periods of quotas is kept, in seconds: a month more than the longest
/// period.
const KEEP_QUOTAS: i64 = 70 * DAY;

/// How long the rows of removed records are kept, in seconds.
const KEEP_TOMBSTONES: i64 = 7 * DAY;

const DAY: i64 = 86_400;

const CLAIM: &str = "UPDATE store_state SET maintained_at = $1 WHERE id = 1 \
                     AND (maintained_at <= $2 OR maintained_at > $3)";

const HISTORY: Upsert = Upsert {
    table: "usage_history",
    keys: &["kind", "subject"],
    sums: &[],
    values: &["newest", "packed"],
};

/// Removals with a time as their only condition. Live numbers go before their masters.
const EXPIRED: [(&str, i64); 3] = [
    (
        "DELETE FROM live_counts WHERE epoch IN (SELECT epoch FROM masters WHERE beat < $1)",
        FORGET_LIVE,
    ),
    ("DELETE FROM masters WHERE beat < $1", FORGET_MASTER),
    (
        "DELETE FROM quota_usage WHERE period_start > 0 AND period_start < $1",
        KEEP_QUOTAS,
    ),
];

/// The result of a call for maintenance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maintenance {
    /// The database was maintained.
    Done,
    /// A master has maintained it within the last minute.
    NotDue,
    /// Nothing was done: the time is more than a day after the last round. Either no master ran in
    /// between, or the clock is wrong.
    Unconfirmed {
        /// The time of the last round, in Unix seconds.
        last: i64,
    },
}

/// How long the parts of the past are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Minutes of usage, in seconds.
    pub minutes: i64,
    /// Hours of usage, in seconds.
    pub hours: i64,
    /// Days of usage, in seconds.
    pub days: i64,
    /// Events of the audit log, in seconds.
    pub audit: i64,
    /// The most events of the audit log.
    pub audit_rows: u32,
}

/// The retention without a configured one.
const RETENTION: Retention = Retention {
    minutes: 2 * DAY,
    hours: 60 * DAY,
    days: 730 * DAY,
    audit: 90 * DAY,
    audit_rows: 200_000,
};

impl Default for Retention {
    fn default() -> Self {
        RETENTION
    }
}

impl Retention {
    /// Returns how long buckets of a length are kept, in seconds.
    pub(super) fn seconds_of(&self, step: UsageStep) -> i64 {
        match step {
            UsageStep::Minute => self.minutes,
            UsageStep::Hour => self.hours,
            UsageStep::Day => self.days,
        }
    }
}

impl Store {
    /// Maintains the database, unless another master has done so within the last minute. `now` is
    /// the time in Unix seconds. `confirmed` is the time of a last round after which `now` is
    /// plausible ([`Maintenance::Unconfirmed`]).
    ///
    /// # Errors
    /// If the database is away, or a row is invalid. The next round continues.
    pub async fn maintain(
        &self,
        now: i64,
        confirmed: Option<i64>,
        retention: &Retention,
    ) -> Result<Maintenance, StoreError> {
        let query = self
            .dialect
            .query("SELECT maintained_at FROM store_state WHERE id = 1");
        let row = self.fetch_optional(query).await?;
        let last = super::counter_of(row.as_ref(), "maintained_at")?;
        // A new database has no past.
        let is_far = last > 0 && now.saturating_sub(last) > MAX_STEP;
        if is_far && confirmed != Some(last) {
            return Ok(Maintenance::Unconfirmed { last });
        }
        if !self.claim_maintenance(now).await? {
            return Ok(Maintenance::NotDue);
        }
        let rolled_up = self.roll_up_all(now, retention).await;
        // An invalid row prevents the one, but not the other.
        self.remove_expired(now, retention).await?;
        rolled_up.map(|()| Maintenance::Done)
    }

    /// Records the time of this round. Returns `false` if it is not due.
    async fn claim_maintenance(&self, now: i64) -> Result<bool, StoreError> {
        let mut transaction = self.write().await?;
        let query = self.dialect.query(CLAIM);
        let query = query
            .bind(now)
            .bind(now.saturating_sub(INTERVAL))
            .bind(now.saturating_add(MAX_AHEAD));
        let is_claimed = transaction.execute(query).await? > 0;
        transaction.commit().await?;
        Ok(is_claimed)
    }

    async fn roll_up_all(&self, now: i64, retention: &Retention) -> Result<(), StoreError> {
        while self.roll_up(now, retention).await? {}
        Ok(())
    }

    /// Rolls up the settled minutes of some subjects. Returns whether there may be others.
    async fn roll_up(&self, now: i64, retention: &Retention) -> Result<bool, StoreError> {
        let settled = now.saturating_sub(SETTLE);
        let settled = settled.saturating_sub(settled.checked_rem_euclid(GROUP).unwrap_or_default());
        let query = self
            .dialect
            .query("SELECT DISTINCT kind, subject FROM usage_minutes WHERE minute < $1 LIMIT $2");
        let limit = i64::try_from(ROWS).unwrap_or(i64::MAX);
        let rows = self.fetch_all(query.bind(settled).bind(limit)).await?;
        if rows.is_empty() {
            return Ok(false);
        }
        let mut transaction = self.write().await?;
        transaction.lock_usage().await?;
        let mut histories = Vec::with_capacity(rows.len());
        for row in &rows {
            let subject = subject(Columns::new(row, RecordKind::Usage, "subject"))?;
            let mut history = transaction.take_minutes(subject, settled).await?;
            let text = history.trimmed_text(now, retention);
            histories.push((subject, history.newest(), text));
        }
        let mut query = self.dialect.upsert(&HISTORY, histories.len());
        for (subject, newest, text) in histories {
            query = bind_subject(query, subject).bind(newest).bind(text);
        }
        transaction.execute(query).await?;
        transaction.commit().await?;
        Ok(rows.len() >= ROWS)
    }

    /// Removes rows that are too old.
    async fn remove_expired(&self, now: i64, retention: &Retention) -> Result<(), StoreError> {
        let mut transaction = self.write().await?;
        transaction.lock_usage().await?;
        for (sql, age) in EXPIRED {
            let query = self.dialect.query(sql).bind(now.saturating_sub(age));
            transaction.execute(query).await?;
        }
        let query = self
            .dialect
            .query("DELETE FROM usage_history WHERE newest < $1");
        let oldest = now.saturating_sub(retention.days);
        transaction.execute(query.bind(oldest)).await?;
        transaction.commit().await?;
        self.trim_audit(now.saturating_sub(retention.audit), retention.audit_rows)
            .await?;
        self.purge_removed(now.saturating_sub(KEEP_TOMBSTONES))
            .await?;
        Ok(())
    }
}

impl WriteTransaction<'_> {
    /// Moves the minutes of a subject before a time into its history. Returns the history, which the
    /// caller writes. The lock of usage prevents changes of these minutes in between.
    async fn take_minutes(
        &mut self,
        subject: LimitSubject,
        before: i64,
    ) -> Result<History, StoreError> {
        let query = self
            .dialect()
            .query("SELECT subject, packed FROM usage_history WHERE kind = $1 AND subject = $2");
        let row = self.fetch_optional(bind_subject(query, subject)).await?;
        let mut history = row
            .as_ref()
            .map(History::of_row)
            .transpose()?
            .unwrap_or_default();
        let query = self.dialect().query(
            "SELECT subject, minute, up, down FROM usage_minutes \
             WHERE kind = $1 AND subject = $2 AND minute < $3",
        );
        let query = bind_subject(query, subject).bind(before);
        for row in &self.fetch_all(query).await? {
            let columns = Columns::new(row, RecordKind::Usage, "subject");
            history.add(columns.number("minute")?, moved(columns)?);
        }
        let query = self
            .dialect()
            .query("DELETE FROM usage_minutes WHERE kind = $1 AND subject = $2 AND minute < $3");
        self.execute(bind_subject(query, subject).bind(before))
            .await?;
        Ok(history)
    }
}
