//! Reads the quotas of all records before the master accepts links, so that a used-up quota acts on
//! the first of them.

use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use super::{MAX_READS, Usage, log_failure, log_reached};
use crate::{policy::ThresholdAction, store::StoreError};

/// How long the start of a master waits for the bytes of its quotas: the relay's, then those of
/// accounts, then those of keys. The others are read when their traffic begins.
const START_TIMEOUT: Duration = Duration::from_secs(1);

impl Usage {
    /// Reads the bytes of all quotas, and enforces those that are used up.
    ///
    /// # Cancel safety
    /// Safe: what was not read is read later.
    pub(in crate::master) async fn read_at_start(&self) {
        let now = self.clock().seconds();
        self.track_all(now);
        match timeout(START_TIMEOUT, self.read_unread()).await {
            Ok(read) => log_failure("quotas not read", read),
            Err(_) => warn!(
                seconds = START_TIMEOUT.as_secs(),
                "quotas not read in time: some that are used up act a moment later"
            ),
        }
        self.enforce_known(now);
    }

    fn track_all(&self, now: i64) {
        let table = self.policies().table();
        self.ledger().track_all(&table, now);
    }

    /// Reads the counters that have not been read.
    async fn read_unread(&self) -> Result<(), StoreError> {
        loop {
            let asked = self.ledger().unread_counters(MAX_READS);
            if asked.is_empty() {
                return Ok(());
            }
            let found = self.store.quota_usage(&asked).await?;
            self.ledger().book.adopt_read(&asked, found);
        }
    }

    /// Enforces the quotas that are used up. Their notices were given before the start.
    fn enforce_known(&self, now: i64) {
        let table = self.policies().table();
        let found = self.ledger().book.check(table.relay(), now);
        drop(table);
        let reached = found.reached.iter();
        let reached = reached.filter(|reached| reached.action != ThresholdAction::Notify);
        reached.for_each(|reached| log_reached(self.policies(), reached));
        if !found.changed.is_empty() {
            self.router.set_quotas(found.changed);
        }
    }
}
