//! Deltas, tombstones and the watch.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use report::{
    policy::{AccountId, RelayPolicy, ServiceKey},
    store::{ChangeWatch, Store},
};
use report_proto::id::Id;
use tokio::task::JoinSet;

use super::{
    NOW,
    accounts::{account, create, limits},
    credentials::credential,
    keys::id,
    open, soon,
};

pub(super) async fn a_delta_has_what_changed(url: String) {
    let store = open(&url).await;
    let all = store.load().await.unwrap();
    assert!(all.is_complete);
    let accounts: Vec<_> = all.changes.accounts.iter().map(|found| found.id).collect();
    assert_eq!(accounts, [AccountId::MASTER]);
    assert_eq!(all.changes.relay, Some(RelayPolicy::default()));
    assert_eq!(all.counter, store.change_counter().await.unwrap());
    let nothing = store.delta(all.counter).await.unwrap();
    assert!(!nothing.is_complete && nothing.changes.accounts.is_empty());
    assert_eq!(
        (nothing.counter, nothing.changes.relay),
        (all.counter, None)
    );

    let ann = create(&store, account("ann")).await;
    let mut change = store.change().await.unwrap();
    let key = ServiceKey::new(id(1), "shell");
    change.create_key(key.clone()).await.unwrap();
    let record = credential(1, "home");
    change.create_credential(record.clone()).await.unwrap();
    let policy = RelayPolicy {
        limits: limits(),
        reserve: None,
    };
    change
        .update_relay_policy(policy.clone(), None)
        .await
        .unwrap();
    let counter = change.commit().await.unwrap();

    let delta = store.delta(all.counter).await.unwrap();
    assert_eq!(delta.counter, counter);
    assert_eq!(delta.changes.accounts, std::slice::from_ref(&ann.record));
    let delta = store.delta(ann.changed).await.unwrap();
    assert!(!delta.is_complete && delta.changes.accounts.is_empty());
    assert_eq!(delta.changes.keys, [key]);
    assert_eq!(delta.changes.credentials, std::slice::from_ref(&record));
    assert_eq!(delta.changes.relay, Some(policy));

    let mut change = store.change().await.unwrap();
    change
        .remove_credential(record.credential.id, None, NOW)
        .await
        .unwrap();
    change.remove_key(id(1), None, NOW).await.unwrap();
    change
        .remove_account(ann.record.id, None, NOW)
        .await
        .unwrap();
    change.commit().await.unwrap();
    let delta = store.delta(counter).await.unwrap();
    assert_eq!(delta.changes.removed_accounts, [ann.record.id]);
    assert_eq!(delta.changes.removed_credentials, [record.credential.id]);
    assert_eq!(delta.changes.removed_keys, [id(1)]);
    assert!(delta.changes.accounts.is_empty() && delta.changes.keys.is_empty());
    assert_eq!(delta.changes.relay, None);
}

pub(super) async fn an_older_copy_is_read_completely(url: String) {
    let store = open(&url).await;
    let counter = store.change_counter().await.unwrap();
    let delta = store.delta(counter + 100).await.unwrap();
    assert!(delta.is_complete);
    assert_eq!((delta.counter, delta.changes.accounts.len()), (counter, 1));
}

pub(super) async fn purged_tombstones_are_read_completely(url: String) {
    let store = open(&url).await;
    let before = store.change_counter().await.unwrap();
    let mut change = store.change().await.unwrap();
    for number in 0..3 {
        let key = ServiceKey::new(id(number), "shell");
        change.create_key(key).await.unwrap();
    }
    let created = change.commit().await.unwrap();
    let mut change = store.change().await.unwrap();
    change.remove_key(id(0), None, NOW).await.unwrap();
    let first = change.commit().await.unwrap();
    let mut change = store.change().await.unwrap();
    change.remove_key(id(1), None, NOW + 10).await.unwrap();
    let second = change.commit().await.unwrap();

    assert_eq!(store.purge_removed(NOW).await.unwrap(), 0);
    assert_eq!(store.change_counter().await.unwrap(), second);
    assert!(!store.delta(before).await.unwrap().is_complete);
    assert_eq!(store.purge_removed(NOW + 1).await.unwrap(), 1);
    // Readers that have not seen the removal load all records.
    for since in [before, created] {
        let delta = store.delta(since).await.unwrap();
        assert!(delta.is_complete, "{since}");
        let keys: Vec<_> = delta.changes.keys.iter().map(|key| key.id).collect();
        assert_eq!(keys, [id(2)], "{since}");
    }
    // Those that have seen it read on.
    let delta = store.delta(first).await.unwrap();
    assert!(!delta.is_complete);
    assert_eq!(delta.changes.removed_keys, [id(1)]);
}

pub(super) async fn a_load_has_several_pages(url: String) {
    /// More than one page of rows with the same counter, and the start of a third one.
    const KEYS: u64 = 5_010;
    /// The most records of a part.
    const MOST: usize = 500;
    let store = open(&url).await;
    let mut change = store.change().await.unwrap();
    for number in 0..KEYS {
        let key = ServiceKey::new(id(number), "many");
        change.create_key(key).await.unwrap();
    }
    let counter = change.commit().await.unwrap();
    let expected: Vec<_> = (0..KEYS).map(id).collect();
    let found = |keys: &[ServiceKey]| -> Vec<Id> { keys.iter().map(|key| key.id).collect() };
    let all = store.load().await.unwrap();
    assert!(found(&all.changes.keys) == expected, "a complete load");
    let mut parts = Vec::new();
    let loaded = store
        .load_parts(|part| parts.push(part.changes))
        .await
        .unwrap();
    assert_eq!(loaded, counter);
    let largest = parts.iter().map(|part| part.keys.len()).max();
    assert!(largest.is_some_and(|keys| keys <= MOST), "{largest:?}");
    let relay = parts.last().and_then(|part| part.relay.clone());
    assert_eq!(relay, Some(RelayPolicy::default()));
    let keys: Vec<ServiceKey> = parts.into_iter().flat_map(|part| part.keys).collect();
    assert!(found(&keys) == expected, "the parts of a load");
    let delta = store.delta(counter - 1).await.unwrap();
    assert!(!delta.is_complete);
    assert!(found(&delta.changes.keys) == expected, "a delta");
}

pub(super) async fn a_watch_sees_a_change(url: String) {
    /// Less than the time between two reads of a watch that listens.
    const LIMIT: Duration = Duration::from_secs(4);
    let (reader, writer) = (open(&url).await, open(&url).await);
    let mut watch = ChangeWatch::new(Arc::clone(&reader));
    let mut seen = reader.change_counter().await.unwrap();
    // A change before the call is seen at once.
    let first = create(&writer, account("first")).await.changed;
    assert_eq!(soon("the first change", watch.changed(seen)).await, first);
    seen = first;
    for number in 0..3 {
        let (counter, changed) = tokio::join!(
            tokio::time::timeout(LIMIT, watch.changed(seen)),
            create(&writer, account(&format!("account {number}"))),
        );
        assert_eq!(counter.ok(), Some(changed.changed), "{number}");
        seen = changed.changed;
    }
}

/// Creates keys, each in a separate change.
async fn write(store: Arc<Store>, ids: std::ops::Range<u64>) {
    for number in ids {
        let mut change = store.change().await.unwrap();
        let key = ServiceKey::new(id(number), "parallel");
        change.create_key(key).await.unwrap();
        change.commit().await.unwrap();
    }
}

/// Follows the changes until all keys are seen.
async fn follow(store: Arc<Store>, mut counter: i64, keys: usize) {
    let mut watch = ChangeWatch::new(Arc::clone(&store));
    let mut seen = BTreeSet::new();
    while seen.len() < keys {
        watch.changed(counter).await;
        let delta = store.delta(counter).await.unwrap();
        assert!(!delta.is_complete && delta.counter >= counter);
        seen.extend(delta.changes.keys.iter().map(|key| key.id));
        counter = delta.counter;
    }
}

pub(super) async fn a_reader_misses_no_commit(url: String) {
    /// The writers, half of them in each of two masters.
    const WRITERS: u64 = 4;
    const KEYS: u64 = 50;
    let masters = [open(&url).await, open(&url).await];
    let counter = masters[0].change_counter().await.unwrap();
    let mut tasks = JoinSet::new();
    let keys = usize::try_from(WRITERS * KEYS).unwrap();
    for master in &masters {
        tasks.spawn(follow(Arc::clone(master), counter, keys));
    }
    for writer in 0..WRITERS {
        let master = &masters[usize::try_from(writer % 2).unwrap()];
        let first = writer * KEYS;
        tasks.spawn(write(Arc::clone(master), first..first + KEYS));
    }
    while let Some(done) = soon("writers and readers", tasks.join_next()).await {
        done.expect("a task without a panic");
    }
    let counter = i64::try_from(WRITERS * KEYS).unwrap() + counter;
    assert_eq!(masters[0].change_counter().await.unwrap(), counter);
}
