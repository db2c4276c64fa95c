//! The changes since a counter, for a master that holds all policies in memory.

use sqlx::any::AnyRow;

use super::{
    Change, FoundRecords, RecordKind, Store, StoreError, UnreadableRecord,
    record_rows::{RECORD_TABLES, RecordTable},
    rows::Columns,
};
use crate::policy::Changes;

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
    /// The records that cannot be read. They are denied, and the policy of the relay stays the
    /// former one.
    pub unreadable: Vec<UnreadableRecord>,
}

impl Store {
    /// Passes all records to `take` in parts, for the start of a master. Returns the counter to ask
    /// from next.
    ///
    /// A record that changes during the call may be part of it twice, the newer one later.
    ///
    /// # Errors
    /// If the database is away. Some parts may have been passed then.
    pub async fn load_parts(&self, mut take: impl FnMut(FoundRecords)) -> Result<i64, StoreError> {
        let state = self.state().await?;
        self.read_changes(-1, &mut take).await?;
        let mut last = FoundRecords::default();
        last.add_relay(state.relay, true)?;
        take(last);
        Ok(state.counter)
    }

    /// Returns all records.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn load(&self) -> Result<Delta, StoreError> {
        let mut found = FoundRecords::default();
        let counter = self.load_parts(|part| found.append(part)).await?;
        Ok(Delta {
            counter,
            is_complete: true,
            changes: found.changes,
            unreadable: found.unreadable,
        })
    }

    /// Returns the records that have changed after a counter. They are all records if the rows of
    /// removed ones are gone, or if the database is an older copy.
    ///
    /// A record that changes during the call may be part of this delta and of the next one.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn delta(&self, since: i64) -> Result<Delta, StoreError> {
        // Changes are committed in the order of their counters, so rows that are read after the
        // counter contain all changes up to it.
        let state = self.state().await?;
        if since < state.purge_floor || since > state.counter {
            return self.load().await;
        }
        let mut found = FoundRecords::default();
        self.read_changes(since, &mut |part: FoundRecords| found.append(part))
            .await?;
        found.add_relay(state.relay, state.relay_changed > since)?;
        // Rows may have gone before they were read.
        if self.state().await?.purge_floor > since {
            return self.load().await;
        }
        Ok(Delta {
            counter: state.counter,
            is_complete: false,
            changes: found.changes,
            unreadable: found.unreadable,
        })
    }

    /// Reads records again that could not be read. A correction of a row without a change of the
    /// counter is part of no delta.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn read_again(
        &self,
        unreadable: &[UnreadableRecord],
    ) -> Result<FoundRecords, StoreError> {
        let mut found = FoundRecords::default();
        for record in unreadable {
            let table = RECORD_TABLES.iter().find(|table| table.kind == record.kind);
            match table {
                Some(table) => self.read_record(table, record, &mut found).await?,
                None => found.add_relay(self.state().await?.relay, true)?,
            }
        }
        Ok(found)
    }

    async fn read_record(
        &self,
        table: &RecordTable,
        record: &UnreadableRecord,
        found: &mut FoundRecords,
    ) -> Result<(), StoreError> {
        let Some(query) = table.bind_id(&record.id, |sql| self.dialect.query(sql)) else {
            // Only a complete load finds its row.
            found.unreadable.push(record.clone());
            return Ok(());
        };
        match self.fetch_optional(query).await? {
            Some(row) => found.add(table, &row)?,
            None => found.add_removed(table.kind, &record.id),
        }
        Ok(())
    }

    /// Passes the records that have changed after a counter to `take`, except the policy of the relay.
    async fn read_changes(
        &self,
        counter: i64,
        take: &mut impl FnMut(FoundRecords),
    ) -> Result<(), StoreError> {
        for table in &RECORD_TABLES {
            self.read_table(table, counter, take).await?;
        }
        Ok(())
    }

    /// Passes on the rows of one table, page by page. A row that changes in the meantime moves behind
    /// the position, so it is read again instead of being skipped.
    async fn read_table(
        &self,
        table: &RecordTable,
        counter: i64,
        take: &mut impl FnMut(FoundRecords),
    ) -> Result<(), StoreError> {
        let mut position = table.behind(counter);
        loop {
            let query = position.bind(self.dialect.query(table.changed), i64::from(PAGE));
            let (mut rows, mut last) = (0_u32, None);
            let mut part = FoundRecords::default();
            let each = |row: &AnyRow| -> Result<(), StoreError> {
                // A row without a position is part of its page, and does not move the next one.
                last = table.position(row).ok().or(last.take());
                part.add(table, row)?;
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
            position = last.ok_or_else(|| {
                let problem = "too many rows have none that is a number";
                StoreError::corrupt(table.kind, "", "changed", problem)
            })?;
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
