//! The registrations of servers: the key ids that they serve, and those that a policy refuses them.
//! A refused key id stays on record until the server withdraws it, so that the server gets it as soon
//! as the policy allows it.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    time::Instant,
};

use super::{Registered, Registry, key_servers::KeyServers, results::Candidate};
use crate::{
    master::limits::LinkNumber,
    policy::{AccountId, Denied},
};
use report_proto::id::Id;

/// The registered key ids of each account, with the number of links for each.
pub(super) type AccountKeys = HashMap<AccountId, HashMap<Id, u32>>;

impl<L: Clone, A: Clone> Registry<L, A> {
    /// Registers key ids for the link, and assigns attach requests that waited for them. `decide`
    /// answers for each key id whether a policy admits it. The numbers of its argument do not change
    /// in between. A key id that is registered already may be refused too.
    pub(in crate::master) fn register(
        &mut self,
        link: LinkNumber,
        keys: &[Id],
        now: Instant,
        mut decide: impl FnMut(&Candidate) -> Result<(), Denied>,
    ) -> Registered<L, A> {
        let (mut accepted, mut refused) = (Vec::new(), Vec::new());
        if self.is_current(link) {
            for &key in keys {
                match self.register_one(link, key, &mut decide) {
                    Some(Ok(())) => accepted.push(key),
                    Some(Err(denied)) => refused.push((key, denied)),
                    None => {}
                }
            }
        }
        Registered {
            accepted,
            refused,
            dispatch: self.dispatch(link, now),
        }
    }

    /// Registers or refuses a key id. Returns `None` if the link has too many.
    fn register_one(
        &mut self,
        link: LinkNumber,
        key: Id,
        decide: &mut impl FnMut(&Candidate) -> Result<(), Denied>,
    ) -> Option<Result<(), Denied>> {
        let candidate = self.candidate(link, key)?;
        let limit = self.ports_per_link;
        let entry = self.links.get(&link)?;
        let is_on_record = entry.ports.contains(&key) || entry.refused.contains_key(&key);
        if !is_on_record && entry.ports.len() + entry.refused.len() >= limit {
            return None;
        }
        if let Err(denied) = decide(&candidate) {
            self.refuse(link, key, denied);
            return Some(Err(denied));
        }
        let entry = self.links.get_mut(&link)?;
        if entry.refused.remove(&key).is_some() {
            self.refusals = self.refusals.saturating_sub(1);
        }
        if entry.ports.insert(key) {
            entry.has_waiters = true;
            let (instance, account) = (entry.key.instance, entry.account);
            let servers = self.ports.entry(key).or_default();
            servers.insert(instance, link);
            if let Some(account) = account {
                let keys = self.account_keys.entry(account).or_default();
                let links = keys.entry(key).or_default();
                *links = links.saturating_add(1);
            }
        }
        self.disinherit(link, key);
        Some(Ok(()))
    }

    /// Returns a key id with the numbers of the other registrations.
    fn candidate(&self, link: LinkNumber, key: Id) -> Option<Candidate> {
        let account = self.links.get(&link)?.account;
        let mut candidate = Candidate {
            key,
            holder: None,
            key_links: 0,
            account_keys: 0,
        };
        let servers = self.ports.get(&key).into_iter();
        let servers = servers.flat_map(KeyServers::all);
        for (_, number) in servers.filter(|(_, number)| *number != link) {
            let Some(other) = self.links.get(number) else {
                continue;
            };
            candidate.key_links = candidate.key_links.saturating_add(1);
            // Beside other accounts, that of the link itself counts.
            if candidate.holder.is_none() || other.account == account {
                candidate.holder = other.account;
            }
        }
        if candidate.holder.is_none() {
            candidate.holder = self.heir_account(key, link);
        }
        let keys = account.and_then(|account| self.account_keys.get(&account));
        if let Some(keys) = keys {
            let others = keys
                .len()
                .saturating_sub(usize::from(keys.contains_key(&key)));
            candidate.account_keys = u32::try_from(others).unwrap_or(u32::MAX);
        }
        Some(candidate)
    }

    /// Withdraws a key id of the link, if it is registered, and records why it is refused. Its
    /// channels stay open.
    pub(in crate::master) fn refuse(&mut self, link: LinkNumber, key: Id, denied: Denied) {
        let Some(entry) = self.links.get_mut(&link) else {
            return;
        };
        let was_registered = entry.ports.remove(&key);
        if entry.refused.insert(key, denied).is_none() {
            self.refusals = self.refusals.saturating_add(1);
        }
        if was_registered {
            self.withdraw(link, key);
        }
        self.disinherit(link, key);
    }

    /// Removes key ids from the link's registrations and refusals. Its channels stay open.
    pub(in crate::master) fn unregister(&mut self, link: LinkNumber, keys: &[Id]) {
        for key in keys {
            let Some(entry) = self.links.get_mut(&link) else {
                return;
            };
            if entry.refused.remove(key).is_some() {
                self.refusals = self.refusals.saturating_sub(1);
            }
            if entry.ports.remove(key) {
                self.withdraw(link, *key);
            }
            self.disinherit(link, *key);
        }
    }

    /// Removes all registrations and refusals of the link. Its channels stay open.
    pub(in crate::master) fn withdraw_all(&mut self, link: LinkNumber) {
        self.disinherit_all(link);
        let Some(entry) = self.links.get_mut(&link) else {
            return;
        };
        let keys = std::mem::take(&mut entry.ports);
        let refused = std::mem::take(&mut entry.refused);
        self.refusals = self.refusals.saturating_sub(refused.len());
        for key in keys {
            self.withdraw(link, key);
        }
    }

    /// Removes a link from the servers of a key id, and the key id from those of its account.
    fn withdraw(&mut self, link: LinkNumber, key: Id) {
        let Some(entry) = self.links.get(&link) else {
            return;
        };
        if let Entry::Occupied(mut servers) = self.ports.entry(key) {
            servers.get_mut().remove(entry.key.instance, link);
            if servers.get().is_empty() {
                servers.remove();
            }
        }
        if let Some(account) = entry.account {
            withdraw_from_account(&mut self.account_keys, account, key);
        }
        self.has_room_for_refused |= self.refusals > 0;
    }

    /// Whether a registration has ended since the last call, so that a refused one may have room.
    pub(in crate::master) fn take_room_for_refused(&mut self) -> bool {
        std::mem::take(&mut self.has_room_for_refused)
    }

    /// Returns the link and the key id of each registration.
    pub(in crate::master) fn registrations(&self) -> impl Iterator<Item = (LinkNumber, &L, Id)> {
        self.links.iter().flat_map(|(number, entry)| {
            let keys = entry.ports.iter();
            keys.map(move |key| (*number, &entry.handle, *key))
        })
    }

    /// Returns the refused key ids of each link that has some.
    pub(in crate::master) fn refused(
        &self,
    ) -> impl Iterator<Item = (LinkNumber, &L, &BTreeMap<Id, Denied>)> {
        let links = self.links.iter();
        links
            .filter(|(_, entry)| !entry.refused.is_empty())
            .map(|(number, entry)| (*number, &entry.handle, &entry.refused))
    }

    /// Returns those of the key ids that the link is still refused.
    pub(in crate::master) fn still_refused(&self, link: LinkNumber, keys: &[Id]) -> Vec<Id> {
        let Some(entry) = self.links.get(&link) else {
            return Vec::new();
        };
        let keys = keys.iter().copied();
        keys.filter(|key| entry.refused.contains_key(key)).collect()
    }

    /// Returns the registered key ids of a link.
    pub(in crate::master) fn keys_of(&self, link: LinkNumber) -> Vec<Id> {
        let entry = self.links.get(&link);
        entry.map_or_else(Vec::new, |entry| entry.ports.iter().copied().collect())
    }

    /// Returns the account of a server that has registered a key id.
    pub(in crate::master) fn server_account(&self, key: Id) -> Option<AccountId> {
        let (_, number) = self.ports.get(&key)?.all().first()?;
        self.links.get(number)?.account
    }

    /// Returns the registered key ids, and the number of links of each.
    pub(in crate::master) fn served_keys(&self) -> impl Iterator<Item = (Id, usize)> {
        self.ports
            .iter()
            .map(|(key, servers)| (*key, servers.len()))
    }
}

fn withdraw_from_account(account_keys: &mut AccountKeys, account: AccountId, key: Id) {
    let Entry::Occupied(mut keys) = account_keys.entry(account) else {
        return;
    };
    if let Entry::Occupied(mut links) = keys.get_mut().entry(key) {
        *links.get_mut() = links.get().saturating_sub(1);
        if *links.get() == 0 {
            links.remove();
        }
    }
    if keys.get().is_empty() {
        keys.remove();
    }
}
