//! The store over SQLite, PostgreSQL and MariaDB: one suite for all of them, and the differences.

mod accounts;
mod audit;
mod backends;
mod changes;
mod credentials;
mod keys;
mod outages;
mod scale;
mod schema;
mod sqlite;
mod suite;
mod usage;

use std::{future::Future, sync::Arc, time::Duration};

use report::store::{Store, StoreError, StoreUrl};

/// A limit for operations that usually take milliseconds, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A time of the tests, in Unix seconds.
const NOW: i64 = 1_800_000_000;

/// Runs a future to its end.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(future)
}

/// Parses an address and opens the database.
async fn try_open(url: &str) -> Result<Store, StoreError> {
    let url: StoreUrl = url.parse().expect("the address of a database");
    Store::open(url).await
}

/// The same for a database that opens.
async fn open(url: &str) -> Arc<Store> {
    match try_open(url).await {
        Ok(store) => Arc::new(store),
        Err(error) => panic!("{error}"),
    }
}

/// Waits for a future. Fails the test if it takes too long.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("timed out after {PATIENCE:?} waiting for {what}"),
    }
}
