//! Credentials. The database holds verifiers, from which no secret can be derived.

use sqlx::any::AnyRow;

use super::{
    Change, Page, RecordKind, Store, StoreError, Stored, pages,
    rows::{Columns, key_text, word_text},
};
use crate::policy::{AccountId, Credential, CredentialId, CredentialRecord, UnixTime, Verifier};

macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT id, account, name, role, public_key, welcome_key, not_before, expires, \
             revoked, removed, changed FROM credentials WHERE ",
            $condition
        )
    };
}

/// The rows that have changed, with removed ones, behind a position.
pub(super) const CHANGED: &str =
    select!("changed >= $1 AND (changed > $2 OR id > $3) ORDER BY changed, id LIMIT $4");

/// The row with an id, also a removed one.
pub(super) const BY_ID: &str = select!("id = $1");

const INSERT: &str = "INSERT INTO credentials (id, account, name, role, public_key, welcome_key, \
                      not_before, expires, revoked, changed, removed) \
                      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0)";

const UPDATE: &str = "UPDATE credentials SET name = $1, not_before = $2, expires = $3, \
                      revoked = $4, changed = $5 WHERE id = $6";

/// Returns the credential of a row.
pub(super) fn credential(row: &AnyRow) -> Result<Stored<CredentialRecord>, StoreError> {
    let columns = Columns::new(row, RecordKind::Credential, "id");
    let record = CredentialRecord {
        credential: Credential {
            id: CredentialId(columns.parse("id")?),
            account: AccountId(columns.number("account")?),
            name: columns.text("name")?.to_owned(),
            role: columns.word("role")?,
            not_before: columns.time("not_before")?,
            expires: columns.time("expires")?,
            revoked: columns.flag("revoked")?,
        },
        verifier: Verifier {
            public_key: columns.key("public_key")?,
            welcome_key: columns.key("welcome_key")?,
        },
    };
    Ok(Stored {
        record,
        changed: columns.number("changed")?,
    })
}

impl Store {
    /// Returns a credential with its verifier.
    ///
    /// # Errors
    /// If the database is away, or the row is invalid.
    pub async fn credential(
        &self,
        id: CredentialId,
    ) -> Result<Option<Stored<CredentialRecord>>, StoreError> {
        let query = self.dialect.query(select!("id = $1 AND removed = 0"));
        let row = self.fetch_optional(query.bind(id.to_string())).await?;
        row.as_ref().map(credential).transpose()
    }

    /// Returns the credential of an account with a name.
    ///
    /// # Errors
    /// The same as for [`Store::credential`].
    pub async fn credential_by_name(
        &self,
        account: AccountId,
        name: &str,
    ) -> Result<Option<Stored<CredentialRecord>>, StoreError> {
        let query = self
            .dialect
            .query(select!("account = $1 AND name = $2 AND removed = 0"));
        let row = self
            .fetch_optional(query.bind(account.0).bind(name))
            .await?;
        row.as_ref().map(credential).transpose()
    }

    /// Returns a page of the credentials of an account in the order of their names.
    ///
    /// # Errors
    /// The same as for [`Store::credential`].
    pub async fn credentials(
        &self,
        account: AccountId,
        after: Option<&str>,
        size: u32,
    ) -> Result<Page<Stored<CredentialRecord>, String>, StoreError> {
        let query = self.dialect.query(select!(
            "account = $1 AND removed = 0 AND name > $2 ORDER BY name LIMIT $3"
        ));
        let query = query
            .bind(account.0)
            .bind(after.unwrap_or_default())
            .bind(pages::rows_of(size));
        let rows = self.fetch_all(query).await?;
        let items: Result<Vec<_>, _> = rows.iter().map(credential).collect();
        Ok(Page::new(items?, size, |item| {
            item.record.credential.name.clone()
        }))
    }
}

impl Change<'_> {
    /// Creates a credential.
    ///
    /// # Errors
    /// If the account does not exist, if another credential has the id, or the name in the same
    /// account, or if the database is away.
    pub async fn create_credential(
        &mut self,
        record: CredentialRecord,
    ) -> Result<Stored<CredentialRecord>, StoreError> {
        let CredentialRecord {
            credential,
            verifier,
        } = &record;
        self.check_owner(credential.account).await?;
        let id = credential.id.to_string();
        // The row of a removed credential would keep the id.
        let query = self.query("DELETE FROM credentials WHERE id = $1 AND removed > 0");
        self.transaction.execute(query.bind(id.as_str())).await?;
        self.check_new_credential(&id).await?;
        self.check_credential_name(credential, credential.account)
            .await?;
        let query = self
            .query(INSERT)
            .bind(id)
            .bind(credential.account.0)
            .bind(credential.name.as_str())
            .bind(word_text(&credential.role))
            .bind(key_text(&verifier.public_key))
            .bind(key_text(&verifier.welcome_key))
            .bind(UnixTime::column(credential.not_before))
            .bind(UnixTime::column(credential.expires))
            .bind(i64::from(credential.revoked))
            .bind(self.counter);
        self.transaction.execute(query).await?;
        Ok(Stored {
            record,
            changed: self.counter,
        })
    }

    /// Replaces the name, the validity and the revocation of a credential. The others are part of
    /// its secret, or of its account. Returns the version.
    ///
    /// # Errors
    /// If it does not exist, if it has another version than the expected one, if another credential
    /// of the account has the name, or if the database is away.
    pub async fn update_credential(
        &mut self,
        credential: &Credential,
        expected: Option<i64>,
    ) -> Result<i64, StoreError> {
        let id = credential.id;
        self.check_credential(id, expected).await?;
        let query = self.query("SELECT account FROM credentials WHERE id = $1");
        let row = self.transaction.fetch_optional(query.bind(id.to_string()));
        // The account of the record does not count, as it cannot change.
        let account = match row.await? {
            Some(row) => Columns::new(&row, RecordKind::Credential, "account").number("account")?,
            None => credential.account.0,
        };
        self.check_credential_name(credential, AccountId(account))
            .await?;
        let query = self
            .query(UPDATE)
            .bind(credential.name.as_str())
            .bind(UnixTime::column(credential.not_before))
            .bind(UnixTime::column(credential.expires))
            .bind(i64::from(credential.revoked))
            .bind(self.counter)
            .bind(id.to_string());
        self.transaction.execute(query).await?;
        Ok(self.counter)
    }

    /// Removes a credential. `now` is the time.
    ///
    /// # Errors
    /// If it does not exist, if it has another version than the expected one, or if the database is
    /// away.
    pub async fn remove_credential(
        &mut self,
        id: CredentialId,
        expected: Option<i64>,
        now: i64,
    ) -> Result<(), StoreError> {
        self.check_credential(id, expected).await?;
        // No account has the number 0, so the name is free again.
        let query = self
            .query(
                "UPDATE credentials SET account = 0, name = id, removed = $1, changed = $2 \
                 WHERE id = $3",
            )
            .bind(now.max(1))
            .bind(self.counter)
            .bind(id.to_string());
        self.transaction.execute(query).await?;
        Ok(())
    }

    /// Removes all credentials of an account.
    pub(super) async fn remove_credentials_of(
        &mut self,
        account: AccountId,
        now: i64,
    ) -> Result<(), StoreError> {
        let query = self
            .query(
                "UPDATE credentials SET account = 0, name = id, removed = $1, changed = $2 \
                 WHERE account = $3",
            )
            .bind(now.max(1))
            .bind(self.counter)
            .bind(account.0);
        self.transaction.execute(query).await?;
        Ok(())
    }

    /// Returns an error if there is a credential with the id.
    async fn check_new_credential(&mut self, id: &str) -> Result<(), StoreError> {
        let query = self.query("SELECT id, account, name FROM credentials WHERE id = $1");
        let Some(row) = self.transaction.fetch_optional(query.bind(id)).await? else {
            return Ok(());
        };
        let columns = Columns::new(&row, RecordKind::Credential, "id");
        let name = columns.text("name")?.to_owned();
        let owner = AccountId(columns.number("account")?);
        let owner = self.account_words(owner).await?;
        let reason = format!(
            "the secret is that of the credential {name:?} of {owner} (create another one)"
        );
        Err(StoreError::duplicate("id", id, reason))
    }

    async fn check_credential(
        &mut self,
        id: CredentialId,
        expected: Option<i64>,
    ) -> Result<(), StoreError> {
        let query = self
            .query("SELECT changed FROM credentials WHERE id = $1 AND removed = 0")
            .bind(id.to_string());
        self.check_version(query, RecordKind::Credential, &id, expected)
            .await
    }

    async fn check_credential_name(
        &mut self,
        credential: &Credential,
        account: AccountId,
    ) -> Result<(), StoreError> {
        let query = self
            .query(
                "SELECT id, role, revoked FROM credentials \
                 WHERE account = $1 AND name = $2 AND id <> $3",
            )
            .bind(account.0)
            .bind(credential.name.as_str())
            .bind(credential.id.to_string());
        let Some(row) = self.transaction.fetch_optional(query).await? else {
            return Ok(());
        };
        let columns = Columns::new(&row, RecordKind::Credential, "id");
        let role = columns.text("role")?.to_owned();
        // A revoked credential cannot be rotated.
        let (state, remedy) = if columns.flag("revoked")? {
            ("revoked ", "remove")
        } else {
            ("", "rotate")
        };
        let owner = self.account_words(account).await?;
        let reason = format!(
            "{owner} has a {state}{role} credential with this name (choose another name, or \
             {remedy} that credential)"
        );
        Err(StoreError::duplicate("name", &credential.name, reason))
    }
}
