//! The audit log: who did what, and when.

use std::fmt::Write as _;

use sqlx::any::AnyRow;

use super::{
    Change, Page, RecordKind, Store, StoreError, dialect::Upsert, pages, rows::Columns,
    transaction::WriteTransaction, usage::ROWS,
};

/// An event that is written again after a lost answer has the same id, and stays one row.
const EVENTS: Upsert = Upsert {
    table: "audit",
    keys: &["id"],
    sums: &[],
    values: &[
        "happened", "actor", "address", "action", "subject", "detail", "repeats",
    ],
};

macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT id, happened, actor, address, action, subject, detail, repeats FROM audit \
             WHERE ",
            $condition,
            " ORDER BY id DESC LIMIT "
        )
    };
}

/// The most characters of the columns `actor` and `subject`, of `address` and `action`, and of
/// `detail`.
const MAX_NAME: usize = 128;
const MAX_WORD: usize = 64;
const MAX_DETAIL: usize = 4_096;

/// An event of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AuditEntry {
    /// The time of the first occurrence, in Unix seconds.
    pub happened: i64,
    /// The actor: an account, a token, or a user of this machine.
    pub actor: String,
    /// The address from which it acted. May be empty.
    pub address: String,
    /// The event, as stable words: `account.update`, `link.refused`.
    pub action: String,
    /// The subject of the event. May be empty.
    pub subject: String,
    /// Further facts. Never a secret.
    pub detail: String,
    /// How often it happened again within the same minute.
    pub repeats: u32,
}

/// An event with its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// The place.
    pub position: AuditPosition,
    /// The event.
    pub entry: AuditEntry,
}

impl AuditRow {
    /// Gives an event a place. It keeps the place when it is written again.
    #[must_use]
    pub fn new(entry: AuditEntry) -> Self {
        AuditRow {
            position: AuditPosition::new(entry.happened),
            entry,
        }
    }
}

/// A place in the audit log. Its text is part of links to the next page.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditPosition(String);

impl AuditPosition {
    /// Returns a new place for an event of this time.
    fn new(happened: i64) -> Self {
        let random: [u8; 10] = crate::random::bytes();
        let mut id = prefix(happened);
        for byte in random {
            // Writing to a string cannot fail.
            let _ = write!(id, "{byte:02x}");
        }
        AuditPosition(id)
    }

    /// Returns the place of a text, or `None` if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_valid = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_valid.then(|| AuditPosition(text.to_ascii_lowercase()))
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns the start of all ids of a time: 12 hexadecimal digits.
fn prefix(happened: i64) -> String {
    format!("{:012x}", happened.clamp(0, 0xffff_ffff_ffff))
}

/// Which events of the log are read. By default all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// The first second, in Unix seconds.
    pub since: Option<i64>,
    /// The first second that is not part of it any more.
    pub until: Option<i64>,
    /// The subject.
    pub subject: Option<String>,
}

fn row(row: &AnyRow) -> Result<AuditRow, StoreError> {
    let columns = Columns::new(row, RecordKind::Audit, "id");
    let text = |column| columns.text(column).map(str::to_owned);
    let repeats = u32::try_from(columns.number("repeats")?);
    Ok(AuditRow {
        position: AuditPosition(text("id")?),
        entry: AuditEntry {
            happened: columns.number("happened")?,
            actor: text("actor")?,
            address: text("address")?,
            action: text("action")?,
            subject: text("subject")?,
            detail: text("detail")?,
            repeats: repeats.map_err(|error| columns.corrupt("repeats", error))?,
        },
    })
}

/// Returns the start of a text that fits into its column. PostgreSQL takes no NUL.
fn fitting(text: &str, most: usize) -> String {
    text.chars()
        .filter(|letter| *letter != '\0')
        .take(most)
        .collect()
}

impl Store {
    /// Writes events.
    ///
    /// # Errors
    /// If the database is away. It is unknown then whether the events are written.
    pub async fn write_audit(&self, entries: &[AuditEntry]) -> Result<(), StoreError> {
        let rows: Vec<_> = entries.iter().cloned().map(AuditRow::new).collect();
        self.write_audit_rows(&rows).await
    }

    /// Writes events with their places. Events that are written already stay as they are, so a
    /// caller may repeat the call after an error.
    ///
    /// # Errors
    /// If the database is away. It is unknown then whether the events are written.
    pub async fn write_audit_rows(&self, rows: &[AuditRow]) -> Result<(), StoreError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut transaction = self.write().await?;
        transaction.put_audit(rows).await?;
        transaction.commit().await
    }

    /// Returns a page of the events, the latest one first.
    ///
    /// # Errors
    /// If the database is away, or a row is invalid.
    pub async fn audit(
        &self,
        filter: &AuditFilter,
        after: Option<&AuditPosition>,
        size: u32,
    ) -> Result<Page<AuditRow, AuditPosition>, StoreError> {
        let since = filter.since.map_or_else(String::new, prefix);
        let until = filter.until.map_or_else(|| "g".to_owned(), prefix);
        let before = match after {
            Some(after) if *after.0 < *until => after.0.clone(),
            _ => until,
        };
        let query = match &filter.subject {
            None => self
                .dialect
                .query(concat!(select!("id >= $1 AND id < $2"), "$3"))
                .bind(since)
                .bind(before),
            Some(subject) => self
                .dialect
                .query(concat!(
                    select!("id >= $1 AND id < $2 AND subject = $3"),
                    "$4"
                ))
                .bind(since)
                .bind(before)
                .bind(fitting(subject, MAX_NAME)),
        };
        let rows = self.fetch_all(query.bind(pages::rows_of(size))).await?;
        let items: Result<Vec<_>, _> = rows.iter().map(row).collect();
        Ok(Page::new(items?, size, |item| item.position.clone()))
    }

    /// Removes events from before a time, and the oldest ones above a number. Returns the number of
    /// removed ones.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn trim_audit(&self, before: i64, most: u32) -> Result<u64, StoreError> {
        let query = self
            .dialect
            .query("SELECT id FROM audit ORDER BY id DESC LIMIT 1 OFFSET $1");
        let surplus = self.fetch_optional(query.bind(i64::from(most))).await?;
        let surplus = surplus.as_ref().map(|row| {
            let columns = Columns::new(row, RecordKind::Audit, "id");
            columns.text("id").map(str::to_owned)
        });
        let mut removed = 0_u64;
        let mut transaction = self.write().await?;
        let query = self.dialect.query("DELETE FROM audit WHERE id < $1");
        let done = transaction.execute(query.bind(prefix(before))).await?;
        removed = removed.saturating_add(done);
        if let Some(surplus) = surplus.transpose()? {
            let query = self.dialect.query("DELETE FROM audit WHERE id <= $1");
            let done = transaction.execute(query.bind(surplus)).await?;
            removed = removed.saturating_add(done);
        }
        transaction.commit().await?;
        Ok(removed)
    }
}

impl WriteTransaction<'_> {
    /// Inserts events, unless they are there already.
    async fn put_audit(&mut self, rows: &[AuditRow]) -> Result<(), StoreError> {
        for rows in rows.chunks(ROWS) {
            let mut query = self.dialect().upsert(&EVENTS, rows.len());
            for AuditRow { position, entry } in rows {
                query = query
                    .bind(position.as_str())
                    .bind(entry.happened)
                    .bind(fitting(&entry.actor, MAX_NAME))
                    .bind(fitting(&entry.address, MAX_WORD))
                    .bind(fitting(&entry.action, MAX_WORD))
                    .bind(fitting(&entry.subject, MAX_NAME))
                    .bind(fitting(&entry.detail, MAX_DETAIL))
                    .bind(i64::from(entry.repeats));
            }
            self.execute(query).await?;
        }
        Ok(())
    }
}

impl Change<'_> {
    /// Records an event in the same transaction as the change, so that neither is without the
    /// other.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn record(&mut self, entry: &AuditEntry) -> Result<(), StoreError> {
        let row = AuditRow::new(entry.clone());
        self.transaction.put_audit(&[row]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_in_the_order_of_time() {
        let (early, late) = (AuditPosition::new(999), AuditPosition::new(1_000));
        assert!(early < late);
        assert!(*late.0 >= *prefix(1_000) && *late.0 < *prefix(1_001));
        assert_eq!(AuditPosition::parse(late.as_str()), Some(late));
        assert!(AuditPosition::new(-1) < early && *prefix(i64::MAX) < *"g");
    }

    #[test]
    fn other_texts_are_no_places() {
        for text in ["", "00", "g0000000000000000000000000000000"] {
            assert_eq!(AuditPosition::parse(text), None, "{text}");
        }
    }

    #[test]
    fn texts_fit_into_their_columns() {
        assert_eq!(fitting("a\0b", 8), "ab");
        assert_eq!(fitting("äöü", 2), "äö");
    }
}
