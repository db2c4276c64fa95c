//! The changes since a counter, for a master that holds all policies in memory.

use super::{
    Change, FoundRecords, RecordKind, Store, StoreError, UnreadableRecord,
    record_rows::{RECORD_TABLES, RecordTable},
    rows::Columns,
};
use crate::policy::Changes;

/// How many rows one query returns. A complete load makes several.
const PAGE: i64 = 5_000;

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
    /// Returns all records, for the start of a master.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn load(&self) -> Result<Delta, StoreError> {
        let state = self.state().await?;
        let mut found = self.changed_since(-1).await?;
        found.add_relay(state.relay, true)?;
        Ok(Delta {
            counter: state.counter,
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
        let mut found = self.changed_since(since).await?;
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

    /// Returns the records that have changed after a counter, except the policy of the relay.
    async fn changed_since(&self, counter: i64) -> Result<FoundRecords, StoreError> {
        let mut found = FoundRecords::default();
        for table in &RECORD_TABLES {
            self.add_changed(table, counter, &mut found).await?;
        }
        Ok(found)
    }

    /// Adds the rows of one table, page by page. A row that changes in the meantime moves behind
    /// the position, so it is read again instead of being skipped.
    async fn add_changed(
        &self,
        table: &RecordTable,
        counter: i64,
        found: &mut FoundRecords,
    ) -> Result<(), StoreError> {
        let mut position = table.behind(counter);
        loop {
            let query = position.bind(self.dialect.query(table.changed), PAGE);
            let rows = self.fetch_all(query).await?;
            for row in &rows {
                found.add(table, row)?;
            }
            let is_last = i64::try_from(rows.len()).is_ok_and(|rows| rows < PAGE);
            if is_last {
                return Ok(());
            }
            // A row without a position is part of its page, and does not move the next one.
            position = table.last_position(&rows).ok_or_else(|| {
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
