//! The schema of the database, and its migrations.
//!
//! A migration is never changed after a release: its checksum is in the database. A new one gets
//! the next version.

use std::{borrow::Cow, time::Duration};

use sqlx::{
    Any, AnyPool, AssertSqlSafe, SqlSafeStr as _,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
    pool::PoolConnection,
};

use super::{Dialect, RecordKind, StoreError, StoreUrl, rows::Columns, transaction::bounded};

/// The migrations in order: version, description, statements.
const MIGRATIONS: &[(i64, &str, &str)] =
    &[(1, "tables", include_str!("migrations/0001_tables.sql"))];

/// How often a migration of SQLite is attempted. Its migrations have no lock, but each of them is
/// one transaction.
const ATTEMPTS: u32 = 50;

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// How long all migrations may take, including the wait for another process that migrates.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Creates or updates the schema.
///
/// # Errors
/// If a newer program has changed it, or if it cannot be changed.
pub(super) async fn run(pool: &AnyPool, url: &StoreUrl) -> Result<(), StoreError> {
    match tokio::time::timeout(TIMEOUT, migrate(pool, url)).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::Schema {
            database: url.to_string(),
            cause: format!("it took longer than {} s", TIMEOUT.as_secs()),
        }),
    }
}

async fn migrate(pool: &AnyPool, url: &StoreUrl) -> Result<(), StoreError> {
    let lock = match url.dialect() {
        Dialect::Mysql => Some(lock(pool, url).await?),
        // The migrator has a lock for PostgreSQL.
        Dialect::Sqlite | Dialect::Postgres => None,
    };
    let result = apply(pool, url).await;
    if let Some(lock) = lock {
        // The lock ends with its connection, also after an error.
        bounded(lock.close()).await?;
    }
    result
}

/// Applies the missing migrations.
async fn apply(pool: &AnyPool, url: &StoreUrl) -> Result<(), StoreError> {
    let migrator = migrator(url.dialect());
    let mut attempts = 1_u32;
    loop {
        match migrator.run(pool).await {
            Ok(()) => return Ok(()),
            // Another process creates the schema of SQLite now.
            Err(MigrateError::Execute(_) | MigrateError::ExecuteMigration(..))
                if url.dialect() == Dialect::Sqlite && attempts < ATTEMPTS =>
            {
                attempts = attempts.saturating_add(1);
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(schema_error(url, &error)),
        }
    }
}

/// Locks the schema of MariaDB. The lock of the migrator waits for -1 s, which MariaDB does not
/// take as an endless time.
async fn lock(pool: &AnyPool, url: &StoreUrl) -> Result<PoolConnection<Any>, StoreError> {
    let mut connection = bounded(pool.acquire()).await?;
    // Names of locks have at most 64 characters, and are shared by all databases of a server.
    let query = url
        .dialect()
        .query("SELECT GET_LOCK(CONCAT('report ', LEFT(DATABASE(), 50)), 60) AS locked");
    // The caller limits the time.
    let row = query.fetch_optional(&mut *connection).await?;
    let locked = row.map(|row| Columns::new(&row, RecordKind::Relay, "locked").number("locked"));
    match locked {
        Some(Ok(1)) => Ok(connection),
        _ => Err(StoreError::Schema {
            database: url.to_string(),
            cause: "another process does not finish its changes".to_owned(),
        }),
    }
}

/// Returns the migrations in the dialect.
fn migrator(dialect: Dialect) -> Migrator {
    let migrations = MIGRATIONS.iter().map(|(version, description, sql)| {
        let sql = sql.replace("{suffix}", dialect.table_suffix());
        Migration::new(
            *version,
            Cow::Borrowed(*description),
            MigrationType::Simple,
            AssertSqlSafe(sql).into_sql_str(),
            false,
        )
    });
    Migrator::with_migrations(migrations.collect())
}

fn schema_error(url: &StoreUrl, error: &MigrateError) -> StoreError {
    let database = url.to_string();
    match error {
        MigrateError::VersionMissing(found) => StoreError::SchemaNewer {
            database,
            found: *found,
            known: MIGRATIONS
                .iter()
                .map(|(version, ..)| *version)
                .max()
                .unwrap_or_default(),
        },
        MigrateError::Dirty(step) => StoreError::SchemaIncomplete {
            database,
            step: *step,
        },
        error => StoreError::Schema {
            database,
            cause: error.to_string(),
        },
    }
}
