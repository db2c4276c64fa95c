//! The policy of the relay, and the counters of the store.

use sqlx::any::AnyRow;

use super::{
    Change, RecordKind, Store, StoreError, Stored,
    rows::{Columns, json_text},
};
use crate::policy::RelayPolicy;

const SELECT: &str = "SELECT change_counter, purge_floor, relay_policy, relay_changed \
                      FROM store_state WHERE id = 1";

/// The row of `store_state`.
#[derive(Debug)]
pub(super) struct StoreState {
    /// The counter of the latest change.
    pub(super) counter: i64,
    /// The highest counter of a removed record whose row is gone.
    pub(super) purge_floor: i64,
    /// The policy of the relay, or why it cannot be read.
    pub(super) relay: Result<RelayPolicy, StoreError>,
    /// The version of the policy.
    pub(super) relay_changed: i64,
}

fn state(row: Option<&AnyRow>) -> Result<StoreState, StoreError> {
    let row = row.ok_or_else(|| {
        let problem = "the row is missing";
        StoreError::corrupt(RecordKind::Relay, "store_state", "id", problem)
    })?;
    let columns = Columns::new(row, RecordKind::Relay, "relay_changed");
    Ok(StoreState {
        counter: columns.number("change_counter")?,
        purge_floor: columns.number("purge_floor")?,
        relay: columns.json("relay_policy"),
        relay_changed: columns.number("relay_changed")?,
    })
}

impl Store {
    /// Returns the row of `store_state`.
    pub(super) async fn state(&self) -> Result<StoreState, StoreError> {
        let row = self.fetch_optional(self.dialect.query(SELECT)).await?;
        state(row.as_ref())
    }

    /// Returns the policy of the relay.
    ///
    /// # Errors
    /// If the database is away, or the row is invalid.
    pub async fn relay_policy(&self) -> Result<Stored<RelayPolicy>, StoreError> {
        let state = self.state().await?;
        Ok(Stored {
            record: state.relay?,
            changed: state.relay_changed,
        })
    }
}

impl Change<'_> {
    /// Replaces the policy of the relay.
    ///
    /// # Errors
    /// If it has another version than the expected one, if the account of its reserve does not
    /// exist, or if the database is away.
    pub async fn update_relay_policy(
        &mut self,
        policy: RelayPolicy,
        expected: Option<i64>,
    ) -> Result<Stored<RelayPolicy>, StoreError> {
        let query = self.query("SELECT relay_changed AS changed FROM store_state WHERE id = 1");
        self.check_version(query, RecordKind::Relay, &"policy", expected)
            .await?;
        if let Some(reserve) = policy.reserve {
            self.check_owner(reserve.account).await?;
        }
        let query = self
            .query("UPDATE store_state SET relay_policy = $1, relay_changed = $2 WHERE id = 1")
            .bind(json_text(&policy))
            .bind(self.counter);
        self.transaction.execute(query).await?;
        Ok(Stored {
            record: policy,
            changed: self.counter,
        })
    }
}
