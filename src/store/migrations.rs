//! The schema of the database, and its migrations.
//!
//! A migration is never changed after a release: its checksum is in the database. A new one gets the
//! next version.

use std::{borrow::Cow, time::Duration};

use sqlx::{
    AnyPool, AssertSqlSafe, SqlSafeStr as _,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};

use super::{Dialect, StoreError, StoreUrl};

/// The migrations in order: version, description, statements.
const MIGRATIONS: &[(i64, &str, &str)] =
    &[(1, "tables", include_str!("migrations/0001_tables.sql"))];

/// How often a migration of SQLite is attempted. The other databases have a lock for it.
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
    let migrator = migrator(url.dialect());
    let mut attempts = 1;
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
