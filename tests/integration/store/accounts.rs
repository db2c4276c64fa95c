//! Accounts, tokens, and the policy of the relay.

use report::{
    policy::{
        Account, AccountId, ByteSize, Counts, Limits, Networks, Period, PeriodUnit, Quota,
        RelayPolicy, Reserve, ServiceKey, Token, TokenHash, TokenId, TokenRecord, TokenRole,
        UnixTime,
    },
    store::{RecordKind, Store, StoreError, Stored},
};
use report_proto::id::Id;

use super::{NOW, open};

/// An account without policies. The store assigns its id.
pub(super) fn account(name: &str) -> Account {
    Account::new(AccountId(0), name)
}

/// Creates an account in a separate change.
pub(super) async fn create(store: &Store, account: Account) -> Stored<Account> {
    let mut change = store.change().await.unwrap();
    let created = change.create_account(account).await.unwrap();
    assert_eq!(change.commit().await.unwrap(), created.changed);
    created
}

/// Limits in which each part differs from the default.
pub(super) fn limits() -> Limits {
    Limits {
        quotas: vec![Quota::new(
            Period::new(PeriodUnit::Month),
            ByteSize(1_000_000),
        )],
        counts: Counts {
            tunnels: Some(5),
            ..Counts::default()
        },
        weight: 3,
        ..Limits::default()
    }
}

pub(super) fn networks() -> Networks {
    Networks::new(vec![
        "10.0.0.0/8".parse().unwrap(),
        "2001:db8::/32".parse().unwrap(),
    ])
}

pub(super) async fn accounts_round_trip(url: String) {
    let store = open(&url).await;
    let mut full = account("Ann's 远程 🌉");
    full.enabled = false;
    full.not_before = UnixTime::new(NOW);
    full.expires = UnixTime::new(NOW + 1);
    full.max_keys = Some(u32::MAX);
    full.networks = networks();
    full.limits = limits();
    full.note = "first line\nsecond \"line\" \\ '$1' ?".to_owned();
    let created = create(&store, full.clone()).await;
    full.id = created.record.id;
    assert!(full.id > AccountId::MASTER);
    assert_eq!(created.record, full);

    let read = store.account(full.id).await.unwrap();
    assert_eq!(read.as_ref(), Some(&created));
    let read = store.account_by_name(&full.name).await.unwrap();
    assert_eq!(read, Some(created.clone()));
    assert_eq!(store.account(AccountId(77)).await.unwrap(), None);
    assert_eq!(store.account_by_name("nobody").await.unwrap(), None);

    let mut empty = account("a");
    empty.id = full.id;
    let mut change = store.change().await.unwrap();
    let updated = change.update_account(empty.clone(), None).await.unwrap();
    change.commit().await.unwrap();
    assert!(updated.changed > created.changed);
    let read = store.account(full.id).await.unwrap().unwrap();
    assert_eq!((read.record, read.changed), (empty, updated.changed));
}

pub(super) async fn accounts_have_pages(url: String) {
    let store = open(&url).await;
    let mut change = store.change().await.unwrap();
    let mut names = vec!["master".to_owned()];
    for number in 0..5 {
        let name = format!("account {}", 9 - number);
        change.create_account(account(&name)).await.unwrap();
        names.push(name);
    }
    change.commit().await.unwrap();

    let mut found = Vec::new();
    let mut after = None;
    let mut sizes = Vec::new();
    loop {
        let page = store.accounts(after, 4).await.unwrap();
        sizes.push(page.items.len());
        found.extend(page.items.into_iter().map(|item| item.record.name));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, names);
    assert_eq!(sizes, [4, 2]);
}

pub(super) async fn a_version_protects_an_account(url: String) {
    let store = open(&url).await;
    let created = create(&store, account("ann")).await;
    let mut record = created.record;
    record.note = "new".to_owned();

    let mut change = store.change().await.unwrap();
    let updated = change
        .update_account(record.clone(), Some(created.changed))
        .await
        .unwrap();
    change.commit().await.unwrap();

    record.note = "newer".to_owned();
    let mut change = store.change().await.unwrap();
    let refused = change
        .update_account(record.clone(), Some(created.changed))
        .await
        .expect_err("an old version");
    drop(change);
    assert!(
        matches!(
            &refused,
            StoreError::Conflict { kind: RecordKind::Account, expected, found, .. }
                if (*expected, *found) == (created.changed, updated.changed)
        ),
        "{refused}"
    );
    let mut change = store.change().await.unwrap();
    let refused = change
        .remove_account(record.id, Some(created.changed), NOW)
        .await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })));
    drop(change);
    let read = store.account(record.id).await.unwrap().unwrap();
    assert_eq!((&*read.record.note, read.changed), ("new", updated.changed));

    record.id = AccountId(77);
    let mut change = store.change().await.unwrap();
    let absent = change.update_account(record, None).await;
    let absent = absent.expect_err("no such account").to_string();
    assert_eq!(absent, "id: there is no account \"77\"");
}

pub(super) async fn a_duplicate_name_is_refused(url: String) {
    let store = open(&url).await;
    let ann = create(&store, account("ann")).await.record.id;
    // Names differ by their bytes.
    let other = create(&store, account("Ann")).await;

    let mut change = store.change().await.unwrap();
    let refused = change.create_account(account("ann")).await;
    drop(change);
    let refused = refused.expect_err("a duplicate name");
    assert_eq!(
        refused.to_string(),
        format!(
            "name \"ann\" exists already: it is the name of account {ann} (choose another name, or \
             change that account)"
        )
    );
    assert!(matches!(
        refused,
        StoreError::Duplicate { field: "name", .. }
    ));

    let mut renamed = other.record.clone();
    renamed.name = "master".to_owned();
    let mut change = store.change().await.unwrap();
    let refused = change.update_account(renamed, None).await;
    assert!(matches!(refused, Err(StoreError::Duplicate { .. })));
    // The change continues after a refusal, and an account may keep its name.
    change.update_account(other.record, None).await.unwrap();
    change.commit().await.unwrap();
}

pub(super) async fn an_account_is_removed(url: String) {
    let store = open(&url).await;
    let created = create(&store, account("ann")).await;
    let id = created.record.id;
    let mut change = store.change().await.unwrap();
    change
        .remove_account(id, Some(created.changed), NOW)
        .await
        .unwrap();
    change.commit().await.unwrap();

    assert_eq!(store.account(id).await.unwrap(), None);
    assert_eq!(store.account_by_name("ann").await.unwrap(), None);
    assert_eq!(store.accounts(None, 10).await.unwrap().items.len(), 1);
    let mut change = store.change().await.unwrap();
    let refused = change.remove_account(id, None, NOW).await;
    assert!(matches!(refused, Err(StoreError::NotFound { .. })));
    drop(change);

    // The name is free, and the id is not used again, even when the row is gone.
    assert_eq!(store.purge_removed(NOW + 1).await.unwrap(), 1);
    let again = create(&store, account("ann")).await;
    assert!(again.record.id > id);
}

pub(super) async fn an_account_in_use_is_kept(url: String) {
    let store = open(&url).await;
    let owner = create(&store, account("ann")).await.record.id;
    let mut change = store.change().await.unwrap();
    let mut key = ServiceKey::new(Id([7; 16]), "shell");
    key.account = Some(owner);
    change.create_key(key).await.unwrap();
    change.commit().await.unwrap();

    let mut change = store.change().await.unwrap();
    let refused = change.remove_account(owner, None, NOW).await;
    let refused = refused.expect_err("an owner").to_string();
    assert!(
        refused.contains("it owns keys such as 0707") && refused.contains("remove them"),
        "{refused}"
    );
    let refused = change.remove_account(AccountId::MASTER, None, NOW).await;
    let refused = refused.expect_err("the master key").to_string();
    assert!(refused.contains("disable it instead"), "{refused}");
    change.remove_key(Id([7; 16]), None, NOW).await.unwrap();
    change.remove_account(owner, None, NOW).await.unwrap();
    change.commit().await.unwrap();
    assert_eq!(store.account(owner).await.unwrap(), None);
}

pub(super) async fn a_dropped_change_has_no_effect(url: String) {
    let store = open(&url).await;
    let before = store.change_counter().await.unwrap();
    let mut change = store.change().await.unwrap();
    change.create_account(account("ann")).await.unwrap();
    assert!(change.counter() > before);
    drop(change);
    assert_eq!(store.account_by_name("ann").await.unwrap(), None);
    assert_eq!(store.change_counter().await.unwrap(), before);
    // The next change does not wait for the dropped one.
    create(&store, account("ann")).await;
}

fn token(name: &str, byte: u8) -> TokenRecord {
    TokenRecord {
        token: Token {
            id: TokenId(0),
            name: name.to_owned(),
            role: TokenRole::Operate,
            expires: UnixTime::new(NOW),
            revoked: false,
        },
        hash: TokenHash([byte; 32]),
    }
}

pub(super) async fn tokens_round_trip(url: String) {
    let store = open(&url).await;
    let mut change = store.change().await.unwrap();
    let first = change.create_token(token("grafana", 1)).await.unwrap();
    let second = change.create_token(token("script", 0xff)).await.unwrap();
    let refused = change.create_token(token("script", 2)).await;
    assert!(matches!(
        refused,
        Err(StoreError::Duplicate { field: "name", .. })
    ));
    change.commit().await.unwrap();
    let (first_id, second_id) = (first.record.token.id, second.record.token.id);
    assert_eq!(store.token(first_id).await.unwrap(), Some(first));
    let read = store.token_by_name("script").await.unwrap();
    assert_eq!(read.as_ref(), Some(&second));
    let page = store.tokens(None, 1).await.unwrap();
    assert_eq!(page.next, Some(first_id));
    let page = store.tokens(page.next, 1).await.unwrap();
    assert_eq!((page.items, page.next), (vec![second.clone()], None));

    let mut changed = second.record.token.clone();
    changed.role = TokenRole::Read;
    changed.revoked = true;
    changed.expires = None;
    let mut change = store.change().await.unwrap();
    change
        .update_token(changed.clone(), Some(second.changed))
        .await
        .unwrap();
    let refused = change.update_token(changed.clone(), Some(0)).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })));
    change.remove_token(first_id, None).await.unwrap();
    change.commit().await.unwrap();
    let read = store.token(second_id).await.unwrap().unwrap().record;
    assert_eq!((read.token, read.hash), (changed, TokenHash([0xff; 32])));
    assert_eq!(store.token(first_id).await.unwrap(), None);
}

pub(super) async fn the_relay_has_a_policy(url: String) {
    let store = open(&url).await;
    let initial = store.relay_policy().await.unwrap();
    assert_eq!(initial.record, RelayPolicy::default());
    let policy = |account| RelayPolicy {
        limits: limits(),
        reserve: Some(Reserve {
            account,
            percent: 10,
        }),
    };
    let mut change = store.change().await.unwrap();
    let refused = change
        .update_relay_policy(policy(AccountId(77)), None)
        .await
        .expect_err("no such account")
        .to_string();
    assert_eq!(refused, "account: there is no account \"77\"");
    let policy = policy(AccountId::MASTER);
    change
        .update_relay_policy(policy.clone(), Some(initial.changed))
        .await
        .unwrap();
    let refused = change
        .update_relay_policy(policy.clone(), Some(initial.changed))
        .await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })));
    let changed = change.commit().await.unwrap();
    let read = store.relay_policy().await.unwrap();
    assert_eq!((read.record, read.changed), (policy, changed));
}
