//! Stores with keys, and the masters that use them.

use anyhow::Context;
use report::{
    policy::ServiceKey,
    store::{Store, StoreUrl},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{postgres::Postgres, roles::Master};

/// A database that ends with its owner.
pub(crate) struct Database {
    /// The name for the results.
    pub name: &'static str,
    url: String,
    _server: Option<Postgres>,
    _folder: TempDir,
}

impl Database {
    /// Returns a file of SQLite, which the first use creates.
    pub(crate) fn sqlite() -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("report-bench-").context("cannot create a folder")?;
        Ok(Database {
            name: "SQLite",
            url: format!("sqlite:{}", folder.path().join("keys.db").display()),
            _server: None,
            _folder: folder,
        })
    }

    /// Starts a PostgreSQL, or returns `None` if none is installed.
    pub(crate) async fn postgres() -> anyhow::Result<Option<Self>> {
        let folder = TempDir::with_prefix("report-bench-").context("cannot create a folder")?;
        let Some(server) = Postgres::start(folder.path()).await? else {
            return Ok(None);
        };
        Ok(Some(Database {
            name: "PostgreSQL",
            url: server.url().to_owned(),
            _server: Some(server),
            _folder: folder,
        }))
    }

    /// Opens the store.
    pub(crate) async fn open(&self) -> anyhow::Result<Store> {
        let url: StoreUrl = self.url.parse()?;
        Ok(Store::open(url).await?)
    }

    /// Adds keys.
    pub(crate) async fn fill(&self, keys: Vec<ServiceKey>) -> anyhow::Result<()> {
        let store = self.open().await?;
        let mut change = store.change().await?;
        for key in keys {
            change.create_key(key).await?;
        }
        change.commit().await?;
        store.close().await;
        Ok(())
    }

    /// Starts a master that uses the store.
    pub(crate) async fn start_master(&self) -> anyhow::Result<Master> {
        self.start_master_with(json!({})).await
    }

    /// Starts a master that uses the store, with these further fields.
    pub(crate) async fn start_master_with(&self, mut fields: Value) -> anyhow::Result<Master> {
        fields["store"] = json!(self.url);
        Master::start_with(&fields).await
    }
}
