//! Quotas and usage over time, with a clock that the tests control.

mod quotas;
mod several_masters;

use std::collections::HashMap;

use super::{
    ledger::UsageLedger,
    meter::{Charge, add},
    quota_book::QuotaCheck,
};
use crate::{
    master::policies::QuotaState,
    policy::{
        Account, AccountId, ByteSize, Changes, LimitSubject, Moved, Period, PeriodUnit,
        PolicyTable, Quota, Rate, RateLimit, Rates, RelayPolicy, Reserve, ServiceKey, Threshold,
        ThresholdAction,
    },
    store::{QuotaCounter, QuotaUsage, UsageFlush},
};
use report_proto::id::Id;

/// 2027-01-15 08:00:00 UTC.
const NOW: i64 = 1_800_000_000;

const DAY: i64 = 86_400;

const KEY: Id = Id([7; 16]);

const OWNER: AccountId = AccountId(2);

fn key() -> LimitSubject {
    LimitSubject::Key(KEY)
}

fn moved(up: u64, down: u64) -> Moved {
    Moved { up, down }
}

/// A quota of 1,000 bytes a day: a notice at 800, slow at 1,000, and stopped at 2,000.
fn quota() -> Quota {
    let threshold = |percent, action, rate: Option<u64>| Threshold {
        percent,
        action,
        rate: rate.map(Rate),
    };
    Quota {
        thresholds: vec![
            threshold(80, ThresholdAction::Notify, None),
            threshold(100, ThresholdAction::Slow, Some(500)),
            threshold(200, ThresholdAction::Stop, None),
        ],
        ..Quota::new(Period::new(PeriodUnit::Day), ByteSize(1_000))
    }
}

/// The state of a quota that slows down.
fn slow() -> QuotaState {
    let rate = Rate(500);
    QuotaState {
        slow: Rates {
            both: Some(RateLimit { rate, burst: None }),
            ..Rates::default()
        },
        ..QuotaState::default()
    }
}

fn stopped() -> QuotaState {
    QuotaState {
        is_stopped: true,
        is_reserve_stopped: true,
        ..QuotaState::default()
    }
}

/// A table with one key, its owner, another account, and these quotas of the key and of the relay.
fn table(of_key: Vec<Quota>, of_relay: Vec<Quota>) -> PolicyTable {
    let mut service = ServiceKey::new(KEY, "ssh");
    service.account = Some(OWNER);
    service.limits.quotas = of_key;
    let mut relay = RelayPolicy::default();
    relay.limits.quotas = of_relay;
    let mut table = PolicyTable::default();
    table.apply(Changes {
        accounts: vec![
            Account::new(OWNER, "owner"),
            Account::new(AccountId(3), "other"),
        ],
        keys: vec![service],
        relay: Some(relay),
        ..Changes::default()
    });
    table
}

fn with_reserve(mut table: PolicyTable, account: AccountId, percent: u8) -> PolicyTable {
    let mut relay = table.relay().clone();
    relay.reserve = Some(Reserve { account, percent });
    table.apply(Changes {
        relay: Some(relay),
        ..Changes::default()
    });
    table
}

/// A database of quotas in memory, which the ledgers of several masters share.
#[derive(Debug, Default)]
struct Quotas(HashMap<QuotaCounter, Moved>);

/// A master without links.
struct Master {
    ledger: UsageLedger,
    version: u64,
}

impl Master {
    fn new() -> Self {
        Master {
            ledger: UsageLedger::new(),
            version: 0,
        }
    }

    /// Moves bytes of the key, and checks the quotas.
    fn charge(&mut self, table: &PolicyTable, bytes: u64, now: i64) -> QuotaCheck {
        let charge = Charge {
            key: KEY,
            owner: Some(OWNER),
            client: None,
        };
        let taken = (bytes > 0).then_some((charge, moved(bytes, 0)));
        self.ledger.charge(taken, (table, self.version), now)
    }

    /// Returns the flush that is in flight.
    fn next(&mut self, now: i64) -> UsageFlush {
        self.ledger.pending.next(now, Vec::new).clone()
    }

    /// Writes everything into the database, and reads all counters.
    fn synchronize(&mut self, quotas: &mut Quotas, now: i64) {
        loop {
            let flush = self.next(now);
            quotas.add(&flush.quotas);
            if self.ledger.written() {
                break;
            }
        }
        self.read(quotas);
    }

    fn read(&mut self, quotas: &Quotas) {
        let asked = self.ledger.counters_to_read(100);
        let found = asked.iter().filter_map(|counter| {
            let moved = *quotas.0.get(counter)?;
            let counter = counter.clone();
            Some(QuotaUsage { counter, moved })
        });
        let found = found.collect();
        self.ledger.book.adopt_read(&asked, found);
    }
}

impl Quotas {
    fn add(&mut self, rows: &[QuotaUsage]) {
        for QuotaUsage { counter, moved } in rows {
            add(self.0.entry(counter.clone()).or_default(), *moved);
        }
    }
}

/// The actions of the thresholds that were reached.
fn actions(check: &QuotaCheck) -> Vec<(u16, ThresholdAction)> {
    let reached = check.reached.iter();
    reached
        .map(|reached| (reached.percent, reached.action))
        .collect()
}
