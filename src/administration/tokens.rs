//! Operations on the tokens of the admin API.

use serde::{Deserialize, Serialize};

use super::{
    Actor, Administration, AdministrationError, HashText, RecordPage, TokenQuery, audit, check,
    lists::{map_page, number_after, size_of, whole},
    patch::{earlier, next_names, present, put},
};
use crate::{
    policy::{Token, TokenId, TokenRecord, TokenRole, UnixTime},
    store::{RecordKind, Stored},
};

/// A new token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// The name, which no other token has.
    pub name: String,
    /// Its rights.
    pub role: TokenRole,
    /// The SHA-256 of its text as 64 hexadecimal digits. The text stays with its owner.
    pub hash: HashText,
    /// The time until which it is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<UnixTime>,
}

impl NewToken {
    fn into_record(self) -> TokenRecord {
        TokenRecord {
            token: Token {
                id: TokenId(0),
                name: self.name,
                role: self.role,
                expires: self.expires,
                revoked: false,
            },
            hash: self.hash.0,
        }
    }
}

/// The fields of a token to change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TokenPatch {
    /// The name, which no other token has.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its rights.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub role: Option<TokenRole>,
    /// The time until which it is valid.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<UnixTime>)]
    pub expires: Option<Option<UnixTime>>,
}

impl TokenPatch {
    fn apply(self, token: &mut Token) {
        put(&mut token.name, self.name);
        put(&mut token.role, self.role);
        put(&mut token.expires, self.expires);
    }
}

/// A second token, which replaces the present one after some time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateToken {
    /// The SHA-256 of the new token's text as 64 hexadecimal digits.
    pub hash: HashText,
    /// The name of the new token. By default that of the present one with a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The time until which the new token is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<UnixTime>,
    /// The time until which the present token stays valid beside the new one.
    pub old_expires: UnixTime,
}

/// The two tokens of a rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RotatedToken {
    /// The new token.
    pub new: Token,
    /// The present token with its end.
    pub old: Token,
}

impl Administration {
    /// Returns a page of tokens.
    ///
    /// # Errors
    /// If the query is invalid, or the database is away.
    pub async fn tokens(
        &self,
        query: &TokenQuery,
    ) -> Result<RecordPage<Token>, AdministrationError> {
        let size = size_of(query.size)?;
        if let Some(name) = &query.name {
            let found = self.store.token_by_name(name).await?;
            return Ok(whole(found.map(without_hash).into_iter().collect()));
        }
        let after = number_after(query.after.as_deref())?;
        let page = self.store.tokens(after.map(TokenId), size).await?;
        Ok(map_page(page, |record| record.token, |id| id.to_string()))
    }

    /// Returns a token.
    ///
    /// # Errors
    /// If it does not exist, or the database is away.
    pub async fn token(&self, id: TokenId) -> Result<Stored<Token>, AdministrationError> {
        let found = self.store.token(id).await?.map(without_hash);
        found.ok_or_else(|| AdministrationError::not_found(RecordKind::Token, id))
    }

    /// Adds a token.
    ///
    /// # Errors
    /// If the actor may not do it, if a value is invalid, if another token has the name, or if the
    /// database is away.
    pub async fn add_token(
        &self,
        actor: &Actor,
        new: NewToken,
    ) -> Result<Stored<Token>, AdministrationError> {
        let record = new.into_record();
        check(record.token.problems())?;
        let mut change = self.begin(actor).await?;
        let stored = without_hash(change.create_token(record).await?);
        let subject = audit::Subject::Token(stored.record.id);
        self.finish_addition(change, actor, subject, stored).await
    }

    /// Changes fields of a token. `expected` is the version that the caller has read.
    ///
    /// # Errors
    /// If the actor may not do it, if the token does not exist or has another version, if a value is
    /// invalid, if another token has the name, or if the database is away.
    pub async fn set_token(
        &self,
        actor: &Actor,
        id: TokenId,
        patch: TokenPatch,
        expected: Option<i64>,
    ) -> Result<Stored<Token>, AdministrationError> {
        let row = audit::row(audit::Action::Set, audit::Subject::Token(id), &patch);
        self.update_token(actor, id, expected, row, |token| patch.apply(token))
            .await
    }

    /// Revokes a token for good. `expected` is the version that the caller has read.
    ///
    /// # Errors
    /// If the actor may not do it, if the token does not exist or has another version, or if the
    /// database is away.
    pub async fn revoke_token(
        &self,
        actor: &Actor,
        id: TokenId,
        expected: Option<i64>,
    ) -> Result<Stored<Token>, AdministrationError> {
        let row = audit::plain(audit::Action::Revoke, audit::Subject::Token(id));
        self.update_token(actor, id, expected, row, |token| token.revoked = true)
            .await
    }

    async fn update_token(
        &self,
        actor: &Actor,
        id: TokenId,
        expected: Option<i64>,
        row: audit::Row,
        edit: impl FnOnce(&mut Token),
    ) -> Result<Stored<Token>, AdministrationError> {
        let mut change = self.begin(actor).await?;
        let Stored {
            mut record,
            changed,
        } = self.token(id).await?;
        edit(&mut record);
        check(record.problems())?;
        let stored = change
            .update_token(record, expected.or(Some(changed)))
            .await?;
        self.finish(change, actor, row).await?;
        Ok(stored)
    }

    /// Adds a second token with the rights of a present one, which stays valid until a given time at
    /// the latest. `expected` is the version of the present one that the caller has read.
    ///
    /// # Errors
    /// If the actor may not do it, if the token does not exist, is revoked or has another version,
    /// if a value is invalid or exists, or if the database is away.
    pub async fn rotate_token(
        &self,
        actor: &Actor,
        id: TokenId,
        rotation: RotateToken,
        expected: Option<i64>,
    ) -> Result<RotatedToken, AdministrationError> {
        let mut change = self.begin(actor).await?;
        let Stored {
            record: mut old,
            changed,
        } = self.token(id).await?;
        if old.revoked {
            return Err(AdministrationError::revoked(RecordKind::Token, id));
        }
        let new = NewToken {
            name: match rotation.name {
                Some(name) => name,
                None => self.free_token_name(&old.name).await?,
            },
            role: old.role,
            hash: rotation.hash,
            expires: rotation.expires,
        };
        let new = new.into_record();
        check(new.token.problems())?;
        old.expires = Some(earlier(old.expires, rotation.old_expires));
        let expected = expected.or(Some(changed));
        let old = change.update_token(old, expected).await?.record;
        let new = without_hash(change.create_token(new).await?).record;
        let rotated = RotatedToken { new, old };
        let row = audit::row(audit::Action::Rotate, audit::Subject::Token(id), &rotated);
        self.finish(change, actor, row).await?;
        Ok(rotated)
    }

    /// Returns the next free name with a number.
    async fn free_token_name(&self, old: &str) -> Result<String, AdministrationError> {
        for name in next_names(old) {
            if self.store.token_by_name(&name).await?.is_none() {
                return Ok(name);
            }
        }
        Err(AdministrationError::no_free_name(old))
    }

    /// Removes a token. `expected` is the version that the caller has read.
    ///
    /// # Errors
    /// If the actor may not do it, if the token does not exist or has another version, or if the
    /// database is away.
    pub async fn remove_token(
        &self,
        actor: &Actor,
        id: TokenId,
        expected: Option<i64>,
    ) -> Result<(), AdministrationError> {
        let mut change = self.begin(actor).await?;
        change.remove_token(id, expected).await?;
        let row = audit::plain(audit::Action::Remove, audit::Subject::Token(id));
        self.finish(change, actor, row).await
    }
}

/// Returns the part of a record that is no secret.
fn without_hash(stored: Stored<TokenRecord>) -> Stored<Token> {
    stored.map(|record| record.token)
}
