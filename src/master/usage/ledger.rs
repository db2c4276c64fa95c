//! The knowledge of a master about usage: increments that wait, quotas, and the numbers of other masters.
//! Pure: the time is an argument.

use super::{
    counts::{OtherMasters, PublishedCounts},
    label_totals::LabelTotals,
    meter::Charge,
    pending::{MAX_WAITING, PendingUsage},
    quota_book::{QuotaBook, QuotaCheck},
};
use crate::{
    policy::{AccountId, LimitSubject, Moved, PolicyTable},
    store::QuotaCounter,
};

/// The knowledge of a master about usage.
#[derive(Debug)]
pub(in crate::master) struct UsageLedger {
    pub(super) pending: PendingUsage,
    pub(super) book: QuotaBook,
    pub(super) labels: LabelTotals,
    pub(super) others: OtherMasters,
    pub(super) published: PublishedCounts,
    /// The version of the policies that the quotas follow.
    policies: Option<u64>,
}

/// Whether the usage of a subject is counted. Servers may register any key id, so only keys with a
/// policy are counted: the database must not grow with each invented one.
fn is_counted(table: &PolicyTable, subject: LimitSubject) -> bool {
    match subject {
        LimitSubject::Relay => true,
        LimitSubject::Account(id) => id == AccountId::MASTER || table.account(id).is_some(),
        LimitSubject::Key(id) => table.key(id).is_some(),
    }
}

impl UsageLedger {
    /// Creates the ledger of a new epoch.
    pub(in crate::master) fn new() -> Self {
        UsageLedger {
            pending: PendingUsage::new(MAX_WAITING),
            book: QuotaBook::default(),
            labels: LabelTotals::default(),
            others: OtherMasters::default(),
            published: PublishedCounts::default(),
            policies: None,
        }
    }

    /// Follows the quotas of all records, before there is traffic.
    pub(super) fn track_all(&mut self, table: &PolicyTable, now: i64) {
        let accounts = table.accounts().map(|account| account.id);
        let keys = table.keys().map(|(id, _)| id);
        let subjects = std::iter::once(LimitSubject::Relay)
            .chain(accounts.map(LimitSubject::Account))
            .chain(keys.map(LimitSubject::Key));
        for subject in subjects {
            self.book.track(table, subject, now);
        }
    }

    /// Charges bytes that were moved until `now`, and checks all quotas. `version` is that of the
    /// policies.
    pub(super) fn charge(
        &mut self,
        taken: impl IntoIterator<Item = (Charge, Moved)>,
        (table, version): (&PolicyTable, u64),
        now: i64,
    ) -> QuotaCheck {
        if self.policies != Some(version) {
            self.policies = Some(version);
            self.book.adopt(table, now);
        }
        for (charge, moved) in taken {
            let policy = table.key(charge.key);
            self.labels.add(policy.map(|policy| &*policy.label), moved);
            let counted = charge.subjects();
            for subject in counted.filter(|subject| is_counted(table, *subject)) {
                self.pending.add_usage(subject, moved, now);
                self.book.track(table, subject, now);
                self.book.charge(subject, moved, now, &mut self.pending);
            }
        }
        self.book.check(table.relay(), now)
    }

    /// Returns at most about `most` counters of quotas to read. While it is unknown whether a flush is
    /// committed there are none: the database may contain bytes that also count as unwritten.
    pub(super) fn counters_to_read(&mut self, most: usize) -> Vec<QuotaCounter> {
        if self.pending.is_in_doubt() {
            return Vec::new();
        }
        self.book.counters_to_read(most)
    }

    /// Returns the same as [`UsageLedger::counters_to_read`], or none if all counters have been read.
    pub(super) fn unread_counters(&mut self, most: usize) -> Vec<QuotaCounter> {
        if self.book.has_unread() {
            self.counters_to_read(most)
        } else {
            Vec::new()
        }
    }

    /// Forgets the flush in flight, which is committed. Returns whether everything is written.
    pub(super) fn written(&mut self) -> bool {
        if let Some(flush) = self.pending.written() {
            self.book.written(&flush.quotas);
        }
        self.pending.is_empty()
    }
}
