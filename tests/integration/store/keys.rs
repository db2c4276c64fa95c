//! Service keys.

use report::{
    policy::{AccountId, ServiceKey, UnixTime},
    store::{KeyPosition, Store, StoreError},
};
use report_proto::id::Id;

use super::{
    NOW,
    accounts::{account, create, limits, networks},
    open,
};

/// A key id that contains a number.
pub(super) fn id(number: u64) -> Id {
    Id(u128::from(number).to_be_bytes())
}

pub(super) async fn keys_round_trip(url: String) {
    let store = open(&url).await;
    let mut full = ServiceKey::new(Id([0xe1; 16]), "shell 远程");
    full.account = Some(AccountId::MASTER);
    full.enabled = false;
    full.not_before = UnixTime::new(NOW);
    full.expires = UnixTime::new(NOW + 1);
    full.needs_credential = true;
    full.register_networks = networks();
    full.attach_networks = networks();
    full.limits = limits();
    full.note = "a note".to_owned();
    let mut change = store.change().await.unwrap();
    let created = change.create_key(full.clone()).await.unwrap();
    assert_eq!(created.record, full);
    let again = change.create_key(full.clone()).await;
    assert!(matches!(
        again,
        Err(StoreError::Duplicate { field: "id", .. })
    ));
    change.commit().await.unwrap();
    assert_eq!(store.key(full.id).await.unwrap(), Some(created.clone()));
    let found = store.keys_by_label("shell 远程").await.unwrap();
    assert_eq!(found, [created.clone()]);
    assert!(store.keys_by_label("shell").await.unwrap().is_empty());

    let plain = ServiceKey::new(full.id, "web");
    let mut change = store.change().await.unwrap();
    let stale = change
        .update_key(plain.clone(), Some(created.changed - 1))
        .await;
    assert!(matches!(stale, Err(StoreError::Conflict { .. })));
    let updated = change
        .update_key(plain.clone(), Some(created.changed))
        .await
        .unwrap();
    let absent = change.update_key(ServiceKey::new(id(9), "web"), None).await;
    assert!(matches!(absent, Err(StoreError::NotFound { .. })));
    change.commit().await.unwrap();
    let read = store.key(full.id).await.unwrap().unwrap();
    assert_eq!((read.record, read.changed), (plain, updated.changed));
}

/// Returns the ids of all pages.
async fn listed(store: &Store, account: Option<AccountId>, size: u32) -> Vec<Id> {
    let mut found = Vec::new();
    let mut after: Option<KeyPosition> = None;
    loop {
        let page = store.keys(account, after.as_ref(), size).await.unwrap();
        found.extend(page.items.iter().map(|item| item.record.id));
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
}

pub(super) async fn keys_have_pages(url: String) {
    let store = open(&url).await;
    let ann = create(&store, account("ann")).await.record.id;
    let mut change = store.change().await.unwrap();
    // Labels in descending order, three keys with each of them.
    for number in 0..12 {
        let mut key = ServiceKey::new(id(number), format!("label {}", 9 - number / 3));
        key.account = (number % 2 == 0).then_some(ann);
        change.create_key(key).await.unwrap();
    }
    change.remove_key(id(4), None, NOW).await.unwrap();
    change.commit().await.unwrap();

    let order = [9, 10, 11, 6, 7, 8, 3, 5, 0, 1, 2];
    let all: Vec<_> = order.into_iter().map(id).collect();
    let owned = order.into_iter().filter(|number| number % 2 == 0);
    let owned: Vec<_> = owned.map(id).collect();
    for size in [1, 2, 3, 11, 200] {
        assert_eq!(listed(&store, None, size).await, all, "{size}");
        assert_eq!(listed(&store, Some(ann), size).await, owned, "{size}");
    }
    assert!(listed(&store, Some(AccountId(77)), 5).await.is_empty());

    // A record that goes between two pages hides no other one.
    let first = store.keys(None, None, 3).await.unwrap();
    let mut change = store.change().await.unwrap();
    change.remove_key(id(11), None, NOW).await.unwrap();
    change.commit().await.unwrap();
    let second = store.keys(None, first.next.as_ref(), 3).await.unwrap();
    let second: Vec<_> = second.items.iter().map(|item| item.record.id).collect();
    assert_eq!(second, [id(6), id(7), id(8)]);
}

pub(super) async fn a_key_needs_an_owner_that_exists(url: String) {
    let store = open(&url).await;
    let mut key = ServiceKey::new(id(1), "shell");
    key.account = Some(AccountId(77));
    let mut change = store.change().await.unwrap();
    let refused = change.create_key(key.clone()).await;
    let refused = refused.expect_err("no such account").to_string();
    assert_eq!(refused, "account: there is no account \"77\"");
    key.account = None;
    change.create_key(key.clone()).await.unwrap();
    key.account = Some(AccountId(77));
    let refused = change.update_key(key, None).await;
    assert!(matches!(refused, Err(StoreError::NotFound { .. })));
    change.commit().await.unwrap();
}

pub(super) async fn a_key_is_created_again(url: String) {
    let store = open(&url).await;
    let key = ServiceKey::new(id(1), "shell");
    let mut change = store.change().await.unwrap();
    let created = change.create_key(key.clone()).await.unwrap();
    change.commit().await.unwrap();
    let mut change = store.change().await.unwrap();
    let stale = change.remove_key(id(1), Some(0), NOW).await;
    assert!(matches!(stale, Err(StoreError::Conflict { .. })));
    change
        .remove_key(id(1), Some(created.changed), NOW)
        .await
        .unwrap();
    let removed = change.commit().await.unwrap();
    assert_eq!(store.key(id(1)).await.unwrap(), None);
    assert!(store.keys_by_label("shell").await.unwrap().is_empty());

    let mut change = store.change().await.unwrap();
    change.create_key(key.clone()).await.unwrap();
    change.commit().await.unwrap();
    let delta = store.delta(removed).await.unwrap();
    assert_eq!(delta.changes.keys, [key]);
    assert!(delta.changes.removed_keys.is_empty());
}
