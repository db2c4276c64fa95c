//! Tests of keys: owners, their numbers, and rotation.

use super::*;
use crate::policy::{AccountId, Limits, UnixTime};
use report_proto::id::Id;

fn owned(byte: u8, account: AccountId) -> NewKey {
    NewKey {
        account: Some(account),
        ..NewKey::new(Id([byte; 16]), "ssh")
    }
}

impl Bench {
    async fn add_key(&self, key: NewKey) -> Result<Id, AdministrationError> {
        let added = self.administration.add_key(&self.actor, key).await?;
        Ok(added.record.id)
    }

    async fn set_max_keys(&self, account: AccountId, max: u32) -> Result<(), AdministrationError> {
        let patch = AccountPatch {
            max_keys: Some(Some(max)),
            ..AccountPatch::default()
        };
        let set = self
            .administration
            .set_account(&self.actor, account, patch, None);
        set.await.map(drop)
    }
}

#[tokio::test]
async fn keys_are_unique_and_have_an_existing_owner() {
    let bench = Bench::new().await;
    let account = bench.account("anna").await;
    let id = bench.add_key(owned(1, account)).await.unwrap();
    let body = assert_refused(
        bench.add_key(owned(1, account)).await,
        ErrorCode::Duplicate,
        Some("id"),
    );
    assert_eq!(body.value, Some(id.to_string()));
    assert_refused(
        bench.add_key(owned(2, AccountId(99))).await,
        ErrorCode::Invalid,
        Some("account"),
    );
    let patch = KeyPatch {
        account: Some(Some(AccountId(99))),
        ..KeyPatch::default()
    };
    let set = bench.administration.set_key(&bench.actor, id, patch, None);
    assert_refused(set.await, ErrorCode::Invalid, Some("account"));
    let patch = KeyPatch {
        account: Some(None),
        needs_credential: Some(true),
        ..KeyPatch::default()
    };
    let set = bench.administration.set_key(&bench.actor, id, patch, None);
    let key = set.await.unwrap().record;
    assert_eq!((key.account, key.needs_credential), (None, true));
    assert_eq!(key.label, "ssh");
}

#[tokio::test]
async fn an_account_owns_its_most_keys_at_most() {
    let bench = Bench::new().await;
    let account = bench.account("anna").await;
    bench.set_max_keys(account, 1).await.unwrap();
    bench.add_key(owned(1, account)).await.unwrap();
    let body = assert_refused(
        bench.add_key(owned(2, account)).await,
        ErrorCode::Invalid,
        Some("account"),
    );
    assert!(
        body.message.contains("maximum of 1 keys"),
        "{}",
        body.message
    );
    // A key that gets the owner counts too, and one that has it does not count again.
    let other = bench
        .add_key(NewKey::new(Id([3; 16]), "web"))
        .await
        .unwrap();
    let give = || KeyPatch {
        account: Some(Some(account)),
        ..KeyPatch::default()
    };
    let given = bench
        .administration
        .set_key(&bench.actor, other, give(), None);
    assert_refused(given.await, ErrorCode::Invalid, Some("account"));
    let kept = bench
        .administration
        .set_key(&bench.actor, Id([1; 16]), give(), None);
    kept.await.unwrap();
    bench.set_max_keys(account, 2).await.unwrap();
    let given = bench
        .administration
        .set_key(&bench.actor, other, give(), None);
    given.await.unwrap();
    let body = assert_refused(
        bench.set_max_keys(account, 1).await,
        ErrorCode::Invalid,
        Some("max_keys"),
    );
    assert_eq!(body.value.as_deref(), Some("1"));
    // A removed key does not count.
    let removed = bench.administration.remove_key(&bench.actor, other, None);
    removed.await.unwrap();
    bench.set_max_keys(account, 1).await.unwrap();
}

#[tokio::test]
async fn a_rotated_key_has_the_policy_of_the_old_one() {
    let bench = Bench::new().await;
    let account = bench.account("anna").await;
    let limits = Limits {
        weight: 7,
        ..Limits::default()
    };
    let key = NewKey {
        limits: limits.clone(),
        needs_credential: true,
        ..owned(1, account)
    };
    let id = bench.add_key(key).await.unwrap();
    let rotation = |new_id, label: Option<&str>| RotateKey {
        new_id,
        label: label.map(str::to_owned),
        expires: None,
        old_expires: UnixTime::new(NOW + 100).unwrap(),
    };
    let rotate = |rotation| {
        bench
            .administration
            .rotate_key(&bench.actor, id, rotation, None)
    };
    let rotated = rotate(rotation(Id([2; 16]), None)).await.unwrap();
    let RotatedKey { new, old } = rotated;
    assert_eq!(old.expires, UnixTime::new(NOW + 100));
    assert_eq!((new.account, new.label.as_str()), (Some(account), "ssh"));
    assert_eq!(
        (&new.limits, new.needs_credential, new.expires),
        (&limits, true, None)
    );
    for key in [&new, &old] {
        assert_eq!(bench.administration.key(key.id).await.unwrap().record, *key);
    }
    // The new id must be another one, and free.
    let same = rotate(rotation(id, None)).await;
    assert_refused(same, ErrorCode::Duplicate, Some("id"));
    let named = rotate(rotation(Id([3; 16]), Some("ssh 2"))).await.unwrap();
    assert_eq!(named.new.label, "ssh 2");
}

#[tokio::test]
async fn lists_are_in_the_order_of_labels_and_by_owner() {
    let bench = Bench::new().await;
    let account = bench.account("anna").await;
    for (byte, label, owner) in [
        (1, "web", Some(account)),
        (2, "ssh", None),
        (3, "ssh", Some(account)),
        (4, "db", None),
    ] {
        let key = NewKey {
            account: owner,
            ..NewKey::new(Id([byte; 16]), label)
        };
        bench.add_key(key).await.unwrap();
    }
    let ids = async |query: KeyQuery| {
        let page = bench.administration.keys(&query).await.unwrap();
        let ids = page.items.iter().map(|key| key.record.id.0[0]);
        (ids.collect::<Vec<_>>(), page.next)
    };
    let first = KeyQuery {
        size: Some(3),
        ..KeyQuery::default()
    };
    let (page, after) = ids(first.clone()).await;
    assert_eq!(page, [4, 2, 3]);
    let (page, next) = ids(KeyQuery { after, ..first }).await;
    assert_eq!((page, next), (vec![1], None));
    let of_account = KeyQuery {
        account: Some(account),
        ..KeyQuery::default()
    };
    assert_eq!(ids(of_account.clone()).await.0, [3, 1]);
    let label = Some("ssh".to_owned());
    let named = KeyQuery {
        label: label.clone(),
        ..KeyQuery::default()
    };
    assert_eq!(ids(named).await.0, [2, 3]);
    let both = KeyQuery {
        label,
        ..of_account
    };
    assert_eq!(ids(both).await.0, [3]);
}
