//! The spliced channel pairs and the tunnels of a master, by key id and by account. Metering, limits
//! of numbers, enforcement and lists begin here.
//!
//! A tunnel is the set of channel pairs of one client process for one key. The master cannot see more
//! of it: further lanes and resumptions are pairs of the same tunnel. A set with more pairs than the
//! lanes of a tunnel counts as several for the limits ([`PAIRS_PER_TUNNEL`]).
//!
//! `P` is the handle of a pair. The lock is a leaf: no other lock is taken, and no pair is dropped,
//! while it is held.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use crate::{
    master::{identity::Identity, limits::LinkNumber},
    policy::{AccountId, Denied, LimitSubject},
};
use report_proto::id::Id;

/// The most pairs that count as one tunnel: the lanes of a tunnel (PROTOCOL 12, `LANES_MAX`), and as
/// many again while a client replaces all its links. Without this bound, clients that share an
/// instance id, or one with many channels, would be a single tunnel for all limits of numbers.
pub(in crate::master) const PAIRS_PER_TUNNEL: usize = 34;

/// Whether a further pair counts as a tunnel beside this number of pairs of one process and key.
pub(in crate::master) fn begins_tunnel(pairs: usize) -> bool {
    pairs.is_multiple_of(PAIRS_PER_TUNNEL)
}

/// A spliced channel pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::master) struct LivePair {
    /// The tunnel.
    pub(in crate::master) tunnel: TunnelKey,
    /// The link of the client.
    pub(in crate::master) client: LinkNumber,
    /// The link of the server.
    pub(in crate::master) server: LinkNumber,
    /// The account of the server's link.
    pub(in crate::master) server_account: Option<AccountId>,
    /// The account to which the traffic is charged.
    pub(in crate::master) owner: Option<AccountId>,
    /// The address of the client.
    pub(in crate::master) visitor: IpAddr,
}

impl LivePair {
    /// Returns the client's account, if it is not the one to which the traffic is charged.
    pub(in crate::master) fn foreign_account(&self) -> Option<AccountId> {
        let client = self.tunnel.client.account();
        client.filter(|client| self.owner != Some(*client))
    }
}

/// The identity of a tunnel for the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::master) struct TunnelKey {
    /// The identity of the client's link.
    pub(in crate::master) client: Identity,
    /// The process of the client.
    pub(in crate::master) instance: Id,
    /// The key id.
    pub(in crate::master) key: Id,
}

/// The tunnels of the subjects that an attachment concerns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::master) struct TunnelCounts {
    /// Whether the tunnel has no pair yet.
    pub(in crate::master) is_new: bool,
    /// Whether the tunnel has so many pairs that the next one counts as another tunnel.
    pub(in crate::master) is_further: bool,
    /// Those of the key.
    pub(in crate::master) key: u32,
    /// Those of the account to which the traffic is charged.
    pub(in crate::master) owner: u32,
    /// Those of the client's account.
    pub(in crate::master) client: u32,
    /// All.
    pub(in crate::master) relay: u32,
}

/// A tunnel with its pairs.
#[derive(Debug, Clone)]
pub(in crate::master) struct TunnelView<P> {
    /// The number of the tunnel.
    pub(in crate::master) number: u64,
    /// The time of its first pair, in Unix seconds.
    pub(in crate::master) since: i64,
    /// Its pairs, the oldest first.
    pub(in crate::master) pairs: Vec<(LivePair, Arc<P>)>,
}

/// The spliced channel pairs of a master.
#[derive(Debug)]
pub(in crate::master) struct LiveKeys<P> {
    state: Mutex<LiveState<P>>,
}

#[derive(Debug)]
struct LiveState<P> {
    pairs: BTreeMap<u64, (LivePair, Weak<P>)>,
    next_pair: u64,
    keys: HashMap<Id, BTreeSet<u64>>,
    /// The pairs of each account, as the one to which traffic is charged or as that of the client.
    accounts: HashMap<AccountId, BTreeSet<u64>>,
    tunnels: HashMap<TunnelKey, Tunnel>,
    next_tunnel: u64,
    /// The tunnels that count for surplus pairs, beside those in `tunnels`.
    further: u32,
    /// The tunnels of each key and account, with further ones.
    counts: HashMap<LimitSubject, u32>,
}

#[derive(Debug)]
struct Tunnel {
    number: u64,
    since: i64,
    /// The accounts for which the tunnel counts: those of its first pair.
    accounts: [Option<AccountId>; 2],
    pairs: BTreeSet<u64>,
}

/// The entry of a pair. Dropping it forgets the pair.
#[derive(Debug)]
pub(in crate::master) struct LiveEntry<P> {
    live: Arc<LiveKeys<P>>,
    number: u64,
}

/// The end of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::master) struct EndedTunnel {
    /// The number of the tunnel.
    pub(in crate::master) number: u64,
    /// The key id.
    pub(in crate::master) key: Id,
}

/// A pair that was entered.
#[derive(Debug)]
pub(in crate::master) struct Entered<P> {
    /// The entry.
    pub(in crate::master) entry: LiveEntry<P>,
    /// The number of the tunnel.
    pub(in crate::master) tunnel: u64,
    /// Whether it is the first pair of the tunnel.
    pub(in crate::master) is_new: bool,
}

impl<P> LiveKeys<P> {
    /// Creates the table without pairs.
    pub(in crate::master) fn new() -> Arc<Self> {
        let state = LiveState {
            pairs: BTreeMap::new(),
            next_pair: 0,
            keys: HashMap::new(),
            accounts: HashMap::new(),
            tunnels: HashMap::new(),
            next_tunnel: 1,
            further: 0,
            counts: HashMap::new(),
        };
        Arc::new(LiveKeys {
            state: Mutex::new(state),
        })
    }

    /// Enters a pair at `now`, in Unix seconds, if `decide` admits it. The numbers do not change in
    /// between. `decide` may take no lock that a holder of this one waits for.
    pub(in crate::master) fn enter(
        self: &Arc<Self>,
        pair: LivePair,
        handle: Weak<P>,
        now: i64,
        decide: impl FnOnce(&TunnelCounts) -> Result<(), Denied>,
    ) -> Result<Entered<P>, Denied> {
        let mut state = self.state();
        let counts = state.counts(&pair.tunnel, pair.owner);
        decide(&counts)?;
        let (number, tunnel) = state.insert(pair, handle, now);
        drop(state);
        Ok(Entered {
            entry: LiveEntry {
                live: Arc::clone(self),
                number,
            },
            tunnel,
            is_new: counts.is_new,
        })
    }

    /// Returns the numbers for a pair of this tunnel that is not entered yet.
    pub(in crate::master) fn counts(
        &self,
        tunnel: &TunnelKey,
        owner: Option<AccountId>,
    ) -> TunnelCounts {
        self.state().counts(tunnel, owner)
    }

    /// Returns the number of tunnels of a subject.
    pub(in crate::master) fn tunnels_of(&self, subject: LimitSubject) -> u32 {
        self.state().tunnels_of(subject)
    }

    /// Returns the keys and accounts with tunnels.
    pub(in crate::master) fn subjects(&self) -> Vec<LimitSubject> {
        self.state().counts.keys().copied().collect()
    }

    /// Returns all pairs, the oldest first.
    pub(in crate::master) fn pairs(&self) -> Vec<(LivePair, Arc<P>)> {
        let state = self.state();
        let pairs = state.pairs.values();
        pairs
            .filter_map(|(pair, handle)| upgraded(pair, handle))
            .collect()
    }

    /// Returns the pairs of these keys and accounts, the oldest first.
    pub(in crate::master) fn pairs_of(
        &self,
        keys: impl IntoIterator<Item = Id>,
        accounts: impl IntoIterator<Item = AccountId>,
    ) -> Vec<(LivePair, Arc<P>)> {
        let state = self.state();
        let keys = keys.into_iter().filter_map(|key| state.keys.get(&key));
        let mut numbers: BTreeSet<u64> = keys.flatten().copied().collect();
        for account in accounts {
            numbers.extend(state.accounts.get(&account).into_iter().flatten());
        }
        state.pairs_with(&numbers)
    }

    /// Returns the tunnels, in the order of their numbers.
    pub(in crate::master) fn tunnels(&self) -> Vec<TunnelView<P>> {
        let state = self.state();
        let views = state.tunnels.values().map(|tunnel| state.view(tunnel));
        let mut views: Vec<_> = views.collect();
        drop(state);
        views.sort_by_key(|view| view.number);
        views
    }

    /// Returns a tunnel.
    pub(in crate::master) fn tunnel(&self, number: u64) -> Option<TunnelView<P>> {
        let state = self.state();
        let mut tunnels = state.tunnels.values();
        let tunnel = tunnels.find(|tunnel| tunnel.number == number)?;
        Some(state.view(tunnel))
    }

    fn state(&self) -> MutexGuard<'_, LiveState<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a pair with its handle, unless it is being dropped.
fn upgraded<P>(pair: &LivePair, handle: &Weak<P>) -> Option<(LivePair, Arc<P>)> {
    Some((pair.clone(), handle.upgrade()?))
}

impl<P> LiveState<P> {
    fn tunnels_of(&self, subject: LimitSubject) -> u32 {
        match subject {
            LimitSubject::Relay => {
                let tunnels = u32::try_from(self.tunnels.len()).unwrap_or(u32::MAX);
                tunnels.saturating_add(self.further)
            }
            LimitSubject::Account(_) | LimitSubject::Key(_) => {
                self.counts.get(&subject).copied().unwrap_or(0)
            }
        }
    }

    fn counts(&self, tunnel: &TunnelKey, owner: Option<AccountId>) -> TunnelCounts {
        let of_account = |account: Option<AccountId>| {
            account.map_or(0, |id| self.tunnels_of(LimitSubject::Account(id)))
        };
        let pairs = self.tunnels.get(tunnel);
        let pairs = pairs.map_or(0, |tunnel| tunnel.pairs.len());
        TunnelCounts {
            is_new: pairs == 0,
            is_further: pairs > 0 && begins_tunnel(pairs),
            key: self.tunnels_of(LimitSubject::Key(tunnel.key)),
            owner: of_account(owner),
            client: of_account(tunnel.client.account()),
            relay: self.tunnels_of(LimitSubject::Relay),
        }
    }

    /// Inserts a pair. Returns its number and that of its tunnel.
    fn insert(&mut self, pair: LivePair, handle: Weak<P>, now: i64) -> (u64, u64) {
        let number = self.next_pair;
        self.next_pair = self.next_pair.saturating_add(1);
        self.keys.entry(pair.tunnel.key).or_default().insert(number);
        let accounts = [pair.owner, pair.foreign_account()];
        for account in accounts.into_iter().flatten() {
            self.accounts.entry(account).or_default().insert(number);
        }
        let tunnel = match self.tunnels.entry(pair.tunnel) {
            Entry::Occupied(tunnel) => tunnel.into_mut(),
            Entry::Vacant(vacant) => {
                let tunnel = Tunnel {
                    number: self.next_tunnel,
                    since: now,
                    accounts,
                    pairs: BTreeSet::new(),
                };
                self.next_tunnel = self.next_tunnel.saturating_add(1);
                vacant.insert(tunnel)
            }
        };
        let before = tunnel.pairs.len();
        tunnel.pairs.insert(number);
        let (tunnel, accounts) = (tunnel.number, tunnel.accounts);
        if begins_tunnel(before) {
            self.further = self.further.saturating_add(u32::from(before > 0));
            for subject in counted_for(pair.tunnel.key, accounts) {
                let count = self.counts.entry(subject).or_default();
                *count = count.saturating_add(1);
            }
        }
        self.pairs.insert(number, (pair, handle));
        (number, tunnel)
    }

    /// Removes a pair. Returns its tunnel if that was its last pair.
    fn remove(&mut self, number: u64) -> Option<EndedTunnel> {
        let (pair, _) = self.pairs.remove(&number)?;
        remove_from(&mut self.keys, pair.tunnel.key, number);
        let accounts = [pair.owner, pair.foreign_account()];
        for account in accounts.into_iter().flatten() {
            remove_from(&mut self.accounts, account, number);
        }
        let tunnel = self.tunnels.get_mut(&pair.tunnel)?;
        tunnel.pairs.remove(&number);
        let (left, accounts) = (tunnel.pairs.len(), tunnel.accounts);
        let ended = EndedTunnel {
            number: tunnel.number,
            key: pair.tunnel.key,
        };
        if begins_tunnel(left) {
            self.uncount(ended.key, accounts);
        }
        if left > 0 {
            let is_counted = u32::from(begins_tunnel(left));
            self.further = self.further.saturating_sub(is_counted);
            return None;
        }
        self.tunnels.remove(&pair.tunnel);
        Some(ended)
    }

    /// Counts one tunnel less.
    fn uncount(&mut self, key: Id, accounts: [Option<AccountId>; 2]) {
        for subject in counted_for(key, accounts) {
            if let Entry::Occupied(mut count) = self.counts.entry(subject) {
                *count.get_mut() = count.get().saturating_sub(1);
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
    }

    fn pairs_with(&self, numbers: &BTreeSet<u64>) -> Vec<(LivePair, Arc<P>)> {
        let pairs = numbers.iter().filter_map(|number| self.pairs.get(number));
        pairs
            .filter_map(|(pair, handle)| upgraded(pair, handle))
            .collect()
    }

    fn view(&self, tunnel: &Tunnel) -> TunnelView<P> {
        TunnelView {
            number: tunnel.number,
            since: tunnel.since,
            pairs: self.pairs_with(&tunnel.pairs),
        }
    }
}

/// Returns the subjects for which a tunnel counts.
fn counted_for(key: Id, accounts: [Option<AccountId>; 2]) -> impl Iterator<Item = LimitSubject> {
    let accounts = accounts.into_iter().flatten().map(LimitSubject::Account);
    std::iter::once(LimitSubject::Key(key)).chain(accounts)
}

fn remove_from<K: Eq + std::hash::Hash>(
    index: &mut HashMap<K, BTreeSet<u64>>,
    key: K,
    number: u64,
) {
    if let Entry::Occupied(mut numbers) = index.entry(key) {
        numbers.get_mut().remove(&number);
        if numbers.get().is_empty() {
            numbers.remove();
        }
    }
}

impl<P> LiveEntry<P> {
    /// Charges the traffic of the pair to another account from now on. Its tunnel counts for the
    /// accounts of its first pair.
    pub(in crate::master) fn set_owner(&self, owner: Option<AccountId>) {
        let mut state = self.live.state();
        let LiveState {
            pairs, accounts, ..
        } = &mut *state;
        let Some((pair, _)) = pairs.get_mut(&self.number) else {
            return;
        };
        for account in [pair.owner, pair.foreign_account()].into_iter().flatten() {
            remove_from(accounts, account, self.number);
        }
        pair.owner = owner;
        for account in [pair.owner, pair.foreign_account()].into_iter().flatten() {
            accounts.entry(account).or_default().insert(self.number);
        }
    }

    /// Forgets the pair. Returns its tunnel if that was its last pair.
    pub(in crate::master) fn forget(self) -> Option<EndedTunnel> {
        // The drop of the entry finds nothing then.
        self.live.state().remove(self.number)
    }
}

impl<P> Drop for LiveEntry<P> {
    fn drop(&mut self) {
        self.live.state().remove(self.number);
    }
}
