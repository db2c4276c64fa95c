//! The rates of policies as limits of the master's traffic.

use super::MasterPolicies;
use crate::{
    master::rates::{RateLimit, RateSubject, SubjectLimits},
    policy::{self, AccountId, Affected, LimitSubject, Limits, PolicyTable, Rates},
};

impl MasterPolicies {
    /// Returns the rate limits of all subjects that have some.
    pub(in crate::master) fn all_rates(&self) -> Vec<(RateSubject, SubjectLimits)> {
        let table = self.table();
        let accounts = table.accounts().map(|account| {
            let subject = LimitSubject::Account(account.id);
            (subject, Some(&account.limits))
        });
        let keys = table.keys().filter_map(|(id, key)| {
            let limits = key.limits.as_deref()?;
            Some((LimitSubject::Key(id), Some(limits)))
        });
        let relay = (LimitSubject::Relay, Some(&table.relay().limits));
        let all = std::iter::once(relay).chain(accounts).chain(keys);
        let rates = all.map(|(subject, limits)| self.rates_of(subject, limits));
        let unlimited = SubjectLimits::default();
        rates.filter(|(_, limits)| *limits != unlimited).collect()
    }

    /// Returns the rate limits of the affected subjects.
    pub(in crate::master) fn affected_rates(
        &self,
        affected: &Affected,
    ) -> Vec<(RateSubject, SubjectLimits)> {
        let table = self.table();
        let accounts = affected.accounts.iter().copied();
        let keys = affected.keys.iter().copied();
        let relay = affected.relay.then_some(LimitSubject::Relay);
        let subjects = accounts
            .map(LimitSubject::Account)
            .chain(keys.map(LimitSubject::Key))
            .chain(relay);
        subjects
            .map(|subject| self.rates_of(subject, limits_of(&table, subject)))
            .collect()
    }

    /// Returns the rate limits of these subjects.
    pub(in crate::master) fn rates_of_subjects(
        &self,
        subjects: impl IntoIterator<Item = LimitSubject>,
    ) -> Vec<(RateSubject, SubjectLimits)> {
        let table = self.table();
        let subjects = subjects.into_iter();
        subjects
            .map(|subject| self.rates_of(subject, limits_of(&table, subject)))
            .collect()
    }

    /// Returns the rate limits of a policy, or the lower ones to which quotas slow the subject down.
    fn rates_of(
        &self,
        subject: LimitSubject,
        limits: Option<&Limits>,
    ) -> (RateSubject, SubjectLimits) {
        let unlimited = Rates::default();
        let rates = limits.map_or(&unlimited, |limits| &limits.rates);
        let slow = self.quota_state(subject).slow;
        let limits = SubjectLimits {
            up: lower(rates.up, slow.up),
            down: lower(rates.down, slow.down),
            both: lower(rates.both, slow.both),
            weight: limits.map_or(1, |limits| limits.weight),
        };
        (rate_subject(subject), limits)
    }
}

/// Returns the limits of a subject.
pub(in crate::master) fn limits_of(table: &PolicyTable, subject: LimitSubject) -> Option<&Limits> {
    match subject {
        LimitSubject::Relay => Some(&table.relay().limits),
        LimitSubject::Account(id) => table.account(id).map(|account| &account.limits),
        LimitSubject::Key(id) => table.key(id).and_then(|key| key.limits.as_deref()),
    }
}

/// Returns the lower one of two limits.
fn lower(one: Option<policy::RateLimit>, other: Option<policy::RateLimit>) -> Option<RateLimit> {
    let lowest = one
        .into_iter()
        .chain(other)
        .min_by_key(|limit| limit.rate.0)?;
    Some(RateLimit {
        bytes_per_second: lowest.rate.0,
        burst: lowest.burst.map(|burst| burst.0),
    })
}

/// Returns the subject of the rate limits.
pub(in crate::master) fn rate_subject(subject: LimitSubject) -> RateSubject {
    match subject {
        LimitSubject::Relay => RateSubject::Relay,
        LimitSubject::Account(id) => RateSubject::Account(account_number(id)),
        LimitSubject::Key(id) => RateSubject::Key(id),
    }
}

/// Returns the number of an account among the subjects of rate limits.
pub(in crate::master) fn account_number(account: AccountId) -> u64 {
    u64::try_from(account.0).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{ByteSize, Rate};

    fn limit(rate: u64, burst: Option<u64>) -> Option<policy::RateLimit> {
        Some(policy::RateLimit {
            rate: Rate(rate),
            burst: burst.map(ByteSize),
        })
    }

    #[test]
    fn the_lower_rate_applies_with_its_burst() {
        let found = lower(limit(1_000, Some(7)), limit(2_000, None));
        assert_eq!(
            found.map(|found| (found.bytes_per_second, found.burst)),
            Some((1_000, Some(7)))
        );
        let found = lower(limit(1_000, Some(7)), limit(500, None));
        assert_eq!(
            found.map(|found| (found.bytes_per_second, found.burst)),
            Some((500, None))
        );
        assert_eq!(lower(None, None), None);
    }
}
