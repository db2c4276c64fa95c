//! Accounts.

use sqlx::any::AnyRow;

use super::{
    Change, Page, RecordKind, Store, StoreError, Stored,
    dialect::Query,
    pages,
    rows::{Columns, json_text},
};
use crate::policy::{Account, AccountId, UnixTime};

macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT id, name, enabled, not_before, expires, max_keys, networks, limits, note, \
             removed, changed FROM accounts WHERE ",
            $condition
        )
    };
}

/// The rows that have changed, with removed ones, behind a position.
pub(super) const CHANGED: &str =
    select!("changed >= $1 AND (changed > $2 OR id > $3) ORDER BY changed, id LIMIT $4");

/// The row with an id, also a removed one.
pub(super) const BY_ID: &str = select!("id = $1");

const INSERT: &str = "INSERT INTO accounts (name, enabled, not_before, expires, max_keys, \
                      networks, limits, note, changed, id, removed) \
                      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0)";

const UPDATE: &str = "UPDATE accounts SET name = $1, enabled = $2, not_before = $3, expires = $4, \
                      max_keys = $5, networks = $6, limits = $7, note = $8, changed = $9 \
                      WHERE id = $10";

const VERSION: &str = "SELECT changed FROM accounts WHERE id = $1 AND removed = 0";

/// Returns the account of a row.
pub(super) fn account(row: &AnyRow) -> Result<Stored<Account>, StoreError> {
    let columns = Columns::new(row, RecordKind::Account, "id");
    Ok(Stored {
        record: Account {
            id: AccountId(columns.number("id")?),
            name: columns.text("name")?.to_owned(),
            enabled: columns.flag("enabled")?,
            not_before: columns.time("not_before")?,
            expires: columns.time("expires")?,
            max_keys: columns.maximum("max_keys")?,
            networks: columns.json("networks")?,
            limits: columns.json("limits")?,
            note: columns.text("note")?.to_owned(),
        },
        changed: columns.number("changed")?,
    })
}

/// Binds the columns of an insertion or an update.
fn bind(query: Query, account: &Account, changed: i64) -> Query {
    query
        .bind(account.name.as_str())
        .bind(i64::from(account.enabled))
        .bind(UnixTime::column(account.not_before))
        .bind(UnixTime::column(account.expires))
        .bind(i64::from(account.max_keys.unwrap_or_default()))
        .bind(json_text(&account.networks))
        .bind(json_text(&account.limits))
        .bind(account.note.as_str())
        .bind(changed)
        .bind(account.id.0)
}

impl Store {
    /// Returns an account.
    ///
    /// # Errors
    /// If the database is away, or the row is invalid.
    pub async fn account(&self, id: AccountId) -> Result<Option<Stored<Account>>, StoreError> {
        let query = self.dialect.query(select!("id = $1 AND removed = 0"));
        let row = self.fetch_optional(query.bind(id.0)).await?;
        row.as_ref().map(account).transpose()
    }

    /// Returns the account with a name.
    ///
    /// # Errors
    /// The same as for [`Store::account`].
    pub async fn account_by_name(&self, name: &str) -> Result<Option<Stored<Account>>, StoreError> {
        let query = self.dialect.query(select!("name = $1 AND removed = 0"));
        let row = self.fetch_optional(query.bind(name)).await?;
        row.as_ref().map(account).transpose()
    }

    /// Returns a page of the accounts in the order of their ids.
    ///
    /// # Errors
    /// The same as for [`Store::account`].
    pub async fn accounts(
        &self,
        after: Option<AccountId>,
        size: u32,
    ) -> Result<Page<Stored<Account>, AccountId>, StoreError> {
        let query = self
            .dialect
            .query(select!("id > $1 AND removed = 0 ORDER BY id LIMIT $2"));
        let query = query
            .bind(AccountId::column(after))
            .bind(pages::rows_of(size));
        let rows = self.fetch_all(query).await?;
        let items: Result<Vec<_>, _> = rows.iter().map(account).collect();
        Ok(Page::new(items?, size, |item| item.record.id))
    }
}

impl Change<'_> {
    /// Creates an account and assigns its id.
    ///
    /// # Errors
    /// If another account has the name, or the database is away.
    pub async fn create_account(
        &mut self,
        mut account: Account,
    ) -> Result<Stored<Account>, StoreError> {
        account.id = AccountId(0);
        self.check_account_name(&account).await?;
        account.id = AccountId(self.next_id().await?);
        self.write_account(INSERT, account).await
    }

    /// Replaces an account.
    ///
    /// # Errors
    /// If it does not exist, if it has another version than the expected one, if another account
    /// has the name, or if the database is away.
    pub async fn update_account(
        &mut self,
        account: Account,
        expected: Option<i64>,
    ) -> Result<Stored<Account>, StoreError> {
        self.check_account(account.id, expected).await?;
        self.check_account_name(&account).await?;
        self.write_account(UPDATE, account).await
    }

    /// Removes an account with its credentials. `now` is the time.
    ///
    /// # Errors
    /// If it does not exist, if it has another version than the expected one, if it owns keys, or
    /// if the database is away.
    pub async fn remove_account(
        &mut self,
        id: AccountId,
        expected: Option<i64>,
        now: i64,
    ) -> Result<(), StoreError> {
        self.check_account(id, expected).await?;
        self.check_unused(id).await?;
        self.remove_credentials_of(id, now).await?;
        // The name of a live account has no control character, so the name is free again.
        let query = self
            .query("UPDATE accounts SET name = $1, removed = $2, changed = $3 WHERE id = $4")
            .bind(format!("\u{1}{id}"))
            .bind(now.max(1))
            .bind(self.counter)
            .bind(id.0);
        self.transaction.execute(query).await?;
        Ok(())
    }

    /// Checks that the owner of another record exists.
    pub(super) async fn check_owner(&mut self, id: AccountId) -> Result<(), StoreError> {
        let query = self.query(VERSION).bind(id.0);
        match self.transaction.fetch_optional(query).await? {
            Some(_) => Ok(()),
            None => Err(StoreError::NotFound {
                field: "account",
                kind: RecordKind::Account,
                id: id.to_string(),
            }),
        }
    }

    async fn check_account(
        &mut self,
        id: AccountId,
        expected: Option<i64>,
    ) -> Result<(), StoreError> {
        let query = self.query(VERSION).bind(id.0);
        self.check_version(query, RecordKind::Account, &id, expected)
            .await
    }

    /// Returns the account of another record in the words of an error.
    pub(super) async fn account_words(&mut self, id: AccountId) -> Result<String, StoreError> {
        let query = self
            .query("SELECT id, name FROM accounts WHERE id = $1 AND removed = 0")
            .bind(id.0);
        match self.transaction.fetch_optional(query).await? {
            Some(row) => {
                let name = Columns::new(&row, RecordKind::Account, "id").text("name")?;
                Ok(format!("account {name:?}"))
            }
            None => Ok(format!("account {id}")),
        }
    }

    async fn check_account_name(&mut self, account: &Account) -> Result<(), StoreError> {
        let query = self
            .query("SELECT id FROM accounts WHERE name = $1 AND id <> $2")
            .bind(account.name.as_str())
            .bind(account.id.0);
        let Some(row) = self.transaction.fetch_optional(query).await? else {
            return Ok(());
        };
        let other = Columns::new(&row, RecordKind::Account, "id").number("id")?;
        let reason = format!(
            "it is the name of account {other} (choose another name, or change that account)"
        );
        Err(StoreError::duplicate("name", &account.name, reason))
    }

    /// Checks that an account can be removed.
    async fn check_unused(&mut self, id: AccountId) -> Result<(), StoreError> {
        let in_use = |reason: String| {
            Err(StoreError::InUse {
                kind: RecordKind::Account,
                id: id.to_string(),
                reason,
            })
        };
        if id == AccountId::MASTER {
            return in_use("it belongs to the master key (disable it instead)".to_owned());
        }
        let query = self
            .query("SELECT id FROM service_keys WHERE account = $1 AND removed = 0 LIMIT 1")
            .bind(id.0);
        match self.transaction.fetch_optional(query).await? {
            None => Ok(()),
            Some(row) => {
                let key = Columns::new(&row, RecordKind::Key, "id").text("id")?;
                in_use(format!(
                    "it owns keys such as {key} (remove them, or give them another account)"
                ))
            }
        }
    }

    async fn write_account(
        &mut self,
        sql: &'static str,
        account: Account,
    ) -> Result<Stored<Account>, StoreError> {
        let changed = self.counter;
        let query = bind(self.query(sql), &account, changed);
        self.transaction.execute(query).await?;
        Ok(Stored {
            record: account,
            changed,
        })
    }
}
