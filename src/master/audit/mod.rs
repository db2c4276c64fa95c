//! Writes the events of a master into the audit log of its database: registrations, tunnels, links and
//! tokens that are refused, and quotas. Changes of records are part of their transaction (`Change::record`).
//!
//! ```text
//!  Events ──bounded──► AuditBatch ──each second──► database
//!    │                   └─ too many of one source or class: refusals are summed up, others dropped
//!    └─ received while the database is slow, too
//! ```

mod batch;
mod entries;

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::broadcast::{
        Receiver,
        error::{RecvError, TryRecvError},
    },
    time::{Interval, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::{batch::AuditBatch, entries::entries};
use super::{events::MasterEvent, policies::Clock};
use crate::store::{AuditRow, Store, StoreError};

/// The time between two batches.
const BATCH_INTERVAL: Duration = Duration::from_secs(1);

/// How long the end of a master waits for the database.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

/// Writes events into the audit log.
#[derive(Debug)]
pub(super) struct AuditWriter {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    dropped: AtomicU64,
}

impl AuditWriter {
    /// Creates a writer.
    pub(super) fn new(store: Arc<Store>, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(AuditWriter {
            store,
            clock,
            dropped: AtomicU64::new(0),
        })
    }

    /// Returns how many events were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Writes events until `ended` is cancelled, and then those that are left.
    ///
    /// # Cancel safety
    /// A dropped future loses the events of the last second.
    pub(super) async fn run(&self, mut events: Receiver<MasterEvent>, ended: CancellationToken) {
        let mut batch = AuditBatch::default();
        // Rows whose write is unknown to have succeeded. They are written again, in the same places.
        let mut in_flight = Vec::new();
        let writing = self.write_batches(&mut events, &mut batch, &mut in_flight);
        ended.run_until_cancelled(writing).await;
        loop {
            match events.try_recv() {
                Ok(event) => self.add(&mut batch, event),
                Err(TryRecvError::Lagged(missed)) => self.count_dropped(missed),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        batch.end_repetitions();
        in_flight.extend(batch.take());
        match timeout(FINISH_TIMEOUT, self.store.write_audit_rows(&in_flight)).await {
            Ok(written) => self.settle(written, &mut in_flight),
            Err(_) => warn!("events of the last second are not in the audit log"),
        }
    }

    async fn write_batches(
        &self,
        events: &mut Receiver<MasterEvent>,
        batch: &mut AuditBatch,
        in_flight: &mut Vec<AuditRow>,
    ) {
        let mut batches = interval(BATCH_INTERVAL);
        batches.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let tick = next_tick(&mut batches);
            if self.receive_during(events, batch, tick).await.is_none() {
                return;
            }
            batch.end_old_repetitions(self.clock.seconds());
            if in_flight.is_empty() {
                *in_flight = batch.take();
            }
            let writing = self.store.write_audit_rows(in_flight);
            let Some(written) = self.receive_during(events, batch, writing).await else {
                return;
            };
            self.settle(written, in_flight);
        }
    }

    /// Receives events until a future ends, so that a slow database does not let the sender run
    /// ahead. Returns its output, or `None` if there are no further events.
    async fn receive_during<T>(
        &self,
        events: &mut Receiver<MasterEvent>,
        batch: &mut AuditBatch,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                output = &mut future => return Some(output),
                event = events.recv() => match event {
                    Ok(event) => self.add(batch, event),
                    Err(RecvError::Lagged(missed)) => self.count_dropped(missed),
                    Err(RecvError::Closed) => return None,
                },
            }
        }
    }

    fn add(&self, batch: &mut AuditBatch, event: MasterEvent) {
        for entry in entries(event) {
            if !batch.add(entry) {
                self.count_dropped(1);
            }
        }
    }

    fn count_dropped(&self, events: u64) {
        self.dropped.fetch_add(events, Relaxed);
    }

    /// Removes the rows of a write, unless the database is away.
    fn settle(&self, written: Result<(), StoreError>, rows: &mut Vec<AuditRow>) {
        match written {
            Ok(()) => rows.clear(),
            Err(error) if error.is_away() => debug!(%error, "audit log not written"),
            Err(error) => {
                warn!(%error, "audit log not written");
                // The database refuses these events, and would refuse them again.
                self.count_dropped(rows.len() as u64);
                rows.clear();
            }
        }
    }
}

/// Waits for the next batch.
async fn next_tick(batches: &mut Interval) {
    batches.tick().await;
}

#[cfg(test)]
mod tests {
    use tokio::{sync::oneshot, task::yield_now};

    use super::*;
    use crate::master::{
        events::{EventKind, Events},
        policies::SystemClock,
    };

    #[tokio::test]
    async fn events_are_received_while_the_database_is_slow() {
        const EVENTS: u64 = 20_000;
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", folder.path().join("keys.db").display());
        let store = Store::open(url.parse().unwrap()).await.unwrap();
        let writer = AuditWriter::new(Arc::new(store), Arc::new(SystemClock));
        let events = Events::new();
        let (mut receiver, mut batch) = (events.subscribe(), AuditBatch::default());
        let (done, writing) = oneshot::channel();
        let send = async {
            for _ in 0..EVENTS {
                events.send(1_800_000_000, || EventKind::LinkRefused {
                    address: [192, 0, 2, 1].into(),
                    reason: "the proof of the master key is wrong".to_owned(),
                });
                yield_now().await;
            }
            done.send(()).unwrap();
        };
        let receive = writer.receive_during(&mut receiver, &mut batch, writing);
        let (ended, ()) = tokio::join!(receive, send);
        assert!(matches!(ended, Some(Ok(()))), "{ended:?}");
        assert_eq!(writer.dropped(), 0);
        // The first one and all others are one row each, except those after the end.
        batch.end_repetitions();
        let rows = batch.take();
        let repeats: u64 = rows.iter().map(|row| u64::from(row.entry.repeats)).sum();
        assert!(rows.len() == 2 && repeats > EVENTS - 10, "{repeats}");
    }
}
