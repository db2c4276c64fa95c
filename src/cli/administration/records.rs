//! The records that the commands work on: through the API of a running master, or in the database.

use anyhow::bail;
use http::Method;
use serde::{Serialize, de::DeserializeOwned};

use super::api_client::{Answer, ApiClient};
use crate::{
    administration::{
        AccountPatch, AccountQuery, Actor, Administration, CredentialPatch, CredentialQuery,
        KeyPatch, KeyQuery, NewAccount, NewCredential, NewKey, NewToken, RecordPage, RelayPatch,
        RotateCredential, RotateKey, RotateToken, RotatedCredential, RotatedKey, RotatedToken,
        TokenPatch, TokenQuery,
    },
    policy::{
        Account, AccountId, Credential, CredentialId, RelayPolicy, ServiceKey, Token, TokenId,
    },
    store::Stored,
};
use report_proto::id::Id;

/// A body without fields.
#[derive(Serialize)]
struct Nothing {}

/// The records, behind a master or in the database. All writes name the version of the record that
/// the command has read.
#[derive(Debug)]
pub(super) enum Records {
    /// Through a running master.
    Master(ApiClient),
    /// In the database.
    Store(Administration),
}

impl Records {
    /// Closes the connections to the database.
    pub(super) async fn close(&self) {
        if let Records::Store(store) = self {
            store.store().close().await;
        }
    }

    /// Returns the client of a running master, for what only it has.
    pub(super) fn master(&self) -> anyhow::Result<&ApiClient> {
        match self {
            Records::Master(api) => Ok(api),
            Records::Store(_) => bail!("only a running master has these values, not a database"),
        }
    }

    /// Reads values that only a running master has.
    pub(super) async fn live(&self, path: &str, query: &impl Serialize) -> anyhow::Result<Answer> {
        self.master()?.get(path, query).await
    }

    pub(super) async fn accounts(
        &self,
        query: &AccountQuery,
    ) -> anyhow::Result<RecordPage<Account>> {
        match self {
            Records::Master(api) => api.get("/v1/accounts", query).await?.page(),
            Records::Store(store) => Ok(store.accounts(query).await?),
        }
    }

    pub(super) async fn account(&self, id: AccountId) -> anyhow::Result<Stored<Account>> {
        match self {
            Records::Master(api) => read(api, &format!("/v1/accounts/{id}")).await,
            Records::Store(store) => Ok(store.account(id).await?),
        }
    }

    pub(super) async fn add_account(&self, new: NewAccount) -> anyhow::Result<Stored<Account>> {
        match self {
            Records::Master(api) => create(api, "/v1/accounts", &new).await,
            Records::Store(store) => Ok(store.add_account(&Actor::command_line(), new).await?),
        }
    }

    pub(super) async fn set_account(
        &self,
        id: AccountId,
        patch: AccountPatch,
        version: i64,
    ) -> anyhow::Result<Stored<Account>> {
        match self {
            Records::Master(api) => {
                change(api, &format!("/v1/accounts/{id}"), version, &patch).await
            }
            Records::Store(store) => {
                let actor = Actor::command_line();
                Ok(store.set_account(&actor, id, patch, Some(version)).await?)
            }
        }
    }

    pub(super) async fn remove_account(&self, id: AccountId, version: i64) -> anyhow::Result<()> {
        match self {
            Records::Master(api) => api.remove(&format!("/v1/accounts/{id}"), version).await,
            Records::Store(store) => {
                let actor = Actor::command_line();
                Ok(store.remove_account(&actor, id, Some(version)).await?)
            }
        }
    }

    pub(super) async fn credentials(
        &self,
        account: AccountId,
        query: &CredentialQuery,
    ) -> anyhow::Result<RecordPage<Credential>> {
        match self {
            Records::Master(api) => {
                let path = format!("/v1/accounts/{account}/credentials");
                api.get(&path, query).await?.page()
            }
            Records::Store(store) => Ok(store.credentials(account, query).await?),
        }
    }

    pub(super) async fn credential(&self, id: CredentialId) -> anyhow::Result<Stored<Credential>> {
        match self {
            Records::Master(api) => read(api, &credential_path(id)).await,
            Records::Store(store) => Ok(store.credential(id).await?),
        }
    }

    pub(super) async fn add_credential(
        &self,
        account: AccountId,
        new: NewCredential,
    ) -> anyhow::Result<Stored<Credential>> {
        match self {
            Records::Master(api) => {
                create(api, &format!("/v1/accounts/{account}/credentials"), &new).await
            }
            Records::Store(store) => {
                let actor = Actor::command_line();
                Ok(store.add_credential(&actor, account, new).await?)
            }
        }
    }

    pub(super) async fn set_credential(
        &self,
        id: CredentialId,
        patch: CredentialPatch,
        version: i64,
    ) -> anyhow::Result<Stored<Credential>> {
        match self {
            Records::Master(api) => change(api, &credential_path(id), version, &patch).await,
            Records::Store(store) => {
                let actor = Actor::command_line();
                Ok(store
                    .set_credential(&actor, id, patch, Some(version))
                    .await?)
            }
        }
    }

    pub(super) async fn rotate_credential(
        &self,
        id: CredentialId,
        rotation: RotateCredential,
        version: i64,
    ) -> anyhow::Result<RotatedCredential> {
        match self {
            Records::Master(api) => {
                let path = format!("{}/rotate", credential_path(id));
                post(api, &path, version, &rotation).await
            }
            Records::Store(store) => {
                let actor = Actor::command_line();
                let rotated = store.rotate_credential(&actor, id, rotation, Some(version));
                Ok(rotated.await?)
            }
        }
    }

    pub(super) async fn revoke_credential(
        &self,
        id: CredentialId,
        version: i64,
    ) -> anyhow::Result<Stored<Credential>> {
        match self {
            Records::Master(api) => {
                revoke(api, &format!("{}/revoke", credential_path(id)), version).await
            }
            Records::Store(store) => {
                let actor = Actor::command_line();
                Ok(store.revoke_credential(&actor, id, Some(version)).await?)
            }
        }
    }

    pub(super) async fn remove_credential(
        &self,
        id: CredentialId,
        version: i64,
    ) -> anyhow::Result<()> {
        match self {
            Records::Master(api) => api.remove(&credential_path(id), version).await,
            Records::Store(store) => {
                let actor = Actor::command_line();
                Ok(store.remove_credential(&actor, id, Some(version)).await?)
            }
        }
    }

    pub(super) async fn keys(&self, query: &KeyQuery) -> anyhow::Result<RecordPage<ServiceKey>> {
        match self {
            Records::Master(api) => api.get("/v1/keys", query).await?.page(),
            Records::Store(store) => Ok(store.keys(query).await?),
        }
    }

    pub(super) async fn key(&self, id: Id) -> anyhow::Result<Stored<ServiceKey>> {
        match self {
            Records::Master(api) => read(api, &format!("/v1/keys/{id}")).await,
            Records::Store(store) => Ok(store.key(id).await?),
        }
    }

    pub(super) async fn add_key(&self, new: NewKey) -> anyhow::Result<Stored<ServiceKey>> {
        match self {
            Records::Master(api) => create(api, "/v1/keys", &new).await,
            Records::Store(store) => Ok(store.add_key(&Actor::command_line(), new).await?),
        }
    }

    pub(super) async fn set_key(
        &self,
        id: Id,
        patch: KeyPatch,
        version: i64,
    ) -> anyhow::Result<Stored<ServiceKey>> {
        match self {
            Records::Master(api) => change(api, &format!("/v1/keys/{id}"), version, &patch).await,
            Records::Store(store) => {
                let actor = Actor::command_line();
                Ok(store.set_key(&actor, id, patch, Some(version)).await?)
            }
        }
    }

    pub(super) async fn rotate_key(
        &self,
        id: Id,
        rotation: RotateKey,
        version: i64,
    ) -> anyhow::Result<RotatedKey> {
        match self {
            Records::Master(api) => {
                post(api, &format!("/v1/keys/{id}/rotate"), version, &rotation).await
            }
            Records::Store(store) => {
                let actor = Actor::command_line();
                Ok(store
                    .rotate_key(&actor, id, rotation, Some(version))
                    .await?)
            }
        }
    }

    pub(super) async fn remove_key(&self, id: Id, version: i64) -> anyhow::Result<()> {
        match self {
            Records::Master(api) => api.remove(&format!("/v1/keys/{id}"), version).await,
            Records::Store(store) => {
                let actor = Actor::command_line();
                Ok(store.remove_key(&actor, id, Some(version)).await?)
            }
        }
    }

    pub(super) async fn tokens(&self, query: &TokenQuery) -> anyhow::Result<RecordPage<Token>> {
        match self {
            Records::Master(api) => api.get("/v1/tokens", query).await?.page(),
            Records::Store(store) => Ok(store.tokens(query).await?),
        }
    }

    pub(super) async fn token(&self, id: TokenId) -> anyhow::Result<Stored<Token>> {
        match self {
            Records::Master(api) => read(api, &format!("/v1/tokens/{id}")).await,
            Records::Store(store) => Ok(store.token(id).await?),
        }
    }

    pub(super) async fn add_token(&self, new: NewToken) -> anyhow::Result<Stored<Token>> {
        match self {
            Records::Master(api) => create(api, "/v1/tokens", &new).await,
            Records::Store(store) => Ok(store.add_token(&Actor::command_line(), new).await?),
        }
    }

    pub(super) async fn set_token(
        &self,
        id: TokenId,
        patch: TokenPatch,
        version: i64,
    ) -> anyhow::Result<Stored<Token>> {
        match self {
            Records::Master(api) => change(api, &format!("/v1/tokens/{id}"), version, &patch).await,
            Records::Store(store) => {
                let actor = Actor::command_line();
                Ok(store.set_token(&actor, id, patch, Some(version)).await?)
            }
        }
    }

    pub(super) async fn rotate_token(
        &self,
        id: TokenId,
        rotation: RotateToken,
        version: i64,
    ) -> anyhow::Result<RotatedToken> {
        match self {
            Records::Master(api) => {
                post(api, &format!("/v1/tokens/{id}/rotate"), version, &rotation).await
            }
            Records::Store(store) => {
                let actor = Actor::command_line();
                Ok(store
                    .rotate_token(&actor, id, rotation, Some(version))
                    .await?)
            }
        }
    }

    pub(super) async fn revoke_token(
        &self,
        id: TokenId,
        version: i64,
    ) -> anyhow::Result<Stored<Token>> {
        match self {
            Records::Master(api) => revoke(api, &format!("/v1/tokens/{id}/revoke"), version).await,
            Records::Store(store) => {
                let actor = Actor::command_line();
                Ok(store.revoke_token(&actor, id, Some(version)).await?)
            }
        }
    }

    pub(super) async fn remove_token(&self, id: TokenId, version: i64) -> anyhow::Result<()> {
        match self {
            Records::Master(api) => api.remove(&format!("/v1/tokens/{id}"), version).await,
            Records::Store(store) => {
                let actor = Actor::command_line();
                Ok(store.remove_token(&actor, id, Some(version)).await?)
            }
        }
    }

    pub(super) async fn relay(&self) -> anyhow::Result<Stored<RelayPolicy>> {
        match self {
            Records::Master(api) => read(api, "/v1/relay").await,
            Records::Store(store) => Ok(store.relay().await?),
        }
    }

    pub(super) async fn set_relay(
        &self,
        patch: RelayPatch,
        version: i64,
    ) -> anyhow::Result<Stored<RelayPolicy>> {
        match self {
            Records::Master(api) => change(api, "/v1/relay", version, &patch).await,
            Records::Store(store) => {
                let actor = Actor::command_line();
                Ok(store.set_relay(&actor, patch, Some(version)).await?)
            }
        }
    }
}

fn credential_path(id: CredentialId) -> String {
    format!("/v1/credentials/{id}")
}

async fn read<T: DeserializeOwned>(api: &ApiClient, path: &str) -> anyhow::Result<Stored<T>> {
    api.get(path, &Nothing {}).await?.record()
}

async fn create<T: DeserializeOwned>(
    api: &ApiClient,
    path: &str,
    new: &impl Serialize,
) -> anyhow::Result<Stored<T>> {
    api.write(Method::POST, path, None, new).await?.record()
}

async fn change<T: DeserializeOwned>(
    api: &ApiClient,
    path: &str,
    version: i64,
    patch: &impl Serialize,
) -> anyhow::Result<Stored<T>> {
    let changed = api.write(Method::PATCH, path, Some(version), patch).await;
    changed?.record()
}

async fn revoke<T: DeserializeOwned>(
    api: &ApiClient,
    path: &str,
    version: i64,
) -> anyhow::Result<Stored<T>> {
    api.write(Method::POST, path, Some(version), &Nothing {})
        .await?
        .record()
}

async fn post<T: DeserializeOwned>(
    api: &ApiClient,
    path: &str,
    version: i64,
    body: &impl Serialize,
) -> anyhow::Result<T> {
    api.write(Method::POST, path, Some(version), body)
        .await?
        .json()
}
