//! Tests of accounts: values, names, versions and pages.

use super::*;
use crate::policy::{AccountId, Limits, Network, Networks, UnixTime};
use report_proto::id::Id;

fn time(seconds: i64) -> UnixTime {
    UnixTime::new(seconds).unwrap()
}

#[tokio::test]
async fn accounts_are_added_changed_and_removed() {
    let bench = Bench::new().await;
    let new = NewAccount {
        expires: UnixTime::new(NOW + 60),
        max_keys: Some(2),
        networks: Networks::new(vec!["10.0.0.0/8".parse::<Network>().unwrap()]),
        note: "at home".to_owned(),
        ..NewAccount::new("anna")
    };
    let added = bench
        .administration
        .add_account(&bench.actor, new)
        .await
        .unwrap();
    let id = added.record.id;
    assert_eq!(bench.administration.account(id).await.unwrap(), added);
    let patch = AccountPatch {
        name: Some("anna b".to_owned()),
        expires: Some(None),
        limits: Some(Limits {
            weight: 3,
            ..Limits::default()
        }),
        ..AccountPatch::default()
    };
    let set = bench
        .administration
        .set_account(&bench.actor, id, patch, Some(added.changed));
    let set = set.await.unwrap();
    assert!(set.changed > added.changed);
    let record = &set.record;
    assert_eq!((record.name.as_str(), record.expires), ("anna b", None));
    // Other fields are unchanged.
    assert_eq!(
        (record.max_keys, record.note.as_str()),
        (Some(2), "at home")
    );
    assert_eq!(record.networks, added.record.networks);
    assert_eq!(bench.administration.account(id).await.unwrap(), set);
    let removed = bench
        .administration
        .remove_account(&bench.actor, id, Some(set.changed));
    removed.await.unwrap();
    let body = assert_refused(
        bench.administration.account(id).await,
        ErrorCode::NotFound,
        Some("id"),
    );
    assert_eq!(body.value, Some(id.to_string()));
}

#[tokio::test]
async fn names_are_unique() {
    let bench = Bench::new().await;
    let anna = bench.account("anna").await;
    let bob = bench.account("bob").await;
    let again = bench
        .administration
        .add_account(&bench.actor, NewAccount::new("anna"));
    let body = assert_refused(again.await, ErrorCode::Duplicate, Some("name"));
    assert_eq!(body.value.as_deref(), Some("anna"));
    let rename = || AccountPatch {
        name: Some("anna".to_owned()),
        ..AccountPatch::default()
    };
    let renamed = bench
        .administration
        .set_account(&bench.actor, bob, rename(), None);
    assert_refused(renamed.await, ErrorCode::Duplicate, Some("name"));
    // A record may keep its own name.
    let kept = bench
        .administration
        .set_account(&bench.actor, anna, rename(), None);
    kept.await.unwrap();
}

#[tokio::test]
async fn a_change_of_an_older_version_is_a_conflict() {
    let bench = Bench::new().await;
    let id = bench.account("anna").await;
    let version = bench.administration.account(id).await.unwrap().changed;
    let disable = || AccountPatch {
        enabled: Some(false),
        ..AccountPatch::default()
    };
    let first = bench
        .administration
        .set_account(&bench.actor, id, disable(), Some(version));
    first.await.unwrap();
    let second = bench
        .administration
        .set_account(&bench.actor, id, disable(), Some(version));
    assert_refused(second.await, ErrorCode::Conflict, Some("id"));
    let removed = bench
        .administration
        .remove_account(&bench.actor, id, Some(version));
    assert_refused(removed.await, ErrorCode::Conflict, Some("id"));
    // Without a version any one changes.
    let third = bench
        .administration
        .set_account(&bench.actor, id, disable(), None);
    third.await.unwrap();
}

#[tokio::test]
async fn invalid_values_name_their_fields_and_change_nothing() {
    let bench = Bench::new().await;
    let new = NewAccount {
        not_before: UnixTime::new(20),
        expires: UnixTime::new(10),
        max_keys: Some(0),
        ..NewAccount::new("")
    };
    let refused = bench.administration.add_account(&bench.actor, new).await;
    let body = assert_refused(refused, ErrorCode::Invalid, Some("name"));
    let fields: Vec<&str> = body
        .problems
        .iter()
        .map(|problem| &*problem.field)
        .collect();
    assert_eq!(fields, ["name", "expires", "max_keys"]);
    let id = bench.account("anna").await;
    // The new value contradicts the present one.
    for (patch, code) in [
        (
            AccountPatch {
                not_before: Some(Some(time(20))),
                ..AccountPatch::default()
            },
            None,
        ),
        (
            AccountPatch {
                expires: Some(Some(time(10))),
                ..AccountPatch::default()
            },
            Some(ErrorCode::Invalid),
        ),
    ] {
        let set = bench
            .administration
            .set_account(&bench.actor, id, patch, None)
            .await;
        assert_eq!(set.err().map(|error| error.code()), code);
    }
    let account = bench.administration.account(id).await.unwrap().record;
    assert_eq!(
        (account.not_before, account.expires),
        (Some(time(20)), None)
    );
}

#[tokio::test]
async fn absent_accounts_are_not_found() {
    let bench = Bench::new().await;
    let absent = AccountId(999);
    let patch = AccountPatch::default();
    let set = bench
        .administration
        .set_account(&bench.actor, absent, patch, None);
    assert_refused(set.await, ErrorCode::NotFound, Some("id"));
    let removed = bench
        .administration
        .remove_account(&bench.actor, absent, None);
    assert_refused(removed.await, ErrorCode::NotFound, Some("id"));
}

#[tokio::test]
async fn accounts_with_keys_and_that_of_the_master_key_stay() {
    let bench = Bench::new().await;
    let id = bench.account("anna").await;
    let key = NewKey {
        account: Some(id),
        ..NewKey::new(Id([1; 16]), "ssh")
    };
    bench
        .administration
        .add_key(&bench.actor, key)
        .await
        .unwrap();
    for account in [id, AccountId::MASTER] {
        let removed = bench
            .administration
            .remove_account(&bench.actor, account, None);
        assert_refused(removed.await, ErrorCode::InUse, Some("id"));
    }
}

#[tokio::test]
async fn pages_contain_each_account_once() {
    let bench = Bench::new().await;
    for name in ["a", "b", "c", "d"] {
        bench.account(name).await;
    }
    let mut names = Vec::new();
    let mut query = AccountQuery {
        size: Some(2),
        ..AccountQuery::default()
    };
    loop {
        let page = bench.administration.accounts(&query).await.unwrap();
        assert!(page.items.len() <= 2);
        names.extend(page.items.into_iter().map(|account| account.record.name));
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    assert_eq!(names, ["master", "a", "b", "c", "d"]);
    let named = AccountQuery {
        name: Some("c".to_owned()),
        ..AccountQuery::default()
    };
    let page = bench.administration.accounts(&named).await.unwrap();
    assert_eq!((page.items.len(), page.next), (1, None));
    let wrong = AccountQuery {
        after: Some("c".to_owned()),
        ..AccountQuery::default()
    };
    let refused = bench.administration.accounts(&wrong).await;
    assert_refused(refused, ErrorCode::Invalid, Some("after"));
}
