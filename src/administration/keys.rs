//! Operations on service keys.

use serde::{Deserialize, Serialize};

use super::{
    Actor, Administration, AdministrationError, KeyQuery, RecordPage, audit, check,
    lists::{key_after, key_position, map_page, size_of, whole},
    patch::{earlier, enabled, present, put},
};
use crate::{
    policy::{AccountId, Limits, Networks, ServiceKey, UnixTime},
    store::{RecordKind, Stored},
};
use report_proto::id::Id;

/// A new service key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// The key id: 32 hexadecimal digits, which are derived from the port key.
    #[schema(value_type = String)]
    pub id: Id,
    /// The label for people and for metrics.
    pub label: String,
    /// The account that owns the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    /// Whether it may be registered and attached to. By default it may.
    #[serde(default = "enabled")]
    pub enabled: bool,
    /// The time from which it may be registered and attached to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<UnixTime>,
    /// The time until which it may be registered and attached to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<UnixTime>,
    /// Whether clients need a credential.
    #[serde(default)]
    pub needs_credential: bool,
    /// The networks from which servers may register it. Empty for all networks.
    #[serde(default)]
    pub register_networks: Networks,
    /// The networks from which clients may attach to it. Empty for all networks.
    #[serde(default)]
    pub attach_networks: Networks,
    /// The limits of its tunnels together.
    #[serde(default)]
    pub limits: Limits,
    /// A note for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl NewKey {
    /// Creates an enabled key without an owner and without limits.
    #[must_use]
    pub fn new(id: Id, label: impl Into<String>) -> Self {
        NewKey {
            id,
            label: label.into(),
            account: None,
            enabled: true,
            not_before: None,
            expires: None,
            needs_credential: false,
            register_networks: Networks::default(),
            attach_networks: Networks::default(),
            limits: Limits::default(),
            note: String::new(),
        }
    }

    fn into_record(self) -> ServiceKey {
        ServiceKey {
            id: self.id,
            label: self.label,
            account: self.account,
            enabled: self.enabled,
            not_before: self.not_before,
            expires: self.expires,
            needs_credential: self.needs_credential,
            register_networks: self.register_networks,
            attach_networks: self.attach_networks,
            limits: self.limits,
            note: self.note,
        }
    }
}

/// The fields of a key to change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeyPatch {
    /// The label for people and for metrics.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The account that owns the key.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<AccountId>)]
    pub account: Option<Option<AccountId>>,
    /// Whether it may be registered and attached to.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// The time from which it may be registered and attached to.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<UnixTime>)]
    pub not_before: Option<Option<UnixTime>>,
    /// The time until which it may be registered and attached to.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<UnixTime>)]
    pub expires: Option<Option<UnixTime>>,
    /// Whether clients need a credential.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub needs_credential: Option<bool>,
    /// The networks from which servers may register it. Empty for all networks.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub register_networks: Option<Networks>,
    /// The networks from which clients may attach to it. Empty for all networks.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub attach_networks: Option<Networks>,
    /// The limits of its tunnels together. They replace all limits of the key.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// A note for people.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl KeyPatch {
    fn apply(self, key: &mut ServiceKey) {
        put(&mut key.label, self.label);
        put(&mut key.account, self.account);
        put(&mut key.enabled, self.enabled);
        put(&mut key.not_before, self.not_before);
        put(&mut key.expires, self.expires);
        put(&mut key.needs_credential, self.needs_credential);
        put(&mut key.register_networks, self.register_networks);
        put(&mut key.attach_networks, self.attach_networks);
        put(&mut key.limits, self.limits);
        put(&mut key.note, self.note);
    }
}

/// A second key, which replaces the present one after some time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateKey {
    /// The id of the new key.
    #[schema(value_type = String)]
    pub new_id: Id,
    /// The label of the new key. By default that of the present one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The time until which the new key is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<UnixTime>,
    /// The time until which the present key stays valid beside the new one.
    pub old_expires: UnixTime,
}

/// The two keys of a rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RotatedKey {
    /// The new key.
    pub new: ServiceKey,
    /// The present key with its end.
    pub old: ServiceKey,
}

impl Administration {
    /// Returns a page of keys.
    ///
    /// # Errors
    /// If the query is invalid, or the database is away.
    pub async fn keys(
        &self,
        query: &KeyQuery,
    ) -> Result<RecordPage<ServiceKey>, AdministrationError> {
        let size = size_of(query.size)?;
        if let Some(label) = &query.label {
            let mut found = self.store.keys_by_label(label).await?;
            if query.account.is_some() {
                found.retain(|key| key.record.account == query.account);
            }
            return Ok(whole(found));
        }
        let after = key_after(query.after.as_deref())?;
        let page = self.store.keys(query.account, after.as_ref(), size).await?;
        Ok(map_page(page, |key| key, key_position))
    }

    /// Returns a key.
    ///
    /// # Errors
    /// If it does not exist, or the database is away.
    pub async fn key(&self, id: Id) -> Result<Stored<ServiceKey>, AdministrationError> {
        let found = self.store.key(id).await?;
        found.ok_or_else(|| AdministrationError::not_found(RecordKind::Key, id))
    }

    /// Adds a key.
    ///
    /// # Errors
    /// If the actor may not do it, if a value is invalid, if the key exists, if its account does not
    /// exist or owns its most keys, or if the database is away.
    pub async fn add_key(
        &self,
        actor: &Actor,
        new: NewKey,
    ) -> Result<Stored<ServiceKey>, AdministrationError> {
        let key = new.into_record();
        check(key.problems())?;
        let mut change = self.begin(actor).await?;
        if let Some(account) = key.account {
            self.check_max_keys(account).await?;
        }
        let stored = change.create_key(key).await?;
        let subject = audit::Subject::Key(stored.record.id);
        self.finish_addition(change, actor, subject, stored).await
    }

    /// Changes fields of a key. `expected` is the version that the caller has read.
    ///
    /// # Errors
    /// If the actor may not do it, if the key does not exist or has another version, if a value is
    /// invalid, if its account does not exist or owns its most keys, or if the database is away.
    pub async fn set_key(
        &self,
        actor: &Actor,
        id: Id,
        patch: KeyPatch,
        expected: Option<i64>,
    ) -> Result<Stored<ServiceKey>, AdministrationError> {
        let mut change = self.begin(actor).await?;
        let Stored {
            mut record,
            changed,
        } = self.key(id).await?;
        let owner = record.account;
        let row = audit::row(audit::Action::Set, audit::Subject::Key(id), &patch);
        patch.apply(&mut record);
        check(record.problems())?;
        if let Some(account) = record.account.filter(|_| record.account != owner) {
            self.check_max_keys(account).await?;
        }
        let expected = expected.or(Some(changed));
        let stored = change.update_key(record, expected).await?;
        self.finish(change, actor, row).await?;
        Ok(stored)
    }

    /// Adds a second key with the policy of a present one, which stays valid until a given time at
    /// the latest. `expected` is the version of the present one that the caller has read.
    ///
    /// # Errors
    /// If the actor may not do it, if the present key does not exist or has another version, if the
    /// new one exists, if a value is invalid, if the account owns its most keys, or if the database
    /// is away.
    pub async fn rotate_key(
        &self,
        actor: &Actor,
        id: Id,
        rotation: RotateKey,
        expected: Option<i64>,
    ) -> Result<RotatedKey, AdministrationError> {
        let mut change = self.begin(actor).await?;
        let Stored {
            record: mut old,
            changed,
        } = self.key(id).await?;
        let mut new = ServiceKey {
            id: rotation.new_id,
            not_before: None,
            expires: rotation.expires,
            ..old.clone()
        };
        put(&mut new.label, rotation.label);
        check(new.problems())?;
        old.expires = Some(earlier(old.expires, rotation.old_expires));
        check(old.problems())?;
        if let Some(account) = old.account {
            self.check_max_keys(account).await?;
        }
        let expected = expected.or(Some(changed));
        let old = change.update_key(old, expected).await?.record;
        let new = change.create_key(new).await?.record;
        let rotated = RotatedKey { new, old };
        let row = audit::row(audit::Action::Rotate, audit::Subject::Key(id), &rotated);
        self.finish(change, actor, row).await?;
        Ok(rotated)
    }

    /// Removes a key. `expected` is the version that the caller has read.
    ///
    /// # Errors
    /// If the actor may not do it, if the key does not exist or has another version, or if the
    /// database is away.
    pub async fn remove_key(
        &self,
        actor: &Actor,
        id: Id,
        expected: Option<i64>,
    ) -> Result<(), AdministrationError> {
        let mut change = self.begin(actor).await?;
        change.remove_key(id, expected, self.now()).await?;
        let row = audit::plain(audit::Action::Remove, audit::Subject::Key(id));
        self.finish(change, actor, row).await
    }
}
