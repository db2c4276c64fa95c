//! Tokens of the admin API. The database holds the hashes of their texts.

use sqlx::any::AnyRow;

use super::{
    Change, MAX_PAGE, Page, RecordKind, Store, StoreError, Stored, pages,
    rows::{Columns, key_text, word_text},
};
use crate::policy::{Token, TokenHash, TokenId, TokenRecord, UnixTime};

macro_rules! select {
    ($condition:literal) => {
        concat!(
            "SELECT id, name, hash, role, expires, revoked, changed FROM tokens WHERE ",
            $condition
        )
    };
}

const INSERT: &str = "INSERT INTO tokens (id, name, hash, role, expires, revoked, changed) \
                      VALUES ($1, $2, $3, $4, $5, $6, $7)";

const UPDATE: &str = "UPDATE tokens SET name = $1, role = $2, expires = $3, revoked = $4, \
                      changed = $5 WHERE id = $6";

/// Returns the token of a row.
fn token(row: &AnyRow) -> Result<Stored<TokenRecord>, StoreError> {
    let columns = Columns::new(row, RecordKind::Token, "id");
    let record = TokenRecord {
        token: Token {
            id: TokenId(columns.number("id")?),
            name: columns.text("name")?.to_owned(),
            role: columns.word("role")?,
            expires: columns.time("expires")?,
            revoked: columns.flag("revoked")?,
        },
        hash: TokenHash(columns.key("hash")?),
    };
    Ok(Stored {
        record,
        changed: columns.number("changed")?,
    })
}

impl Store {
    /// Returns a token with its hash.
    ///
    /// # Errors
    /// If the database is away, or the row is invalid.
    pub async fn token(&self, id: TokenId) -> Result<Option<Stored<TokenRecord>>, StoreError> {
        let query = self.dialect.query(select!("id = $1"));
        let row = self.fetch_optional(query.bind(id.0)).await?;
        row.as_ref().map(token).transpose()
    }

    /// Returns the token with a name.
    ///
    /// # Errors
    /// The same as for [`Store::token`].
    pub async fn token_by_name(
        &self,
        name: &str,
    ) -> Result<Option<Stored<TokenRecord>>, StoreError> {
        let query = self.dialect.query(select!("name = $1"));
        let row = self.fetch_optional(query.bind(name)).await?;
        row.as_ref().map(token).transpose()
    }

    /// Returns a page of the tokens in the order of their ids.
    ///
    /// # Errors
    /// The same as for [`Store::token`].
    pub async fn tokens(
        &self,
        after: Option<TokenId>,
        size: u32,
    ) -> Result<Page<Stored<TokenRecord>, TokenId>, StoreError> {
        let query = self.dialect.query(select!("id > $1 ORDER BY id LIMIT $2"));
        let query = query
            .bind(after.map_or(0, |after| after.0))
            .bind(pages::rows_of(size));
        let rows = self.fetch_all(query).await?;
        let items: Result<Vec<_>, _> = rows.iter().map(token).collect();
        Ok(Page::new(items?, size, |item| item.record.token.id))
    }

    /// Returns all tokens that can be read. Others are logged, and refused.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn readable_tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        let (mut records, mut after) = (Vec::new(), 0_i64);
        loop {
            let query = self.dialect.query(select!("id > $1 ORDER BY id LIMIT $2"));
            let query = query.bind(after).bind(i64::from(MAX_PAGE));
            let rows = self.fetch_all(query).await?;
            for row in &rows {
                match token(row) {
                    Ok(stored) => records.push(stored.record),
                    Err(error) => tracing::warn!(%error, "token refused, as it cannot be read"),
                }
                after = Columns::new(row, RecordKind::Token, "id").number("id")?;
            }
            if rows.len() < usize::try_from(MAX_PAGE).unwrap_or(usize::MAX) {
                return Ok(records);
            }
        }
    }
}

impl Change<'_> {
    /// Creates a token and assigns its id.
    ///
    /// # Errors
    /// If another token has the name, or the database is away.
    pub async fn create_token(
        &mut self,
        mut record: TokenRecord,
    ) -> Result<Stored<TokenRecord>, StoreError> {
        record.token.id = TokenId(0);
        self.check_token_name(&record.token).await?;
        record.token.id = TokenId(self.next_id().await?);
        let token = &record.token;
        let query = self
            .query(INSERT)
            .bind(token.id.0)
            .bind(token.name.as_str())
            .bind(key_text(&record.hash.0))
            .bind(word_text(&token.role))
            .bind(UnixTime::column(token.expires))
            .bind(i64::from(token.revoked))
            .bind(self.counter);
        self.transaction.execute(query).await?;
        Ok(Stored {
            record,
            changed: self.counter,
        })
    }

    /// Replaces a token, except its hash.
    ///
    /// # Errors
    /// If it does not exist, if it has another version than the expected one, if another token has
    /// the name, or if the database is away.
    pub async fn update_token(
        &mut self,
        token: Token,
        expected: Option<i64>,
    ) -> Result<Stored<Token>, StoreError> {
        self.check_token(token.id, expected).await?;
        self.check_token_name(&token).await?;
        let query = self
            .query(UPDATE)
            .bind(token.name.as_str())
            .bind(word_text(&token.role))
            .bind(UnixTime::column(token.expires))
            .bind(i64::from(token.revoked))
            .bind(self.counter)
            .bind(token.id.0);
        self.transaction.execute(query).await?;
        Ok(Stored {
            record: token,
            changed: self.counter,
        })
    }

    /// Removes a token.
    ///
    /// # Errors
    /// If it does not exist, if it has another version than the expected one, or if the database is
    /// away.
    pub async fn remove_token(
        &mut self,
        id: TokenId,
        expected: Option<i64>,
    ) -> Result<(), StoreError> {
        self.check_token(id, expected).await?;
        let query = self.query("DELETE FROM tokens WHERE id = $1").bind(id.0);
        self.transaction.execute(query).await?;
        Ok(())
    }

    async fn check_token(&mut self, id: TokenId, expected: Option<i64>) -> Result<(), StoreError> {
        let query = self
            .query("SELECT changed FROM tokens WHERE id = $1")
            .bind(id.0);
        self.check_version(query, RecordKind::Token, &id, expected)
            .await
    }

    async fn check_token_name(&mut self, token: &Token) -> Result<(), StoreError> {
        let query = self
            .query("SELECT id, revoked FROM tokens WHERE name = $1 AND id <> $2")
            .bind(token.name.as_str())
            .bind(token.id.0);
        let Some(row) = self.transaction.fetch_optional(query).await? else {
            return Ok(());
        };
        let columns = Columns::new(&row, RecordKind::Token, "id");
        let other = columns.number("id")?;
        let reason = if columns.flag("revoked")? {
            format!("the revoked token {other} has it (choose another name, or remove that token)")
        } else {
            format!("the token {other} has it (choose another name, or rotate that token)")
        };
        Err(StoreError::duplicate("name", &token.name, reason))
    }
}
