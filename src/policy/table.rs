//! The policies that a master holds in memory. It changes by differences, and reports which
//! records a change concerns.
//!
//! 100,000 keys take about 12 MB: see [`KeyPolicy`]. Notes are not kept.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{
    Account, AccountId, CredentialId, CredentialRecord, KeyPolicy, Limits, RelayPolicy, ServiceKey,
    Validity,
};
use crate::interner::Interner;
use report_proto::id::Id;

/// Records that changed, and ids of records that were removed.
#[derive(Debug, Default)]
pub struct Changes {
    /// New and changed accounts.
    pub accounts: Vec<Account>,
    /// Removed accounts.
    pub removed_accounts: Vec<AccountId>,
    /// New and changed credentials.
    pub credentials: Vec<CredentialRecord>,
    /// Removed credentials.
    pub removed_credentials: Vec<CredentialId>,
    /// New and changed keys.
    pub keys: Vec<ServiceKey>,
    /// Removed keys.
    pub removed_keys: Vec<Id>,
    /// The policy of the relay, if it changed.
    pub relay: Option<RelayPolicy>,
    /// Accounts whose records cannot be read. They are disabled.
    pub unreadable_accounts: Vec<AccountId>,
    /// Credentials whose records cannot be read. They are revoked.
    pub unreadable_credentials: Vec<CredentialId>,
    /// Keys whose records cannot be read. They are disabled.
    pub unreadable_keys: Vec<Id>,
}

impl Changes {
    /// Adds the records of later changes.
    pub fn append(&mut self, later: Changes) {
        self.accounts.extend(later.accounts);
        self.removed_accounts.extend(later.removed_accounts);
        self.credentials.extend(later.credentials);
        self.removed_credentials.extend(later.removed_credentials);
        self.keys.extend(later.keys);
        self.removed_keys.extend(later.removed_keys);
        self.unreadable_accounts.extend(later.unreadable_accounts);
        self.unreadable_credentials
            .extend(later.unreadable_credentials);
        self.unreadable_keys.extend(later.unreadable_keys);
        self.relay = later.relay.or(self.relay.take());
    }
}

/// The records that a change or a passed time concerns. The links, registrations and attachments
/// under them have to be decided again.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Affected {
    /// Accounts.
    pub accounts: BTreeSet<AccountId>,
    /// Credentials.
    pub credentials: BTreeSet<CredentialId>,
    /// Keys.
    pub keys: BTreeSet<Id>,
    /// Whether the policy of the relay changed.
    pub relay: bool,
}

impl Affected {
    /// Whether nothing is affected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
            && self.credentials.is_empty()
            && self.keys.is_empty()
            && !self.relay
    }

    fn add(&mut self, subject: Subject) {
        match subject {
            Subject::Account(id) => self.accounts.insert(id),
            Subject::Credential(id) => self.credentials.insert(id),
            Subject::Key(id) => self.keys.insert(id),
        };
    }
}

/// A record with a validity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Account(AccountId),
    Credential(CredentialId),
    Key(Id),
}

impl Subject {
    /// The lowest subject, for the ends of ranges.
    const LOWEST: Subject = Subject::Account(AccountId(i64::MIN));
}

/// The policies of a master.
#[derive(Debug, Default)]
pub struct PolicyTable {
    accounts: HashMap<AccountId, Account>,
    credentials: HashMap<CredentialId, CredentialRecord>,
    keys: HashMap<Id, KeyPolicy>,
    relay: RelayPolicy,
    /// The moments at which the validity of a record changes.
    boundaries: BTreeSet<(i64, Subject)>,
    /// Keys with the same limits share them.
    limits: Interner<Limits>,
}

impl PolicyTable {
    /// Returns an account, without its note.
    #[must_use]
    pub fn account(&self, id: AccountId) -> Option<&Account> {
        self.accounts.get(&id)
    }

    /// Returns all accounts, without their notes.
    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.values()
    }

    /// Returns all keys.
    pub fn keys(&self) -> impl Iterator<Item = (Id, &KeyPolicy)> {
        self.keys.iter().map(|(id, key)| (*id, key))
    }

    /// Returns a credential with its verifier.
    #[must_use]
    pub fn credential(&self, id: CredentialId) -> Option<&CredentialRecord> {
        self.credentials.get(&id)
    }

    /// Returns the policy of a key.
    #[must_use]
    pub fn key(&self, id: Id) -> Option<&KeyPolicy> {
        self.keys.get(&id)
    }

    /// Returns the keys with a label. Visits all keys, so it is not for the path of an attachment.
    pub fn keys_with_label(&self, label: &str) -> impl Iterator<Item = (Id, &KeyPolicy)> {
        self.keys
            .iter()
            .filter(move |(_, key)| &*key.label == label)
            .map(|(id, key)| (*id, key))
    }

    /// Returns the policy of the relay.
    #[must_use]
    pub fn relay(&self) -> &RelayPolicy {
        &self.relay
    }

    /// Returns the next moment after `now` at which the validity of a record changes.
    #[must_use]
    pub fn next_boundary(&self, now: i64) -> Option<i64> {
        let from = (now.checked_add(1)?, Subject::LOWEST);
        self.boundaries.range(from..).next().map(|(time, _)| *time)
    }

    /// Returns the records whose validity changed after `since`, up to and including `now`.
    #[must_use]
    pub fn passed_boundaries(&self, since: i64, now: i64) -> Affected {
        let mut affected = Affected::default();
        let from = (since.saturating_add(1), Subject::LOWEST);
        let passed = self.boundaries.range(from..);
        for (_, subject) in passed.take_while(|(time, _)| *time <= now) {
            affected.add(*subject);
        }
        affected
    }

    /// Applies changes. Removals come first, so that a record may be removed and created again.
    /// Records that equal the present ones are not affected.
    pub fn apply(&mut self, changes: Changes) -> Affected {
        let mut affected = Affected::default();
        for id in changes.removed_accounts {
            self.set_account(id, None, &mut affected);
        }
        for id in changes.removed_credentials {
            self.set_credential(id, None, &mut affected);
        }
        for id in changes.removed_keys {
            self.set_key(id, None, &mut affected);
        }
        for mut account in changes.accounts {
            account.note = String::new();
            self.set_account(account.id, Some(account), &mut affected);
        }
        for record in changes.credentials {
            self.set_credential(record.credential.id, Some(record), &mut affected);
        }
        for key in changes.keys {
            let id = key.id;
            let policy = KeyPolicy::new(key, &mut self.limits);
            self.set_key(id, Some(policy), &mut affected);
        }
        // A record that changes during a read may be part of it twice. Until the next read, the one
        // that cannot be read decides.
        for id in changes.unreadable_accounts {
            self.disable_account(id, &mut affected);
        }
        for id in changes.unreadable_credentials {
            self.revoke_credential(id, &mut affected);
        }
        for id in changes.unreadable_keys {
            self.disable_key(id, &mut affected);
        }
        if let Some(relay) = changes.relay
            && relay != self.relay
        {
            self.relay = relay;
            affected.relay = true;
        }
        affected
    }

    /// Replaces all records by those of a complete load. Records that are not part of it are
    /// removed, except the policy of the relay.
    pub fn replace(&mut self, mut all: Changes) -> Affected {
        let accounts = all.accounts.iter().map(|account| account.id);
        let accounts = accounts.chain(all.unreadable_accounts.iter().copied());
        let accounts: HashSet<_> = accounts.collect();
        let credentials = all.credentials.iter().map(|record| record.credential.id);
        let credentials = credentials.chain(all.unreadable_credentials.iter().copied());
        let credentials: HashSet<_> = credentials.collect();
        let keys = all.keys.iter().map(|key| key.id);
        let keys: HashSet<_> = keys.chain(all.unreadable_keys.iter().copied()).collect();
        all.removed_accounts = absent(&self.accounts, &accounts);
        all.removed_credentials = absent(&self.credentials, &credentials);
        all.removed_keys = absent(&self.keys, &keys);
        self.keys
            .reserve(keys.len().saturating_sub(self.keys.len()));
        self.apply(all)
    }

    /// Disables an account whose record cannot be read.
    fn disable_account(&mut self, id: AccountId, affected: &mut Affected) {
        let known = self.accounts.get(&id).cloned();
        let mut account = known.unwrap_or_else(|| Account::new(id, id.to_string()));
        account.enabled = false;
        self.set_account(id, Some(account), affected);
    }

    /// Revokes a credential whose record cannot be read. An unknown one is refused anyway.
    fn revoke_credential(&mut self, id: CredentialId, affected: &mut Affected) {
        if let Some(mut record) = self.credentials.get(&id).cloned() {
            record.credential.revoked = true;
            self.set_credential(id, Some(record), affected);
        }
    }

    /// Disables a key whose record cannot be read.
    fn disable_key(&mut self, id: Id, affected: &mut Affected) {
        let known = self.keys.get(&id).cloned();
        let unknown = || ServiceKey::new(id, id.to_string());
        let mut key = known.unwrap_or_else(|| KeyPolicy::new(unknown(), &mut self.limits));
        key.enabled = false;
        self.set_key(id, Some(key), affected);
    }

    fn set_account(&mut self, id: AccountId, new: Option<Account>, affected: &mut Affected) {
        let validity = |account: &Account| account.validity();
        let change = set(&mut self.accounts, id, new, validity);
        self.note_change(Subject::Account(id), change, affected);
    }

    fn set_credential(
        &mut self,
        id: CredentialId,
        new: Option<CredentialRecord>,
        affected: &mut Affected,
    ) {
        let validity = |record: &CredentialRecord| record.credential.validity();
        let change = set(&mut self.credentials, id, new, validity);
        self.note_change(Subject::Credential(id), change, affected);
    }

    fn set_key(&mut self, id: Id, new: Option<KeyPolicy>, affected: &mut Affected) {
        let change = set(&mut self.keys, id, new, KeyPolicy::validity);
        self.note_change(Subject::Key(id), change, affected);
    }

    /// Updates the boundaries of a subject, and adds it to the affected ones.
    fn note_change(
        &mut self,
        subject: Subject,
        change: Option<ValidityChange>,
        affected: &mut Affected,
    ) {
        let Some(ValidityChange { old, new }) = change else {
            return;
        };
        for time in old.boundaries() {
            self.boundaries.remove(&(time.seconds(), subject));
        }
        for time in new.boundaries() {
            self.boundaries.insert((time.seconds(), subject));
        }
        affected.add(subject);
    }
}

/// The validity of a record before and after a change. An absent record has no boundaries.
struct ValidityChange {
    old: Validity,
    new: Validity,
}

/// Sets or removes a record. Returns `None` if nothing changed.
fn set<K: Eq + std::hash::Hash, V: PartialEq>(
    records: &mut HashMap<K, V>,
    id: K,
    new: Option<V>,
    validity: impl Fn(&V) -> Validity,
) -> Option<ValidityChange> {
    let old = records.get(&id);
    if old == new.as_ref() {
        return None;
    }
    let change = ValidityChange {
        old: old.map(&validity).unwrap_or_default(),
        new: new.as_ref().map(&validity).unwrap_or_default(),
    };
    match new {
        Some(record) => records.insert(id, record),
        None => records.remove(&id),
    };
    Some(change)
}

/// Returns the ids of the records that are not present in a load.
fn absent<K: Copy + Eq + std::hash::Hash, V>(
    records: &HashMap<K, V>,
    present: &HashSet<K>,
) -> Vec<K> {
    let ids = records.keys().copied();
    ids.filter(|id| !present.contains(id)).collect()
}
