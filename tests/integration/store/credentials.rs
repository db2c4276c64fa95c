//! Credentials.

use report::{
    policy::{AccountId, Credential, CredentialId, CredentialRecord, UnixTime, Verifier},
    store::{RecordKind, StoreError},
};
use report_proto::{frame::Role, id::Id};

use super::{
    NOW,
    accounts::{account, create},
    open,
};

/// A credential of the account of the master key.
pub(super) fn credential(byte: u8, name: &str) -> CredentialRecord {
    CredentialRecord {
        credential: Credential {
            id: CredentialId(Id([byte; 16])),
            account: AccountId::MASTER,
            name: name.to_owned(),
            role: Role::Server,
            not_before: None,
            expires: None,
            revoked: false,
        },
        verifier: Verifier {
            public_key: [byte; 32],
            welcome_key: [byte ^ 0xff; 32],
        },
    }
}

pub(super) async fn credentials_round_trip(url: String) {
    let store = open(&url).await;
    let mut client = credential(1, "laptop");
    client.credential.role = Role::Client;
    client.credential.not_before = UnixTime::new(NOW);
    client.credential.expires = UnixTime::new(NOW + 1);
    let server = credential(0xff, "home");
    let mut change = store.change().await.unwrap();
    let created = change.create_credential(client.clone()).await.unwrap();
    assert_eq!(created.record, client);
    change.create_credential(server.clone()).await.unwrap();
    change.commit().await.unwrap();

    let id = client.credential.id;
    assert_eq!(store.credential(id).await.unwrap(), Some(created));
    let read = store.credential_by_name(AccountId::MASTER, "home").await;
    assert_eq!(read.unwrap().unwrap().record, server);
    let none = store.credential_by_name(AccountId(77), "home").await;
    assert_eq!(none.unwrap(), None);

    let page = store.credentials(AccountId::MASTER, None, 1).await.unwrap();
    assert_eq!(page.items.len(), 1);
    assert_eq!(page.items[0].record, server);
    assert_eq!(page.next.as_deref(), Some("home"));
    let page = store
        .credentials(AccountId::MASTER, page.next.as_deref(), 1)
        .await
        .unwrap();
    assert_eq!(page.items[0].record, client);
    assert_eq!(page.next, None);
}

pub(super) async fn a_credential_is_revoked(url: String) {
    let store = open(&url).await;
    let record = credential(1, "home");
    let mut change = store.change().await.unwrap();
    let created = change.create_credential(record.clone()).await.unwrap();
    change.commit().await.unwrap();

    let mut revoked = record.credential.clone();
    revoked.name = "old home".to_owned();
    revoked.revoked = true;
    revoked.expires = UnixTime::new(NOW);
    let mut change = store.change().await.unwrap();
    let version = change
        .update_credential(&revoked, Some(created.changed))
        .await
        .unwrap();
    let refused = change
        .update_credential(&revoked, Some(created.changed))
        .await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })));
    change.commit().await.unwrap();
    let read = store.credential(revoked.id).await.unwrap().unwrap();
    assert_eq!((&read.record.credential, read.changed), (&revoked, version));
    assert_eq!(read.record.verifier, record.verifier);
}

pub(super) async fn duplicate_credentials_are_refused(url: String) {
    let store = open(&url).await;
    let ann = create(&store, account("ann")).await.record.id;
    let mut change = store.change().await.unwrap();
    change
        .create_credential(credential(1, "home"))
        .await
        .unwrap();
    // Another account may use the name.
    let mut other = credential(2, "home");
    other.credential.account = ann;
    change.create_credential(other.clone()).await.unwrap();

    let same_id = change.create_credential(credential(1, "work")).await;
    assert!(matches!(
        same_id,
        Err(StoreError::Duplicate { field: "id", .. })
    ));
    let same_name = change.create_credential(credential(3, "home")).await;
    assert!(matches!(
        same_name,
        Err(StoreError::Duplicate { field: "name", .. })
    ));
    let work = credential(4, "work");
    change.create_credential(work.clone()).await.unwrap();
    let mut renamed = work.credential;
    renamed.name = "home".to_owned();
    // The account of an update does not count.
    renamed.account = AccountId(77);
    let same_name = change.update_credential(&renamed, None).await;
    assert!(matches!(
        same_name,
        Err(StoreError::Duplicate { field: "name", .. })
    ));
    let mut orphan = credential(5, "home");
    orphan.credential.account = AccountId(77);
    let no_account = change.create_credential(orphan).await;
    assert!(matches!(
        no_account,
        Err(StoreError::NotFound {
            field: "account",
            kind: RecordKind::Account,
            ..
        })
    ));
    change.commit().await.unwrap();
}

pub(super) async fn a_credential_is_created_again(url: String) {
    let store = open(&url).await;
    let ann = create(&store, account("ann")).await.record.id;
    let mut first = credential(1, "home");
    first.credential.account = ann;
    let mut second = credential(2, "work");
    second.credential.account = ann;
    let mut change = store.change().await.unwrap();
    change.create_credential(first.clone()).await.unwrap();
    change.create_credential(second.clone()).await.unwrap();
    let id = first.credential.id;
    change.remove_credential(id, None, NOW).await.unwrap();
    let absent = change.remove_credential(id, None, NOW).await;
    assert!(matches!(absent, Err(StoreError::NotFound { .. })));
    change.commit().await.unwrap();
    assert_eq!(store.credential(id).await.unwrap(), None);
    let home = store.credential_by_name(ann, "home").await.unwrap();
    assert_eq!(home, None);

    let mut change = store.change().await.unwrap();
    change.create_credential(first.clone()).await.unwrap();
    change.commit().await.unwrap();
    let read = store.credential(id).await.unwrap();
    assert_eq!(read.map(|read| read.record), Some(first));

    // An account takes its credentials with it.
    let mut change = store.change().await.unwrap();
    change.remove_account(ann, None, NOW).await.unwrap();
    change.commit().await.unwrap();
    assert_eq!(store.credential(id).await.unwrap(), None);
    let page = store.credentials(ann, None, 10).await.unwrap();
    assert!(page.items.is_empty());
}
