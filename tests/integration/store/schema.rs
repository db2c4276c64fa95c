//! The schema: it is created once, and a newer one is refused.

use report::store::{RecordKind, StoreError};
use sqlx::{AnyPool, AssertSqlSafe};
use tokio::task::JoinSet;

use super::{
    accounts::{account, create},
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
    execute(
        &url,
        r#"UPDATE accounts SET limits = '{"weight": "heavy"}' WHERE name = 'ann'"#,
    )
    .await;
    let error = store.load().await.expect_err("an invalid row");
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
