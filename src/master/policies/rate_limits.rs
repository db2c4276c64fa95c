//! The rates of policies as limits of the master's traffic.

use super::MasterPolicies;
use crate::{
    master::rates::{self, RateLimit, RateSubject, SubjectLimits},
    policy::{self, AccountId, Affected, LimitSubject, Limits, PolicyTable, Rates},
};

impl MasterPolicies {
    /// Sets the rate limits of all subjects that have some, for a master that starts. There may be
    /// 100,000, so they are not collected first.
    pub(in crate::master) fn set_all_rates(&self, in_force: &rates::Rates) {
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
        in_force.set_limits(rates.filter(|(_, limits)| *limits != unlimited));
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
        let others = self.slow_beside_reserve(subject);
        let limits = SubjectLimits {
            up: lowest([rates.up, slow.up, others.up]),
            down: lowest([rates.down, slow.down, others.down]),
            both: lowest([rates.both, slow.both, others.both]),
            weight: limits.map_or(1, |limits| limits.weight),
        };
        (rate_subject(subject), limits)
    }
}

impl MasterPolicies {
    /// Returns the rates of an account while only a reserve of another one is left of the relay's
    /// quota.
    fn slow_beside_reserve(&self, subject: LimitSubject) -> Rates {
        let LimitSubject::Account(account) = subject else {
            return Rates::default();
        };
        let relay = self.quota_state(LimitSubject::Relay);
        if relay.reserve == Some(account) {
            return Rates::default();
        }
        relay.slow_others
    }

    /// Returns the accounts, and the one of the master key.
    pub(super) fn accounts(&self) -> impl Iterator<Item = AccountId> + use<> {
        let table = self.table();
        let accounts = table.accounts().map(|account| account.id);
        let accounts: Vec<AccountId> = accounts.chain([AccountId::MASTER]).collect();
        accounts.into_iter()
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

/// Returns the lowest one of some limits.
fn lowest(limits: [Option<policy::RateLimit>; 3]) -> Option<RateLimit> {
    let limits = limits.into_iter().flatten();
    let lowest = limits.min_by_key(|limit| limit.rate.0)?;
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
        let found = lowest([limit(1_000, Some(7)), limit(2_000, None), None]);
        assert_eq!(
            found.map(|found| (found.bytes_per_second, found.burst)),
            Some((1_000, Some(7)))
        );
        let found = lowest([limit(1_000, Some(7)), None, limit(500, None)]);
        assert_eq!(
            found.map(|found| (found.bytes_per_second, found.burst)),
            Some((500, None))
        );
        assert_eq!(lowest([None, None, None]), None);
    }
}
