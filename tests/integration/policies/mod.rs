//! Policies of a database at running masters: changes act on links, registrations and tunnels, and
//! an absent database disturbs nothing.

mod changes;
mod outages;
mod two_masters;

use std::time::Duration;

use report::{
    policy::{self, Account, AccountId, CredentialId, CredentialRecord, ServiceKey, Verifier},
    store::{Change, Store, StoreError, StoreUrl},
};
use report_proto::{
    crypto::{Credential, CredentialSecret, PortKeys},
    frame::Role,
};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::support::{bytes, tunnel::Port};

/// How soon a change acts at every master that shares the database.
const ACTS_WITHIN: Duration = Duration::from_secs(1);

/// The operator, who changes the records of a database.
struct Operator {
    runtime: Runtime,
    store: Store,
}

/// A credential and its secret.
struct NewCredential {
    record: CredentialRecord,
    secret: String,
}

impl NewCredential {
    /// The fields of a role with this credential in place of the master key.
    fn fields(&self) -> Value {
        json!({"master_key": null, "credential": self.secret})
    }
}

impl Operator {
    #[track_caller]
    fn open(url: &str) -> Operator {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let url: StoreUrl = url.parse().expect("an address");
        let store = runtime.block_on(Store::open(url)).expect("it opens");
        Operator { runtime, store }
    }

    /// Makes a change and commits it.
    #[track_caller]
    fn change<T>(&self, make: impl AsyncFnOnce(&mut Change<'_>) -> Result<T, StoreError>) -> T {
        let changed = self.runtime.block_on(async {
            let mut change = self.store.change().await?;
            let made = make(&mut change).await?;
            change.commit().await?;
            Ok::<T, StoreError>(made)
        });
        changed.expect("the change is committed")
    }

    fn account(&self, name: &str) -> Account {
        let account = Account::new(AccountId(0), name);
        let stored = self.change(async |change| change.create_account(account).await);
        stored.record
    }

    fn credential(&self, account: &Account, role: Role) -> NewCredential {
        let mut secret = [0; 32];
        secret.copy_from_slice(&bytes::random(fastrand::u64(..), 32));
        let secret = CredentialSecret::new(secret);
        let credential = Credential::derive(&secret);
        let verifier = credential.verifier();
        let (public_key, welcome_key) = verifier.parts();
        let record = CredentialRecord {
            credential: policy::Credential {
                id: CredentialId(credential.id()),
                account: account.id,
                name: format!("a {role}"),
                role,
                not_before: None,
                expires: None,
                revoked: false,
            },
            verifier: Verifier {
                public_key: *public_key,
                welcome_key: *welcome_key,
            },
        };
        let stored = self.change(async |change| change.create_credential(record).await);
        NewCredential {
            record: stored.record,
            secret: secret.to_text().to_string(),
        }
    }

    /// Adds the key of a port, which belongs to an account.
    fn key(&self, port: &Port, owner: &Account) -> ServiceKey {
        let mut key = ServiceKey::new(PortKeys::derive(&port.key).id, port.mark.as_str());
        key.account = Some(owner.id);
        let stored = self.change(async |change| change.create_key(key).await);
        stored.record
    }

    fn set_key(&self, key: &ServiceKey, change_fields: impl FnOnce(&mut ServiceKey)) {
        let mut key = key.clone();
        change_fields(&mut key);
        self.change(async |change| change.update_key(key, None).await);
    }

    fn revoke(&self, credential: &NewCredential) {
        let mut revoked = credential.record.credential.clone();
        revoked.revoked = true;
        self.change(async |change| change.update_credential(&revoked, None).await);
    }
}
