//! Usage: bytes of keys, accounts and the relay, their quotas, and the live numbers of all masters.
//!
//! ```text
//!  channel pairs ──► UsageMeter ──250 ms──► UsageLedger ──4 s──► database ◄──► other masters
//!                                             │   ▲ sums of quotas ──┘
//!                                             └─► QuotaState ──► rates, decisions
//! ```
//!
//! A master that is killed loses at most 5 s. While the database is away, increments wait in bounded
//! memory. At the end of a drain the rest is written.
//!
//! # Locks
//! The table of policies, then the ledger, then the meter. None is held across an await.

mod attachments;
mod clock_check;
mod counts;
mod label_totals;
mod ledger;
mod live_numbers;
mod meter;
mod metrics;
mod pending;
mod quota_book;
mod start;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::{
    clock_check::{CONFIRMATION_TIME, ClockCheck},
    quota_book::ReachedThreshold,
};
pub(super) use self::{
    ledger::UsageLedger,
    meter::{Charge, PairMeter, UsageMeter},
};
use super::{
    events::EventKind,
    policies::{Clock, MasterPolicies},
    router::{Router, now},
};
use crate::{
    policy::{LimitSubject, ThresholdAction},
    random,
    store::{Maintenance, Retention, Store, StoreError},
};
use report_proto::id::Id;

/// The time between two checks of the quotas.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// The checks in the time between two walks over the pairs while no quota is in use.
const CHECKS_PER_WALK: u32 = 4;

/// The time between two flushes. With a walk before and the time of the transaction, a master that is
/// killed loses at most 5 s.
const FLUSH_INTERVAL: Duration = Duration::from_secs(4);

/// The time between two rounds of maintenance.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(60);

/// How long the end of a master waits for the database.
const FINISH_TIMEOUT: Duration = Duration::from_secs(10);

/// The most counters of quotas that one round reads.
const MAX_READS: usize = 2_000;

/// The most characters of a master's name.
const MAX_NAME: usize = 64;

/// The usage of a master with a database.
pub(super) struct Usage {
    store: Arc<Store>,
    router: Arc<Router>,
    retention: Mutex<Retention>,
    /// The id of this start.
    epoch: Id,
    /// The name for people.
    name: String,
    ledger: Mutex<UsageLedger>,
    /// Wakes the writer: a counter of a quota has not been read.
    unread: Notify,
}

impl Usage {
    /// Creates the usage of a master that starts now. The meter counts from now on.
    pub(super) fn new(
        store: Arc<Store>,
        router: Arc<Router>,
        name: &str,
        retention: Retention,
    ) -> Arc<Self> {
        router.policies.meter.enable();
        Arc::new(Usage {
            store,
            router,
            retention: Mutex::new(retention),
            epoch: Id(random::bytes()),
            name: name.chars().take(MAX_NAME).collect(),
            ledger: Mutex::new(UsageLedger::new()),
            unread: Notify::new(),
        })
    }

    /// Counts, checks and writes until `ended` is cancelled, then writes what is left.
    ///
    /// # Cancel safety
    /// A dropped future loses the increments of the last seconds. A flush that was cancelled is
    /// repeated by the next one, and counts once.
    pub(super) async fn run(&self, ended: CancellationToken) {
        let running =
            async { tokio::join!(self.check_quotas(), self.write_flushes(), self.maintain()) };
        ended.run_until_cancelled(running).await;
        self.collect();
        match timeout(FINISH_TIMEOUT, self.flush_all()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "usage of the last seconds is lost"),
            Err(_) => warn!("usage of the last seconds is lost: the database is too slow"),
        }
    }

    async fn check_quotas(&self) {
        let mut checks = interval(CHECK_INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut number = 0_u32;
        loop {
            checks.tick().await;
            number = number.wrapping_add(1);
            let is_walk = number.is_multiple_of(CHECKS_PER_WALK);
            if is_walk || !self.ledger().book.is_empty() {
                self.collect();
            }
            if is_walk {
                self.adopt_others();
            }
        }
    }

    async fn write_flushes(&self) {
        let mut due = Instant::now();
        loop {
            tokio::select! {
                () = sleep_until(due) => {
                    due = Instant::now() + FLUSH_INTERVAL;
                    self.collect();
                    log_failure("usage not written", self.flush_all().await);
                    log_failure("numbers of other masters not read", self.read_others().await);
                    self.adopt_others();
                    self.forget_unused();
                }
                () = self.unread.notified() => {}
            }
            log_failure("quotas not read", self.read_quotas().await);
        }
    }

    async fn maintain(&self) {
        let mut rounds = interval(MAINTENANCE_INTERVAL);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut clock = ClockCheck::default();
        loop {
            rounds.tick().await;
            self.policies().meter.forget_old(now());
            let done = self.maintain_once(&mut clock).await;
            log_failure("database not maintained", done);
        }
    }

    async fn maintain_once(&self, clock: &mut ClockCheck) -> Result<(), StoreError> {
        let wall = self.clock().seconds();
        let confirmed = clock.confirmed(wall, now());
        let retention = self.retention();
        let done = self.store.maintain(wall, confirmed, &retention);
        match done.await? {
            Maintenance::Unconfirmed { last } => {
                if clock.doubt(last, wall, now()) {
                    warn_of_clock(last, wall);
                }
            }
            Maintenance::Done | Maintenance::NotDue => {
                if clock.clear() {
                    info!("clock confirmed: the database is maintained again");
                }
            }
        }
        Ok(())
    }

    /// Charges what the pairs have moved, and enforces quotas whose state has changed.
    fn collect(&self) {
        if collect(&self.router, &self.ledger) {
            self.unread.notify_one();
        }
    }

    /// Writes all increments that wait.
    async fn flush_all(&self) -> Result<(), StoreError> {
        loop {
            let now = self.clock().seconds();
            let live = self.live_rows();
            let flush = {
                let mut ledger = self.ledger();
                let UsageLedger {
                    pending, published, ..
                } = &mut *ledger;
                pending.next(now, || published.publish(live)).clone()
            };
            let flushed = self.store.flush_usage(self.epoch, &self.name, &flush);
            flushed.await?;
            if self.ledger().written() {
                return Ok(());
            }
        }
    }

    /// Reads the sums of quotas over all masters.
    async fn read_quotas(&self) -> Result<(), StoreError> {
        let asked = self.ledger().counters_to_read(MAX_READS);
        if asked.is_empty() {
            return Ok(());
        }
        let found = self.store.quota_usage(&asked).await?;
        self.ledger().book.adopt_read(&asked, found);
        Ok(())
    }

    /// Reads the live numbers of the other masters.
    async fn read_others(&self) -> Result<(), StoreError> {
        let masters = self.store.masters().await?;
        let rows = self.store.live_counts_of_others(self.epoch).await?;
        self.ledger().others.see(&masters, rows, now());
        Ok(())
    }

    /// Adopts the live numbers of the other masters, except those that are too old.
    fn adopt_others(&self) {
        let sums = self.ledger().others.sums(now());
        self.policies().set_others(sums);
    }

    /// Forgets the quotas of subjects without traffic.
    fn forget_unused(&self) {
        let used: HashSet<LimitSubject> = self.policies().meter.subjects();
        let mut ledger = self.ledger();
        ledger.book.forget(|subject| used.contains(&subject));
    }

    fn policies(&self) -> &MasterPolicies {
        &self.router.policies
    }

    fn clock(&self) -> &dyn Clock {
        &**self.policies().clock()
    }

    /// Keeps the past for another time from the next round of maintenance on.
    pub(super) fn set_retention(&self, retention: Retention) {
        let mut current = self
            .retention
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *current = retention;
    }

    fn retention(&self) -> Retention {
        *self
            .retention
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn ledger(&self) -> MutexGuard<'_, UsageLedger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Usage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Usage")
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// Charges what the pairs of a router have moved, and enforces quotas whose state has changed. Returns
/// whether a counter of a quota has not been read.
pub(super) fn collect(router: &Router, ledger: &Mutex<UsageLedger>) -> bool {
    let policies = &router.policies;
    let now = policies.clock().seconds();
    let version = policies.version();
    let table = policies.table();
    let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
    let taken = policies.meter.take();
    let found = ledger.charge(taken, (&*table, version), now);
    let is_unread = ledger.book.has_unread();
    drop(ledger);
    drop(table);
    for reached in &found.reached {
        log_reached(policies, reached);
    }
    if !found.changed.is_empty() {
        router.set_quotas(found.changed);
    }
    is_unread
}

/// Logs a failed operation. The store itself reports that the database is away.
fn log_failure(what: &'static str, result: Result<(), StoreError>) {
    match result {
        Ok(()) => {}
        Err(error) if error.is_away() => debug!(%error, "{what}"),
        Err(error) => warn!(%error, "{what}"),
    }
}

/// Logs that the clock is far ahead of the last maintenance.
fn warn_of_clock(last: i64, wall: i64) {
    let days = wall.saturating_sub(last) / 86_400;
    let hours = CONFIRMATION_TIME.as_secs() / 3_600;
    warn!(
        days,
        hours,
        "nothing old is deleted from the database: the clock is days ahead of the last maintenance \
         (correct the clock if it is wrong; if it is right, maintenance continues in some hours)"
    );
}

/// Logs a threshold that was reached, and sends its event.
fn log_reached(policies: &MasterPolicies, reached: &ReachedThreshold) {
    let ReachedThreshold {
        subject,
        period,
        percent,
        action,
        bytes,
    } = reached;
    let word = match action {
        ThresholdAction::Notify => "notify",
        ThresholdAction::Slow => "slow",
        ThresholdAction::Stop => "stop",
    };
    info!(%subject, period, percent, action = word, quota = %bytes, "quota threshold reached");
    let at = policies.clock().seconds();
    policies.events.send(at, || EventKind::QuotaReached {
        subject: subject.to_string(),
        period: period.clone(),
        percent: *percent,
        action: *action,
    });
}
