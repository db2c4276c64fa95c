//! Operations on accounts.

use serde::{Deserialize, Serialize};

use super::{
    AccountQuery, Actor, Administration, AdministrationError, RecordPage, audit, check,
    lists::{map_page, number_after, size_of, whole},
    patch::{enabled, present, put},
};
use crate::{
    policy::{Account, AccountId, Limits, Networks, UnixTime},
    store::{RecordKind, Stored},
};

/// A new account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAccount {
    /// The name, which no other account has.
    pub name: String,
    /// Whether its links are admitted. By default they are.
    #[serde(default = "enabled")]
    pub enabled: bool,
    /// The time from which its links are admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<UnixTime>,
    /// The time until which its links are admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<UnixTime>,
    /// The most key ids that it owns, and that it registers at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_keys: Option<u32>,
    /// The networks from which its links may come. Empty for all networks.
    #[serde(default)]
    pub networks: Networks,
    /// The limits of its keys and tunnels together.
    #[serde(default)]
    pub limits: Limits,
    /// A note for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl NewAccount {
    /// Creates an enabled account without limits.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        NewAccount {
            name: name.into(),
            enabled: true,
            not_before: None,
            expires: None,
            max_keys: None,
            networks: Networks::default(),
            limits: Limits::default(),
            note: String::new(),
        }
    }

    fn into_record(self) -> Account {
        Account {
            id: AccountId(0),
            name: self.name,
            enabled: self.enabled,
            not_before: self.not_before,
            expires: self.expires,
            max_keys: self.max_keys,
            networks: self.networks,
            limits: self.limits,
            note: self.note,
        }
    }
}

/// The fields of an account to change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AccountPatch {
    /// The name, which no other account has.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether its links are admitted.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The time from which its links are admitted.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<UnixTime>)]
    pub not_before: Option<Option<UnixTime>>,
    /// The time until which its links are admitted.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<UnixTime>)]
    pub expires: Option<Option<UnixTime>>,
    /// The most key ids that it owns, and that it registers at a time.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub max_keys: Option<Option<u32>>,
    /// The networks from which its links may come. Empty for all networks.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub networks: Option<Networks>,
    /// The limits of its keys and tunnels together. They replace all limits of the account.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// A note for people.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl AccountPatch {
    fn apply(self, account: &mut Account) {
        put(&mut account.name, self.name);
        put(&mut account.enabled, self.enabled);
        put(&mut account.not_before, self.not_before);
        put(&mut account.expires, self.expires);
        put(&mut account.max_keys, self.max_keys);
        put(&mut account.networks, self.networks);
        put(&mut account.limits, self.limits);
        put(&mut account.note, self.note);
    }
}

impl Administration {
    /// Returns a page of accounts.
    ///
    /// # Errors
    /// If the query is invalid, or the database is away.
    pub async fn accounts(
        &self,
        query: &AccountQuery,
    ) -> Result<RecordPage<Account>, AdministrationError> {
        let size = size_of(query.size)?;
        if let Some(name) = &query.name {
            let found = self.store.account_by_name(name).await?;
            return Ok(whole(found.into_iter().collect()));
        }
        let after = number_after(query.after.as_deref())?;
        let page = self.store.accounts(after.map(AccountId), size).await?;
        Ok(map_page(page, |account| account, |id| id.to_string()))
    }

    /// Returns an account.
    ///
    /// # Errors
    /// If it does not exist, or the database is away.
    pub async fn account(&self, id: AccountId) -> Result<Stored<Account>, AdministrationError> {
        let found = self.store.account(id).await?;
        found.ok_or_else(|| AdministrationError::not_found(RecordKind::Account, id))
    }

    /// Adds an account.
    ///
    /// # Errors
    /// If the actor may not do it, if a value is invalid, if another account has the name, or if the
    /// database is away.
    pub async fn add_account(
        &self,
        actor: &Actor,
        new: NewAccount,
    ) -> Result<Stored<Account>, AdministrationError> {
        let account = new.into_record();
        check(account.problems())?;
        let mut change = self.begin(actor).await?;
        let stored = change.create_account(account).await?;
        let subject = audit::Subject::Account(stored.record.id);
        self.finish_addition(change, actor, subject, stored).await
    }

    /// Changes fields of an account. `expected` is the version that the caller has read.
    ///
    /// # Errors
    /// If the actor may not do it, if the account does not exist or has another version, if a value
    /// is invalid, if another account has the name, or if the database is away.
    pub async fn set_account(
        &self,
        actor: &Actor,
        id: AccountId,
        patch: AccountPatch,
        expected: Option<i64>,
    ) -> Result<Stored<Account>, AdministrationError> {
        let mut change = self.begin(actor).await?;
        let Stored {
            mut record,
            changed,
        } = self.account(id).await?;
        let row = audit::row(audit::Action::Set, audit::Subject::Account(id), &patch);
        let is_given = patch.max_keys.is_some();
        patch.apply(&mut record);
        check(record.problems())?;
        if let Some(maximum) = record.max_keys.filter(|_| is_given) {
            let owned = self.store.count_keys(id).await?;
            if owned > i64::from(maximum) {
                let message = format!("it owns {owned} keys (remove some, or write more)");
                return Err(AdministrationError::invalid("max_keys", maximum, message));
            }
        }
        let expected = expected.or(Some(changed));
        let stored = change.update_account(record, expected).await?;
        self.finish(change, actor, row).await?;
        Ok(stored)
    }

    /// Removes an account with its credentials. `expected` is the version that the caller has read.
    ///
    /// # Errors
    /// If the actor may not do it, if the account does not exist or has another version, if it owns
    /// keys, or if the database is away.
    pub async fn remove_account(
        &self,
        actor: &Actor,
        id: AccountId,
        expected: Option<i64>,
    ) -> Result<(), AdministrationError> {
        let mut change = self.begin(actor).await?;
        change.remove_account(id, expected, self.now()).await?;
        let row = audit::plain(audit::Action::Remove, audit::Subject::Account(id));
        self.finish(change, actor, row).await
    }

    /// Checks that an account may own a further key.
    pub(super) async fn check_max_keys(&self, id: AccountId) -> Result<(), AdministrationError> {
        // The change that uses the account reports one that does not exist.
        let Some(Stored { record, .. }) = self.store.account(id).await? else {
            return Ok(());
        };
        let Some(maximum) = record.max_keys else {
            return Ok(());
        };
        if self.store.count_keys(id).await? < i64::from(maximum) {
            return Ok(());
        }
        let message = format!(
            "it owns its maximum of {maximum} keys (remove one, or raise max_keys of \"{}\")",
            record.name
        );
        Err(AdministrationError::invalid("account", id, message))
    }
}
