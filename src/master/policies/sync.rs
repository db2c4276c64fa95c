//! Follows the changes of a database: reads what has changed, applies it to the table, and enforces
//! it. While the database is away, or has a record that cannot be read, the table stays as it is.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tracing::{error, info};

use super::MasterPolicies;
use crate::{
    master::{administered::StoreProblem, router::Router},
    store::{ChangeWatch, Store, StoreError},
};

/// The pause before changes that could not be read are read again.
const RETRY: Duration = Duration::from_millis(500);

/// The database that policies follow.
#[derive(Debug)]
pub(super) struct FollowedStore {
    pub(super) store: Arc<Store>,
    /// The counter of the changes that were loaded at the start.
    counter: i64,
}

impl MasterPolicies {
    /// Loads all records of a database into new policies. A master with these policies then follows
    /// its changes.
    ///
    /// # Errors
    /// If the database is away, or a record is invalid. Some records may be loaded then.
    pub async fn follow(&self, store: Arc<Store>) -> Result<(), StoreError> {
        let (mut accounts, mut credentials, mut keys) = (0, 0, 0);
        let load = store.load_parts(|part| {
            let loaded = self.apply(part, false);
            accounts += loaded.accounts.len();
            credentials += loaded.credentials.len();
            keys += loaded.keys.len();
        });
        let counter = load.await?;
        info!(store = %store.url(), accounts, credentials, keys, "policies loaded");
        let followed = FollowedStore { store, counter };
        // Policies follow one database.
        let _ = self.followed.set(followed);
        Ok(())
    }
}

impl Router {
    /// Follows the database of the policies, if they have one, until the future is dropped.
    ///
    /// # Cancel safety
    /// Safe: changes are applied between two awaits.
    pub(in crate::master) async fn follow_store(&self) {
        let Some(followed) = self.policies.followed.get() else {
            return;
        };
        let store = &followed.store;
        let mut watch = ChangeWatch::new(Arc::clone(store));
        let mut status = store.status_changes();
        let mut seen = followed.counter;
        let mut unreadable: Option<String> = None;
        loop {
            tokio::select! {
                _ = watch.changed(seen) => match self.read_changes(store, seen).await {
                    Ok(counter) => (seen, unreadable) = (counter, None),
                    Err(error) => {
                        unreadable = (!error.is_away()).then(|| error.to_string());
                        self.note_problem(store, unreadable.as_deref());
                        sleep(RETRY).await;
                    }
                },
                // The store has the sender.
                _ = status.changed() => {}
            }
            self.note_problem(store, unreadable.as_deref());
        }
    }

    /// Applies and enforces the changes after a counter. Returns the counter up to which they are
    /// known.
    async fn read_changes(&self, store: &Store, seen: i64) -> Result<i64, StoreError> {
        let delta = store.delta(seen).await?;
        let affected = self.change_policies(delta.changes, delta.is_complete);
        if !affected.is_empty() {
            info!(
                accounts = affected.accounts.len(),
                credentials = affected.credentials.len(),
                keys = affected.keys.len(),
                relay = affected.relay,
                "policies changed"
            );
        }
        Ok(delta.counter)
    }

    /// Updates the reason why the policies may be outdated. `unreadable` is the error of an invalid
    /// record.
    fn note_problem(&self, store: &Store, unreadable: Option<&str>) {
        let (policies, status) = (&self.policies, store.status());
        let former = policies.problem();
        let problem = match (status.error, unreadable) {
            (Some(cause), _) => Some(StoreProblem {
                cause,
                since: status.since,
                is_away: true,
            }),
            (None, Some(cause)) => {
                let same = former.filter(|former| former.cause == cause);
                if same.is_none() {
                    error!("the policies stay as they are: {cause}");
                }
                let since = same.map(|same| same.since);
                Some(StoreProblem {
                    cause: cause.to_owned(),
                    since: since.unwrap_or_else(|| policies.clock().seconds()),
                    is_away: false,
                })
            }
            (None, None) => None,
        };
        self.set_store_problem(problem);
    }
}
