//! The schema: it is created once, and a newer one is refused.

use report::{
    policy::{AccountId, RelayPolicy, ServiceKey},
    store::{RecordKind, StoreError},
};
use sqlx::{AnyPool, AssertSqlSafe};
use tokio::task::JoinSet;

use super::{
    accounts::{account, create},
    credentials::credential,
    keys::id,
    open, soon, try_open,
};

/// Executes a statement without the store.
async fn execute(url: &str, sql: &str) {
    sqlx::any::install_default_drivers();
    let pool = AnyPool::connect(url).await.expect("a connection");
    let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&pool).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    pool.close().await;
}

pub(super) async fn a_database_opens_again(url: String) {
    let store = open(&url).await;
    let created = create(&store, account("ann")).await;
    store.close().await;
    let error = store.accounts(None, 1).await.expect_err("a closed store");
    assert!(error.is_away(), "{error}");
    for _ in 0..2 {
        let store = open(&url).await;
        assert!(store.status().is_up());
        let read = store.account(created.record.id).await.unwrap();
        assert_eq!(read.as_ref(), Some(&created));
    }
}

pub(super) async fn several_masters_open_a_new_database(url: String) {
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let url = url.clone();
        tasks.spawn(async move { open(&url).await.load().await.unwrap().changes.accounts });
    }
    while let Some(accounts) = soon("the masters", tasks.join_next()).await {
        assert_eq!(accounts.expect("a master that opens").len(), 1);
    }
}

pub(super) async fn a_newer_schema_is_refused(url: String) {
    open(&url).await.close().await;
    let newer = "INSERT INTO _sqlx_migrations \
                 (version, description, success, checksum, execution_time) \
                 VALUES (99, 'newer', TRUE, '', 0)";
    execute(&url, newer).await;
    let error = try_open(&url).await.expect_err("a newer schema");
    assert!(
        matches!(
            error,
            StoreError::SchemaNewer {
                found: 99,
                known: 1,
                ..
            }
        ),
        "{error}"
    );
    let error = error.to_string();
    assert!(error.starts_with("store: the schema of "), "{error}");
    assert!(error.contains("update the program"), "{error}");
    assert!(!error.contains("of-a-test"), "{error}");
    execute(&url, "DELETE FROM _sqlx_migrations WHERE version = 99").await;

    execute(&url, "UPDATE _sqlx_migrations SET success = FALSE").await;
    let error = try_open(&url).await.expect_err("half a schema");
    assert!(
        matches!(error, StoreError::SchemaIncomplete { step: 1, .. }),
        "{error}"
    );
}

pub(super) async fn an_invalid_row_is_named(url: String) {
    let store = open(&url).await;
    let created = create(&store, account("ann")).await;
    let invalid = r#"UPDATE accounts SET limits = '{"weight": "heavy"}' WHERE name = 'ann'"#;
    execute(&url, invalid).await;
    let error = store.account(created.record.id).await;
    let error = error.expect_err("an invalid row");
    assert!(
        matches!(
            &error,
            StoreError::Corrupt { kind: RecordKind::Account, id, column: "limits", .. }
                if *id == created.record.id.to_string()
        ),
        "{error}"
    );
    assert!(error.to_string().contains("weight"), "{error}");
    assert!(store.status().is_up(), "the database has answered");
}

pub(super) async fn an_invalid_row_hides_no_other(url: String) {
    let store = open(&url).await;
    let ann = create(&store, account("ann")).await.record;
    let ben = create(&store, account("ben")).await.record;
    let home = credential(1, "home");
    let mut change = store.change().await.unwrap();
    change.create_credential(home.clone()).await.unwrap();
    let key = ServiceKey::new(id(1), "shell");
    change.create_key(key).await.unwrap();
    change.commit().await.unwrap();
    for invalid in [
        r#"UPDATE accounts SET limits = '{"weight": "heavy"}' WHERE name = 'ann'"#,
        "UPDATE credentials SET public_key = 'short'",
        r#"UPDATE service_keys SET attach_networks = '["nowhere"]'"#,
    ] {
        execute(&url, invalid).await;
    }
    let all = store.load().await.unwrap();
    let accounts: Vec<_> = all.changes.accounts.iter().map(|found| found.id).collect();
    assert_eq!(accounts, [AccountId::MASTER, ben.id]);
    assert_eq!(all.changes.unreadable_accounts, [ann.id]);
    let credential_id = home.credential.id;
    assert_eq!(all.changes.unreadable_credentials, [credential_id]);
    assert_eq!(all.changes.unreadable_keys, [id(1)]);
    let columns: Vec<_> = all.unreadable.iter().map(|record| record.column).collect();
    assert_eq!(columns, ["limits", "public_key", "attach_networks"]);

    // Later changes are read.
    let eve = create(&store, account("eve")).await.record;
    let delta = store.delta(all.counter).await.unwrap();
    assert_eq!(delta.changes.accounts, [eve]);
    assert_eq!(delta.unreadable, []);

    // The corrections do not change the counter.
    execute(&url, "UPDATE accounts SET limits = '' WHERE name = 'ann'").await;
    execute(&url, "DELETE FROM service_keys").await;
    let again = store.read_again(&all.unreadable).await.unwrap();
    assert_eq!(again.changes.accounts, [ann]);
    assert_eq!(again.changes.removed_keys, [id(1)]);
    assert_eq!(again.changes.unreadable_credentials, [credential_id]);
    assert_eq!(again.unreadable, all.unreadable[1..2]);
}

pub(super) async fn an_invalid_policy_of_the_relay_leaves_the_former_one(url: String) {
    let store = open(&url).await;
    execute(
        &url,
        "UPDATE store_state SET relay_policy = '{\"limits\": 1}'",
    )
    .await;
    let ann = create(&store, account("ann")).await;
    for delta in [
        store.load().await.unwrap(),
        store.delta(ann.changed - 1).await.unwrap(),
    ] {
        assert_eq!(delta.changes.relay, None);
        assert!(delta.changes.accounts.contains(&ann.record));
        let [relay] = &delta.unreadable[..] else {
            panic!("{:?}", delta.unreadable);
        };
        assert_eq!(
            (relay.kind, relay.column),
            (RecordKind::Relay, "relay_policy")
        );
    }
    let unreadable = store.load().await.unwrap().unreadable;
    execute(&url, "UPDATE store_state SET relay_policy = ''").await;
    let again = store.read_again(&unreadable).await.unwrap();
    assert_eq!(again.changes.relay, Some(RelayPolicy::default()));
    assert_eq!(again.unreadable, []);
}
