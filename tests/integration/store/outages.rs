//! Databases that are away: at the start, and while a master runs.

use std::sync::Arc;

use report::{
    policy::AccountId,
    store::{ChangeWatch, Store, StoreError},
};

use super::{
    PATIENCE,
    accounts::{account, create},
    backends::Backend,
    block_on, open, soon, try_open,
};
use crate::support::{ports, wait};

/// A store goes away with its database, and comes back with it.
fn database_is_started_again(mut backend: Backend) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let url = backend.database("outage");
    let store = runtime.block_on(open(&url));
    let first = runtime.block_on(create(&store, account("before")));
    let watcher = Arc::clone(&store);
    let seen = first.changed;
    let watch = async move { ChangeWatch::new(watcher).changed(seen).await };
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn_on(watch, runtime.handle());

    backend.stop();
    let error = runtime.block_on(soon("an error", store.account(AccountId::MASTER)));
    let error = error.expect_err("no database");
    assert!(error.is_away(), "{error}");
    let down = store.status();
    assert!(down.error.is_some(), "{down:?}");
    let refused = runtime.block_on(soon("an error", store.change()));
    assert!(refused.is_err_and(|error| error.is_away()));

    backend.start_again();
    let created = wait::until("the store answers", || {
        runtime.block_on(async {
            let mut change = store.change().await.ok()?;
            change.create_account(account("after")).await.ok()?;
            change.commit().await.ok()
        })
    });
    let noticed = runtime.block_on(soon("the watch", tasks.join_next()));
    assert_eq!(noticed.expect("a task").expect("no panic"), created);
    let up = store.status();
    assert!(up.is_up() && up.since >= down.since, "{up:?}");
    let kept = runtime.block_on(store.account(first.record.id));
    assert_eq!(kept.expect("an answer"), Some(first));
}

#[test]
fn a_store_returns_with_postgres() {
    database_is_started_again(Backend::postgres());
}

#[test]
fn a_store_returns_with_mariadb() {
    database_is_started_again(Backend::mariadb());
}

/// A client that vanishes in the middle of a transaction does not keep its locks for hours.
fn abandoned_transaction_ends(backend: &Backend) {
    let url = backend.database("abandoned");
    block_on(async {
        let (vanished, other) = (open(&url).await, open(&url).await);
        let abandoned = vanished.change().await.expect("a change");
        let next = async {
            loop {
                // It waits for the lock.
                if let Ok(change) = other.change().await {
                    break change.commit().await;
                }
            }
        };
        soon("the lock", next).await.expect("committed");
        assert!(abandoned.commit().await.is_err());
    });
}

#[test]
fn postgres_ends_an_abandoned_transaction() {
    abandoned_transaction_ends(&Backend::postgres());
}

#[test]
fn mariadb_ends_an_abandoned_transaction() {
    abandoned_transaction_ends(&Backend::mariadb());
}

/// The error of a database that does not open.
fn refusal(url: &str) -> String {
    let opened: Result<Store, StoreError> = block_on(async {
        let opened = tokio::time::timeout(PATIENCE, try_open(url)).await;
        opened.expect("a result")
    });
    let error = opened.expect_err("a database that does not open");
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
    let error = error.to_string();
    assert!(!error.contains("secret"), "{error}");
    error
}

#[test]
fn an_absent_server_is_named() {
    for scheme in ["postgres", "mysql"] {
        let address = ports::free();
        let error = refusal(&format!("{scheme}://report:secret@{address}/keys"));
        let start = format!("store: cannot open {scheme}://report:***@{address}/keys: ");
        assert!(error.starts_with(&start), "{error}");
        assert!(error.contains("Connection refused"), "{error}");
        assert!(error.contains("start the database"), "{error}");
    }
}

#[test]
fn an_absent_database_is_named() {
    for (backend, scheme, user) in [
        (Backend::postgres(), "postgres", "postgres"),
        (Backend::mariadb(), "mysql", "report:of-a-test"),
    ] {
        let address = backend.address();
        let error = refusal(&format!("{scheme}://{user}@{address}/report_absent"));
        assert!(error.contains("report_absent"), "{error}");
        assert!(error.contains("create it and its user"), "{error}");
        assert!(!error.contains("of-a-test"), "{error}");
        let error = refusal(&format!("{scheme}://nobody:secret@{address}/report_absent"));
        assert!(error.contains("nobody"), "{error}");
    }
}
