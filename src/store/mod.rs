//! The database of a master: accounts, credentials, service keys, tokens, usage and the audit log.
//!
//! ```text
//!  API, commands ──► Change ──► write pool ──► ┌──────────┐ ──► ChangeWatch ──► Delta ──► policies
//!  usage, audit ──► WriteTransaction ────────► │ database │                            of a master
//!  lists, records ◄── read pool ◄───────────── └──────────┘
//! ```
//!
//! One schema and one set of statements serve SQLite, PostgreSQL and MariaDB ([`Dialect`]). Columns
//! are numbers or text and never NULL: a time, a maximum or an account of 0 means none, and the
//! empty text means the default. The database holds verifiers, hashes and key ids, never a secret.
//!
//! The data path makes no query: a master holds all policies in memory and follows the changes.

// No value in a database may cause a panic.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sqlx::{
    AnyConnection, AnyPool, ConnectOptions as _, Connection as _,
    any::{AnyConnectOptions, AnyPoolOptions, AnyRow},
};
use tokio::sync::watch as status_channel;

mod accounts;
mod audit;
mod changes;
mod credentials;
mod database_url;
mod dialect;
mod error;
mod history;
mod keys;
mod maintenance;
mod masters;
mod migrations;
mod packed;
mod pages;
mod record_rows;
mod relay;
mod rows;
mod tokens;
mod transaction;
mod usage;
mod watch;

pub use audit::{AuditEntry, AuditFilter, AuditPosition, AuditRow};
pub use changes::Delta;
pub use database_url::{InvalidStoreUrl, StoreUrl};
pub use dialect::Dialect;
pub use error::{RecordKind, StoreError};
pub use history::{UsageBucket, UsageStep};
pub use keys::KeyPosition;
pub use maintenance::{Maintenance, Retention};
pub use masters::{LiveRow, MasterRow};
pub use pages::{MAX_PAGE, Page, Stored};
pub use record_rows::{FoundRecords, UnreadableRecord};
pub use transaction::Change;
pub use usage::{MinuteUsage, QuotaCounter, QuotaUsage, UsageFlush};
pub use watch::ChangeWatch;

/// How long an operation waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// The connections that read.
const READ_CONNECTIONS: u32 = 4;

/// The connections that write. SQLite has one writer.
fn write_connections(dialect: Dialect) -> u32 {
    match dialect {
        Dialect::Sqlite => 1,
        Dialect::Postgres | Dialect::Mysql => 4,
    }
}

/// Whether the database answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStatus {
    /// The error of the latest write, otherwise that of the latest read, or `None` if the database
    /// has answered both.
    pub error: Option<String>,
    /// The time of the latest change between up and down, in Unix seconds.
    pub since: i64,
}

impl StoreStatus {
    /// Whether the database has answered the latest read and the latest write.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.error.is_none()
    }
}

/// The access to the database that an operation needs.
#[derive(Debug, Clone, Copy)]
enum Access {
    Read,
    Write,
}

/// The errors of the latest read and the latest write. A full disk, or a server that has become a
/// replica, fails the writes only: they must not turn the status at each read.
#[derive(Debug, Default)]
struct LatestErrors {
    read: Option<String>,
    write: Option<String>,
}

/// The database of a master.
#[derive(Debug)]
pub struct Store {
    url: StoreUrl,
    dialect: Dialect,
    read: AnyPool,
    write: AnyPool,
    errors: Mutex<LatestErrors>,
    status: status_channel::Sender<StoreStatus>,
}

impl Store {
    /// Opens the database, and creates or updates its schema.
    ///
    /// # Errors
    /// If the database does not answer within 5 s, or if a newer program has changed its schema.
    pub async fn open(url: StoreUrl) -> Result<Store, StoreError> {
        sqlx::any::install_default_drivers();
        let dialect = url.dialect();
        let options = url.connect_options()?;
        // A pool would hide why it cannot connect.
        let opened = tokio::time::timeout(ACQUIRE_TIMEOUT, prepare(&options, dialect)).await;
        match opened {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(StoreError::unreachable(&url, &error)),
            Err(_) => {
                let cause = format!("no answer within {} s", ACQUIRE_TIMEOUT.as_secs());
                return Err(StoreError::unreachable(&url, &cause));
            }
        }
        let pool = |connections| {
            AnyPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(ACQUIRE_TIMEOUT)
                // The error of the operation is enough.
                .acquire_slow_threshold(Duration::MAX)
                .after_connect(move |connection, _| {
                    Box::pin(async move {
                        if let Some(limit) = dialect.limit_of_idle_transactions() {
                            // A server that does not know the limit works too.
                            let _ = dialect.query(limit).execute(connection).await;
                        }
                        Ok(())
                    })
                })
                .connect_lazy_with(options.clone())
        };
        let (status, _) = status_channel::channel(StoreStatus {
            error: None,
            since: unix_now(),
        });
        let store = Store {
            dialect,
            read: pool(READ_CONNECTIONS),
            write: pool(write_connections(dialect)),
            errors: Mutex::default(),
            status,
            url,
        };
        migrations::run(&store.write, &store.url).await?;
        Ok(store)
    }

    /// Returns the address of the database. Its text does not contain the password.
    #[must_use]
    pub fn url(&self) -> &StoreUrl {
        &self.url
    }

    /// Returns the dialect of the database.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Returns whether the database answers.
    #[must_use]
    pub fn status(&self) -> StoreStatus {
        self.status.borrow().clone()
    }

    /// Returns a receiver of changes between up and down.
    #[must_use]
    pub fn status_changes(&self) -> status_channel::Receiver<StoreStatus> {
        self.status.subscribe()
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }

    /// Returns the counter of the latest change.
    ///
    /// # Errors
    /// If the database is away.
    pub async fn change_counter(&self) -> Result<i64, StoreError> {
        let query = self
            .dialect
            .query("SELECT change_counter FROM store_state WHERE id = 1");
        let row = self.fetch_optional(query).await?;
        counter_of(row.as_ref(), "change_counter")
    }

    /// Updates the status by the result of an operation, and returns the result.
    fn observe<T>(&self, access: Access, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let error = match &result {
            Err(StoreError::Away(cause)) => Some(cause),
            // A refused statement is an answer too.
            _ => None,
        };
        let has_turned = self.status.send_if_modified(|status| {
            let latest = self.note_error(access, error.cloned());
            let turns = status.is_up() != latest.is_none();
            if turns {
                *status = StoreStatus {
                    error: latest,
                    since: unix_now(),
                };
            }
            turns
        });
        match error {
            Some(cause) if has_turned => tracing::warn!(store = %self.url, %cause, "store away"),
            None if has_turned => tracing::info!(store = %self.url, "store answers again"),
            _ => {}
        }
        result
    }

    /// Records the error of an operation, or that it has none. Returns the one that is left.
    fn note_error(&self, access: Access, error: Option<String>) -> Option<String> {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        match access {
            Access::Read => errors.read = error,
            Access::Write => errors.write = error,
        }
        errors.write.clone().or_else(|| errors.read.clone())
    }
}

/// Connects once. Lets the readers of SQLite continue while it writes.
async fn prepare(options: &AnyConnectOptions, dialect: Dialect) -> Result<(), sqlx::Error> {
    let mut connection = options.connect().await?;
    if dialect == Dialect::Sqlite {
        write_ahead(&mut connection).await?;
    }
    connection.close().await
}

/// Switches a file of SQLite to a write-ahead log. SQLite does not wait for another process here.
async fn write_ahead(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    loop {
        let query = Dialect::Sqlite.query("PRAGMA journal_mode = WAL");
        match query.fetch_optional(&mut *connection).await {
            Ok(_) => return Ok(()),
            Err(error) => match StoreError::from(error) {
                // The caller limits the time.
                StoreError::Away(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                StoreError::Statement(error) => return Err(error),
                other => return Err(sqlx::Error::Protocol(other.to_string())),
            },
        }
    }
}

/// Returns a number of the row of `store_state`.
fn counter_of(row: Option<&AnyRow>, column: &'static str) -> Result<i64, StoreError> {
    let row = row.ok_or_else(|| {
        let problem = "the row is missing";
        StoreError::corrupt(RecordKind::Relay, "store_state", column, problem)
    })?;
    rows::Columns::new(row, RecordKind::Relay, column).number(column)
}

/// Returns the time in Unix seconds.
fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_store_that_can_be_read_but_not_written_stays_away() {
        let folder = tempfile::tempdir().unwrap();
        let url: StoreUrl = "sqlite:keys.db".parse().unwrap();
        let store = Store::open(url.relative_to(folder.path())).await.unwrap();
        let mut changes = store.status_changes();
        let full = || Err::<(), _>(StoreError::Away("the disk is full".to_owned()));
        for _ in 0..3 {
            store.observe(Access::Write, full()).unwrap_err();
            store.change_counter().await.unwrap();
            assert_eq!(store.status().error.as_deref(), Some("the disk is full"));
        }
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        store.observe(Access::Write, full()).unwrap_err();
        assert!(!changes.has_changed().unwrap(), "it is away already");
        store.change().await.unwrap().commit().await.unwrap();
        assert!(store.status().is_up());
        store.observe(Access::Read, full()).unwrap_err();
        assert!(!store.status().is_up());
        store.change_counter().await.unwrap();
        assert!(store.status().is_up());
    }
}
