//! Service keys.

use sqlx::any::AnyRow;

use super::{
    Change, MAX_PAGE, Page, RecordKind, Store, StoreError, Stored,
    dialect::Query,
    pages,
    rows::{Columns, json_text},
};
use crate::policy::{AccountId, ServiceKey, UnixTime};
use report_proto::id::Id;

macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT id, label, account, enabled, not_before, expires, needs_credential, \
             register_networks, attach_networks, limits, note, removed, changed \
             FROM service_keys WHERE ",
            $condition
        )
    };
}

/// The rows that have changed, with removed ones, behind a position.
pub(super) const CHANGED: &str =
    select!("changed >= $1 AND (changed > $2 OR id > $3) ORDER BY changed, id LIMIT $4");

/// The row with an id, also a removed one.
pub(super) const BY_ID: &str = select!("id = $1");

const INSERT: &str = "INSERT INTO service_keys (label, account, enabled, not_before, expires, \
                      needs_credential, register_networks, attach_networks, limits, note, changed, \
                      id, removed) \
                      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 0)";

const UPDATE: &str = "UPDATE service_keys SET label = $1, account = $2, enabled = $3, \
                      not_before = $4, expires = $5, needs_credential = $6, \
                      register_networks = $7, attach_networks = $8, limits = $9, note = $10, \
                      changed = $11 WHERE id = $12";

/// The position of a key in a list, which is in the order of labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPosition {
    /// The label of the key before.
    pub label: String,
    /// The id of the key before, as several keys may have the same label.
    pub id: Id,
}

/// Returns the key of a row.
pub(super) fn key(row: &AnyRow) -> Result<Stored<ServiceKey>, StoreError> {
    let columns = Columns::new(row, RecordKind::Key, "id");
    Ok(Stored {
        record: ServiceKey {
            id: columns.parse("id")?,
            label: columns.text("label")?.to_owned(),
            account: AccountId::of_column(columns.number("account")?),
            enabled: columns.flag("enabled")?,
            not_before: columns.time("not_before")?,
            expires: columns.time("expires")?,
            needs_credential: columns.flag("needs_credential")?,
            register_networks: columns.json("register_networks")?,
            attach_networks: columns.json("attach_networks")?,
            limits: columns.json("limits")?,
            note: columns.text("note")?.to_owned(),
        },
        changed: columns.number("changed")?,
    })
}

/// Binds the columns of an insertion or an update.
fn bind(query: Query, key: &ServiceKey, changed: i64) -> Query {
    query
        .bind(key.label.as_str())
        .bind(AccountId::column(key.account))
        .bind(i64::from(key.enabled))
        .bind(UnixTime::column(key.not_before))
        .bind(UnixTime::column(key.expires))
        .bind(i64::from(key.needs_credential))
        .bind(json_text(&key.register_networks))
        .bind(json_text(&key.attach_networks))
        .bind(json_text(&key.limits))
        .bind(key.note.as_str())
        .bind(changed)
        .bind(key.id.to_string())
}

impl Store {
    /// Returns a key.
    ///
    /// # Errors
    /// If the database is away, or the row is invalid.
    pub async fn key(&self, id: Id) -> Result<Option<Stored<ServiceKey>>, StoreError> {
        let query = self.dialect.query(select!("id = $1 AND removed = 0"));
        let row = self.fetch_optional(query.bind(id.to_string())).await?;
        row.as_ref().map(key).transpose()
    }

    /// Returns the keys with a label, at most [`MAX_PAGE`].
    ///
    /// # Errors
    /// The same as for [`Store::key`].
    pub async fn keys_by_label(&self, label: &str) -> Result<Vec<Stored<ServiceKey>>, StoreError> {
        let query = self
            .dialect
            .query(select!("label = $1 AND removed = 0 ORDER BY id LIMIT $2"));
        let query = query.bind(label).bind(i64::from(MAX_PAGE));
        self.fetch_all(query).await?.iter().map(key).collect()
    }

    /// Returns how many keys an account owns.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn count_keys(&self, account: AccountId) -> Result<i64, StoreError> {
        let query = self.dialect.query(
            "SELECT COUNT(*) AS number FROM service_keys WHERE account = $1 AND removed = 0",
        );
        match self.fetch_optional(query.bind(account.0)).await? {
            Some(row) => Columns::new(&row, RecordKind::Key, "number").number("number"),
            None => Ok(0),
        }
    }

    /// Returns a page of all keys, or of those that an account owns, in the order of their labels.
    ///
    /// # Errors
    /// The same as for [`Store::key`].
    pub async fn keys(
        &self,
        account: Option<AccountId>,
        after: Option<&KeyPosition>,
        size: u32,
    ) -> Result<Page<Stored<ServiceKey>, KeyPosition>, StoreError> {
        let query = match account {
            None => self.dialect.query(select!(
                "removed = 0 AND label >= $1 AND (label > $2 OR id > $3) \
                 ORDER BY label, id LIMIT $4"
            )),
            Some(account) => {
                let query = self.dialect.query(select!(
                    "account = $1 AND removed = 0 AND label >= $2 AND (label > $3 OR id > $4) \
                     ORDER BY label, id LIMIT $5"
                ));
                query.bind(account.0)
            }
        };
        let label = after.map_or("", |after| &after.label);
        let id = after.map_or_else(String::new, |after| after.id.to_string());
        let query = query
            .bind(label)
            .bind(label)
            .bind(id)
            .bind(pages::rows_of(size));
        let rows = self.fetch_all(query).await?;
        let items: Result<Vec<_>, _> = rows.iter().map(key).collect();
        Ok(Page::new(items?, size, |item| KeyPosition {
            label: item.record.label.clone(),
            id: item.record.id,
        }))
    }
}

impl Change<'_> {
    /// Creates a key.
    ///
    /// # Errors
    /// If another key has the id, if the account does not exist, or if the database is away.
    pub async fn create_key(&mut self, key: ServiceKey) -> Result<Stored<ServiceKey>, StoreError> {
        let id = key.id.to_string();
        // The row of a removed key would keep the id.
        let query = self.query("DELETE FROM service_keys WHERE id = $1 AND removed > 0");
        self.transaction.execute(query.bind(id.as_str())).await?;
        self.check_new_key(&id).await?;
        self.write_key(INSERT, key).await
    }

    /// Replaces a key.
    ///
    /// # Errors
    /// If it does not exist, if it has another version than the expected one, if the account does
    /// not exist, or if the database is away.
    pub async fn update_key(
        &mut self,
        key: ServiceKey,
        expected: Option<i64>,
    ) -> Result<Stored<ServiceKey>, StoreError> {
        self.check_key(key.id, expected).await?;
        self.write_key(UPDATE, key).await
    }

    /// Removes a key. `now` is the time.
    ///
    /// # Errors
    /// If it does not exist, if it has another version than the expected one, or if the database is
    /// away.
    pub async fn remove_key(
        &mut self,
        id: Id,
        expected: Option<i64>,
        now: i64,
    ) -> Result<(), StoreError> {
        self.check_key(id, expected).await?;
        let query = self
            .query("UPDATE service_keys SET removed = $1, changed = $2 WHERE id = $3")
            .bind(now.max(1))
            .bind(self.counter)
            .bind(id.to_string());
        self.transaction.execute(query).await?;
        Ok(())
    }

    /// Returns an error if there is a key with the id.
    async fn check_new_key(&mut self, id: &str) -> Result<(), StoreError> {
        let query = self.query("SELECT id, label, account FROM service_keys WHERE id = $1");
        let Some(row) = self.transaction.fetch_optional(query.bind(id)).await? else {
            return Ok(());
        };
        let columns = Columns::new(&row, RecordKind::Key, "id");
        let label = columns.text("label")?.to_owned();
        let owner = match AccountId::of_column(columns.number("account")?) {
            Some(account) => {
                let account = self.account_words(account).await?;
                format!("of {account}")
            }
            None => "without an account".to_owned(),
        };
        let reason = format!(
            "the port key is registered as {label:?} {owner} (use another port key, or change that \
             key with `report key set`)"
        );
        Err(StoreError::duplicate("id", id, reason))
    }

    async fn check_key(&mut self, id: Id, expected: Option<i64>) -> Result<(), StoreError> {
        let query = self
            .query("SELECT changed FROM service_keys WHERE id = $1 AND removed = 0")
            .bind(id.to_string());
        self.check_version(query, RecordKind::Key, &id, expected)
            .await
    }

    async fn write_key(
        &mut self,
        sql: &'static str,
        key: ServiceKey,
    ) -> Result<Stored<ServiceKey>, StoreError> {
        if let Some(account) = key.account {
            self.check_owner(account).await?;
        }
        let changed = self.counter;
        let query = bind(self.query(sql), &key, changed);
        self.transaction.execute(query).await?;
        Ok(Stored {
            record: key,
            changed,
        })
    }
}
