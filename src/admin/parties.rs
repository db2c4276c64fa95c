//! The connections of each party to an address that other machines can reach. A stranger with one
//! address, or one IPv6 network, cannot occupy all connections and so keep the operator out.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::throttle::party;

/// The most connections of one party: its streams of events, a monitoring system and commands.
const MAX_CONNECTIONS_PER_PARTY: usize = 8;

/// The connections of each party.
#[derive(Debug, Default)]
pub(super) struct Parties(Mutex<HashMap<IpAddr, usize>>);

/// The entry of a connection. Dropping it forgets the connection.
#[derive(Debug)]
pub(super) struct PartyEntry {
    parties: Arc<Parties>,
    party: IpAddr,
}

impl Parties {
    /// Enters a connection. Returns `None` if its party has too many.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<PartyEntry> {
        let party = party(address);
        let mut connections = self.connections();
        let count = connections.entry(party).or_default();
        if *count >= MAX_CONNECTIONS_PER_PARTY {
            return None;
        }
        *count = count.saturating_add(1);
        drop(connections);
        Some(PartyEntry {
            parties: Arc::clone(self),
            party,
        })
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PartyEntry {
    fn drop(&mut self) {
        let mut connections = self.parties.connections();
        if let Entry::Occupied(mut count) = connections.entry(self.party) {
            *count.get_mut() = count.get().saturating_sub(1);
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_party_has_a_limit_and_others_do_not_notice() {
        let parties = Arc::new(Parties::default());
        let network = |host: usize| address(&format!("2001:db8::{host:x}"));
        let mut entries: Vec<_> = (0..MAX_CONNECTIONS_PER_PARTY)
            .map(|host| parties.enter(network(host)).expect("room"))
            .collect();
        assert!(parties.enter(network(99)).is_none());
        let other = parties.enter(address("192.0.2.1"));
        assert!(other.is_some());
        entries.pop();
        let next = parties.enter(network(99));
        assert!(next.is_some());
        drop((entries, next, other));
        assert!(parties.connections().is_empty());
    }
}
