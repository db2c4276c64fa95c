//! Operations on the credentials of accounts.

use serde::{Deserialize, Serialize};

use super::{
    Actor, Administration, AdministrationError, CredentialQuery, RecordPage, VerifierText, audit,
    check,
    lists::{map_page, name_after, name_position, size_of, whole},
    patch::{earlier, next_names, present, put},
};
use crate::{
    policy::{AccountId, Credential, CredentialId, CredentialRecord, UnixTime},
    store::{RecordKind, Stored},
};
use report_proto::frame::Role;

/// A new credential of an account.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCredential {
    /// The name, which no other credential of the account has.
    pub name: String,
    /// The role of the links that it admits: `server` or `client`.
    #[schema(value_type = String)]
    pub role: Role,
    /// The verifier, as `report keygen --credential` prints it. The secret stays with its owner.
    pub verifier: VerifierText,
    /// The time from which it is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<UnixTime>,
    /// The time until which it is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<UnixTime>,
}

impl NewCredential {
    fn into_record(self, account: AccountId) -> CredentialRecord {
        CredentialRecord {
            credential: Credential {
                id: CredentialId(self.verifier.id()),
                account,
                name: self.name,
                role: self.role,
                not_before: self.not_before,
                expires: self.expires,
                revoked: false,
            },
            verifier: self.verifier.verifier(),
        }
    }
}

/// The fields of a credential to change. Its role and its verifier cannot change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CredentialPatch {
    /// The name, which no other credential of the account has.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The time from which it is valid.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<UnixTime>)]
    pub not_before: Option<Option<UnixTime>>,
    /// The time until which it is valid.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<UnixTime>)]
    pub expires: Option<Option<UnixTime>>,
}

impl CredentialPatch {
    fn apply(self, credential: &mut Credential) {
        put(&mut credential.name, self.name);
        put(&mut credential.not_before, self.not_before);
        put(&mut credential.expires, self.expires);
    }
}

/// A second credential, which replaces the present one after some time.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateCredential {
    /// The verifier of the new credential.
    pub verifier: VerifierText,
    /// The name of the new credential. By default that of the present one with a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The time until which the new credential is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<UnixTime>,
    /// The time until which the present credential stays valid beside the new one.
    pub old_expires: UnixTime,
}

/// The two credentials of a rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RotatedCredential {
    /// The new credential.
    pub new: Credential,
    /// The present credential with its end.
    pub old: Credential,
}

impl Administration {
    /// Returns a page of the credentials of an account.
    ///
    /// # Errors
    /// If the account does not exist, if the query is invalid, or if the database is away.
    pub async fn credentials(
        &self,
        account: AccountId,
        query: &CredentialQuery,
    ) -> Result<RecordPage<Credential>, AdministrationError> {
        self.account(account).await?;
        let size = size_of(query.size)?;
        if let Some(name) = &query.name {
            let found = self.store.credential_by_name(account, name).await?;
            return Ok(whole(found.map(without_verifier).into_iter().collect()));
        }
        let after = name_after(query.after.as_deref())?;
        let page = self
            .store
            .credentials(account, after.as_deref(), size)
            .await?;
        Ok(map_page(
            page,
            |record| record.credential,
            |name| name_position(&name),
        ))
    }

    /// Returns a credential.
    ///
    /// # Errors
    /// If it does not exist, or the database is away.
    pub async fn credential(
        &self,
        id: CredentialId,
    ) -> Result<Stored<Credential>, AdministrationError> {
        let found = self.store.credential(id).await?.map(without_verifier);
        found.ok_or_else(|| AdministrationError::not_found(RecordKind::Credential, id))
    }

    /// Adds a credential to an account.
    ///
    /// # Errors
    /// If the actor may not do it, if the account does not exist, if a value is invalid, if the
    /// credential exists, if another one of the account has the name, or if the database is away.
    pub async fn add_credential(
        &self,
        actor: &Actor,
        account: AccountId,
        new: NewCredential,
    ) -> Result<Stored<Credential>, AdministrationError> {
        let record = new.into_record(account);
        check(record.credential.problems())?;
        let mut change = self.begin(actor).await?;
        let stored = without_verifier(change.create_credential(record).await?);
        let subject = audit::Subject::Credential(stored.record.id);
        self.finish_addition(change, actor, subject, stored).await
    }

    /// Changes fields of a credential. `expected` is the version that the caller has read.
    ///
    /// # Errors
    /// If the actor may not do it, if the credential does not exist or has another version, if a
    /// value is invalid, if another one of the account has the name, or if the database is away.
    pub async fn set_credential(
        &self,
        actor: &Actor,
        id: CredentialId,
        patch: CredentialPatch,
        expected: Option<i64>,
    ) -> Result<Stored<Credential>, AdministrationError> {
        let row = audit::row(audit::Action::Set, audit::Subject::Credential(id), &patch);
        self.update_credential(actor, id, expected, row, |credential| {
            patch.apply(credential)
        })
        .await
    }

    /// Revokes a credential for good. `expected` is the version that the caller has read.
    ///
    /// # Errors
    /// If the actor may not do it, if the credential does not exist or has another version, or if
    /// the database is away.
    pub async fn revoke_credential(
        &self,
        actor: &Actor,
        id: CredentialId,
        expected: Option<i64>,
    ) -> Result<Stored<Credential>, AdministrationError> {
        let row = audit::plain(audit::Action::Revoke, audit::Subject::Credential(id));
        self.update_credential(actor, id, expected, row, |credential| {
            credential.revoked = true;
        })
        .await
    }

    async fn update_credential(
        &self,
        actor: &Actor,
        id: CredentialId,
        expected: Option<i64>,
        row: audit::Row,
        edit: impl FnOnce(&mut Credential),
    ) -> Result<Stored<Credential>, AdministrationError> {
        let mut change = self.begin(actor).await?;
        let Stored {
            mut record,
            changed,
        } = self.credential(id).await?;
        edit(&mut record);
        check(record.problems())?;
        let expected = expected.or(Some(changed));
        let changed = change.update_credential(&record, expected).await?;
        self.finish(change, actor, row).await?;
        Ok(Stored { record, changed })
    }

    /// Adds a second credential with the account and the role of a present one, which stays valid
    /// until a given time at the latest. Roles can change to the new one in between. `expected` is
    /// the version of the present one that the caller has read.
    ///
    /// # Errors
    /// If the actor may not do it, if the credential does not exist, is revoked or has another
    /// version, if a value is invalid or exists, or if the database is away.
    pub async fn rotate_credential(
        &self,
        actor: &Actor,
        id: CredentialId,
        rotation: RotateCredential,
        expected: Option<i64>,
    ) -> Result<RotatedCredential, AdministrationError> {
        let mut change = self.begin(actor).await?;
        let Stored {
            record: mut old,
            changed,
        } = self.credential(id).await?;
        if old.revoked {
            return Err(AdministrationError::revoked(RecordKind::Credential, id));
        }
        let name = match rotation.name {
            Some(name) => name,
            None => self.free_credential_name(&old).await?,
        };
        let new = NewCredential {
            name,
            role: old.role,
            verifier: rotation.verifier,
            not_before: None,
            expires: rotation.expires,
        };
        let new = new.into_record(old.account);
        check(new.credential.problems())?;
        old.expires = Some(earlier(old.expires, rotation.old_expires));
        check(old.problems())?;
        let expected = expected.or(Some(changed));
        change.update_credential(&old, expected).await?;
        let new = without_verifier(change.create_credential(new).await?).record;
        let rotated = RotatedCredential { new, old };
        let row = audit::row(
            audit::Action::Rotate,
            audit::Subject::Credential(id),
            &rotated,
        );
        self.finish(change, actor, row).await?;
        Ok(rotated)
    }

    /// Returns the next free name with a number.
    async fn free_credential_name(&self, old: &Credential) -> Result<String, AdministrationError> {
        for name in next_names(&old.name) {
            let found = self.store.credential_by_name(old.account, &name).await?;
            if found.is_none() {
                return Ok(name);
            }
        }
        Err(AdministrationError::no_free_name(&old.name))
    }

    /// Removes a credential. `expected` is the version that the caller has read.
    ///
    /// # Errors
    /// If the actor may not do it, if the credential does not exist or has another version, or if
    /// the database is away.
    pub async fn remove_credential(
        &self,
        actor: &Actor,
        id: CredentialId,
        expected: Option<i64>,
    ) -> Result<(), AdministrationError> {
        let mut change = self.begin(actor).await?;
        change.remove_credential(id, expected, self.now()).await?;
        let row = audit::plain(audit::Action::Remove, audit::Subject::Credential(id));
        self.finish(change, actor, row).await
    }
}

/// Returns the part of a record that is no secret.
fn without_verifier(stored: Stored<CredentialRecord>) -> Stored<Credential> {
    stored.map(|record| record.credential)
}
