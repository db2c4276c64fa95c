//! Follows the changes of a database: reads what has changed, applies it to the table, and enforces
//! it. While the database is away, the table stays as it is. A record that cannot be read is denied,
//! and the others change.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info};

use super::{MasterPolicies, unreadable::UnreadableRecords};
use crate::{
    master::{administered::StoreProblem, router::Router},
    store::{ChangeWatch, RecordKind, Store, StoreError, UnreadableRecord},
};

/// The pause before changes that could not be read are read again.
const RETRY: Duration = Duration::from_millis(500);

/// The time between two attempts to read records that could not be read. Their corrections may be
/// part of no change.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// The most lines of the log about the records of one read.
const MAX_LINES: usize = 10;

/// The database that policies follow.
#[derive(Debug)]
pub(super) struct FollowedStore {
    pub(super) store: Arc<Store>,
    /// The counter of the changes that were loaded at the start.
    counter: i64,
    /// The records that could not be read at the start.
    unreadable: Vec<UnreadableRecord>,
}

/// The state of the database as the policies have it.
struct SyncState {
    /// The counter up to which changes are known.
    seen: i64,
    unreadable: UnreadableRecords,
    /// The error due to which no change can be read.
    failure: Option<String>,
    /// When records that could not be read are read again.
    read_again_at: Instant,
}

impl MasterPolicies {
    /// Loads all records of a database into new policies. A master with these policies then follows
    /// its changes.
    ///
    /// # Errors
    /// If the database is away, or the policy of the relay is invalid. Some records may be loaded
    /// then.
    pub async fn follow(&self, store: Arc<Store>) -> Result<(), StoreError> {
        let (mut accounts, mut credentials, mut keys) = (0, 0, 0);
        let mut unreadable = Vec::new();
        let load = store.load_parts(|part| {
            let loaded = self.apply(part.changes, false);
            accounts += loaded.accounts.len();
            credentials += loaded.credentials.len();
            keys += loaded.keys.len();
            unreadable.extend(part.unreadable);
        });
        let counter = load.await?;
        // There is no former policy that could apply, and without one the relay has no limit.
        let mut records = unreadable.iter();
        if let Some(relay) = records.find(|record| record.kind == RecordKind::Relay) {
            return Err(relay.error());
        }
        info!(store = %store.url(), accounts, credentials, keys, "policies loaded");
        log_unreadable(&unreadable);
        let followed = FollowedStore {
            store,
            counter,
            unreadable,
        };
        // Policies follow one database.
        let _ = self.followed.set(followed);
        Ok(())
    }
}

impl SyncState {
    fn of(followed: &FollowedStore, now: i64) -> Self {
        let mut unreadable = UnreadableRecords::default();
        unreadable.adopt_load(&followed.unreadable, now);
        SyncState {
            seen: followed.counter,
            unreadable,
            failure: None,
            read_again_at: Instant::now() + READ_AGAIN,
        }
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
        let mut state = SyncState::of(followed, self.policies.clock().seconds());
        loop {
            self.note_problem(store, &state);
            tokio::select! {
                _ = watch.changed(state.seen) => match self.read_changes(store, &mut state).await {
                    Ok(()) => state.failure = None,
                    Err(error) => {
                        state.failure = (!error.is_away()).then(|| error.to_string());
                        self.note_problem(store, &state);
                        sleep(RETRY).await;
                    }
                },
                // The store has the sender.
                _ = status.changed() => {}
                () = sleep_until(state.read_again_at), if !state.unreadable.is_empty() => {
                    // The store itself reports that it is away.
                    let _ = self.read_unreadable(store, &mut state).await;
                    state.read_again_at = Instant::now() + READ_AGAIN;
                }
            }
        }
    }

    /// Applies and enforces the changes after a counter.
    async fn read_changes(&self, store: &Store, state: &mut SyncState) -> Result<(), StoreError> {
        let delta = store.delta(state.seen).await?;
        let now = self.policies.clock().seconds();
        let (records, found) = (&mut state.unreadable, &delta.unreadable);
        let news = if delta.is_complete {
            records.adopt_load(found, now)
        } else {
            records.adopt_changes(&delta.changes, found, now)
        };
        log_unreadable(&news);
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
        state.seen = delta.counter;
        Ok(())
    }

    /// Reads records again that could not be read.
    async fn read_unreadable(
        &self,
        store: &Store,
        state: &mut SyncState,
    ) -> Result<(), StoreError> {
        let asked = state.unreadable.next_reads();
        let found = store.read_again(&asked).await?;
        let now = self.policies.clock().seconds();
        let news = state.unreadable.adopt_again(&asked, &found.unreadable, now);
        log_unreadable(&news);
        let affected = self.change_policies(found.changes, false);
        if !affected.is_empty() {
            info!("records can be read again");
        }
        Ok(())
    }

    /// Updates the reason why the policies may be outdated.
    fn note_problem(&self, store: &Store, state: &SyncState) {
        let (policies, status) = (&self.policies, store.status());
        let former = policies.problem();
        let problem = match (status.error, &state.failure) {
            (Some(cause), _) => Some(StoreProblem {
                cause,
                since: status.since,
                is_away: true,
            }),
            (None, Some(cause)) => {
                let same = former.filter(|former| former.cause == *cause);
                if same.is_none() {
                    error!("the policies stay as they are: {cause}");
                }
                let since = same.map(|same| same.since);
                Some(StoreProblem {
                    cause: cause.clone(),
                    since: since.unwrap_or_else(|| policies.clock().seconds()),
                    is_away: false,
                })
            }
            (None, None) => state.unreadable.summary().map(|cause| StoreProblem {
                cause,
                since: state.unreadable.since(),
                is_away: false,
            }),
        };
        self.set_store_problem(problem);
    }
}

/// Logs records that cannot be read.
fn log_unreadable(records: &[UnreadableRecord]) {
    for record in records.iter().take(MAX_LINES) {
        match record.kind {
            RecordKind::Relay => error!("the former policy of the relay applies: {record}"),
            _ => error!("a record is denied, as it cannot be read: {record}"),
        }
    }
    let others = records.len().saturating_sub(MAX_LINES);
    if others > 0 {
        error!(others, "other records are denied, as they cannot be read");
    }
}
