//! Connection places, counted from `accept` on: in total, for each party, and in classes with
//! separate shares. Knows addresses, numbers and how to evict a connection, but not what a link
//! does.
//!
//! ```text
//!  admit ──► negotiating ──become_link (server)──► server        at most a quarter of the places is negotiating
//!               │  └────become_link (client)──► unattached ──mark_attached──► attached    clients: five eighths
//!               └── evicted: cancelled                └── evicted: ERROR `limit`
//! ```
//!
//! Negotiating connections and clients without a tunnel are evicted when a party that holds less
//! needs a place. So no number of them keeps out a server, or a client from another address.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

use super::{
    limits::{EVICTED, MasterLimits, RETRY_AFTER},
    shares::Shares,
};
use crate::{link::Outbox, metrics::RefusalCounts, throttle::party};
use report_proto::frame::{Code, Notice, Role};

/// The fraction of the places for connections that are not links yet: one part in this many.
const NEGOTIATING_DIVISOR: usize = 4;

/// The fraction of the places reserved for servers: one part in this many.
const SERVER_DIVISOR: usize = 8;

/// The connection places of a master.
#[derive(Debug)]
pub(super) struct Admission {
    places: Mutex<Places>,
}

/// The most connections in total, for each party, and in classes.
#[derive(Debug, Clone, Copy, Default)]
struct PlaceLimits {
    links: usize,
    links_per_address: usize,
    negotiating: usize,
    clients: usize,
}

impl PlaceLimits {
    fn new(limits: &MasterLimits) -> Self {
        let negotiating = (limits.links / NEGOTIATING_DIVISOR).max(1);
        let servers = limits.links / SERVER_DIVISOR;
        let clients = limits.links.saturating_sub(negotiating);
        PlaceLimits {
            links: limits.links,
            links_per_address: limits.links_per_address,
            negotiating,
            clients: clients.saturating_sub(servers).max(1),
        }
    }
}

#[derive(Debug, Default)]
struct Places {
    limits: PlaceLimits,
    next: u64,
    occupied: HashMap<u64, Place>,
    /// Connections of each party, without evicted ones.
    parties: HashMap<IpAddr, usize>,
    negotiating: Shares,
    unattached: Shares,
    attached: usize,
    /// Counts the evictions.
    refusals: Arc<RefusalCounts>,
}

#[derive(Debug)]
struct Place {
    /// `None` until a trusted proxy has named the visitor.
    party: Option<IpAddr>,
    class: Class,
    /// Cancels the connection while it negotiates.
    evicted: CancellationToken,
    /// Ends the connection once it is a link.
    outbox: Option<Arc<Outbox>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Negotiating,
    /// A client's link without an answer from a server.
    Unattached,
    Attached,
    Server,
    /// An ERROR has ended the link, or is about to.
    Evicted,
}

/// The reason why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum AdmissionError {
    /// The master is at its limit.
    #[error("the master is at its limit of {0} connections (`links`)")]
    Master(usize),
    /// The party is at its limit.
    #[error("this address is at its limit of {0} connections (`links_per_address`)")]
    Address(usize),
    /// Clients with a tunnel use the whole client share.
    #[error("clients with a tunnel use all {0} links of the client share of `links`")]
    Clients(usize),
}

impl AdmissionError {
    /// Returns the reason for the metrics.
    pub(super) fn reason(self) -> &'static str {
        match self {
            AdmissionError::Master(_) => "links",
            AdmissionError::Address(_) => "links_per_address",
            AdmissionError::Clients(_) => "client_links",
        }
    }
}

impl Admission {
    /// Creates the table without connections. It counts evictions in `refusals`.
    pub(super) fn new(limits: &MasterLimits, refusals: Arc<RefusalCounts>) -> Arc<Self> {
        Arc::new(Admission {
            places: Mutex::new(Places {
                limits: PlaceLimits::new(limits),
                refusals,
                ..Places::default()
            }),
        })
    }

    /// Applies other limits to the connections that come. Those beyond a lower limit stay.
    pub(super) fn set_limits(&self, limits: &MasterLimits) {
        self.places().limits = PlaceLimits::new(limits);
    }

    /// Counts one more connection until the permit is dropped: in total and, if known, for its
    /// party.
    pub(super) fn admit(
        self: &Arc<Self>,
        address: Option<IpAddr>,
    ) -> Result<ConnectionPermit, AdmissionError> {
        let party = address.map(party);
        let mut places = self.places();
        places.reserve_in_party(party)?;
        let limits = places.limits;
        let is_full = places.negotiating.total() >= limits.negotiating;
        if (is_full || places.occupied.len() >= limits.links) && !places.evict_for(party) {
            return Err(AdmissionError::Master(limits.links));
        }
        let (number, evicted) = (places.next, CancellationToken::new());
        places.next += 1;
        let place = Place {
            party,
            class: Class::Negotiating,
            evicted: evicted.clone(),
            outbox: None,
        };
        places.count(number, &place);
        places.occupied.insert(number, place);
        Ok(ConnectionPermit {
            admission: Arc::clone(self),
            number,
            evicted,
        })
    }

    /// Returns the number of connections that are not links yet.
    pub(super) fn negotiating(&self) -> usize {
        self.places().negotiating.total()
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// Checks that one more connection of a party has a place. May evict another one of the party.
    fn reserve_in_party(&mut self, party: Option<IpAddr>) -> Result<(), AdmissionError> {
        let Some(party) = party else { return Ok(()) };
        let held = self.parties.get(&party).copied().unwrap_or(0);
        if held < self.limits.links_per_address {
            return Ok(());
        }
        let random = fastrand::u64(..);
        let negotiating = self.negotiating.random_link_of(party, random);
        let victim = negotiating.or_else(|| self.unattached.random_link_of(party, random));
        if let Some(number) = victim {
            self.evict(number);
            return Ok(());
        }
        Err(AdmissionError::Address(self.limits.links_per_address))
    }

    /// Evicts a negotiating connection to free a place for `party`. The victim is a random
    /// connection of the heaviest party, so that a flood lasts no longer than other connections.
    /// Without such a connection, evicts a client without a tunnel, whose place becomes free soon.
    fn evict_for(&mut self, party: Option<IpAddr>) -> bool {
        let Some(heaviest) = self.negotiating.heaviest_party(fastrand::u64(..)) else {
            if let Some(number) = self.unattached.heaviest(fastrand::u64(..)) {
                self.evict(number);
            }
            return false;
        };
        // A party at the maximum replaces its own connection, so that it cannot evict another
        // party.
        let own = party_or_unknown(party);
        let most = self.negotiating.of_party(heaviest);
        let from = if self.negotiating.of_party(own) >= most {
            own
        } else {
            heaviest
        };
        let Some(number) = self.negotiating.random_link_of(from, fastrand::u64(..)) else {
            return false;
        };
        self.evict(number);
        true
    }

    /// Frees a negotiating connection's place at once, or ends a link.
    fn evict(&mut self, number: u64) {
        let Some(mut place) = self.occupied.remove(&number) else {
            return;
        };
        self.discount(number, &place);
        match &place.outbox {
            None => {
                self.refusals.count("connection", EVICTED);
                place.evicted.cancel();
            }
            Some(outbox) => {
                self.refusals.count("link", EVICTED);
                let full = Notice::new(
                    Code::Limit,
                    "the master is full, and this link has no tunnel",
                );
                outbox.end(full.with_retry_after(RETRY_AFTER));
                place.class = Class::Evicted;
                self.occupied.insert(number, place);
            }
        }
    }

    fn count(&mut self, number: u64, place: &Place) {
        let party = party_or_unknown(place.party);
        match place.class {
            Class::Negotiating => self.negotiating.add(party, number, 1),
            Class::Unattached => self.unattached.add(party, number, 1),
            Class::Attached => self.attached += 1,
            Class::Server => {}
            Class::Evicted => return,
        }
        if let Some(party) = place.party {
            *self.parties.entry(party).or_default() += 1;
        }
    }

    fn discount(&mut self, number: u64, place: &Place) {
        let party = party_or_unknown(place.party);
        match place.class {
            Class::Negotiating => self.negotiating.remove(party, number, 1),
            Class::Unattached => self.unattached.remove(party, number, 1),
            Class::Attached => self.attached = self.attached.saturating_sub(1),
            Class::Server => {}
            Class::Evicted => return,
        }
        let Some(party) = place.party else { return };
        if let Some(count) = self.parties.get_mut(&party) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.parties.remove(&party);
            }
        }
    }

    /// Updates a place, unless its connection is evicted.
    fn update(&mut self, number: u64, update: impl FnOnce(&mut Place)) {
        let Some(mut place) = self.occupied.remove(&number) else {
            return;
        };
        self.discount(number, &place);
        if place.class != Class::Evicted {
            update(&mut place);
        }
        self.count(number, &place);
        self.occupied.insert(number, place);
    }
}

/// Treats all connections through a trusted proxy as one party until their visitors are known.
fn party_or_unknown(party: Option<IpAddr>) -> IpAddr {
    party.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// The place of one connection. Dropping the permit frees it.
#[derive(Debug)]
pub(super) struct ConnectionPermit {
    admission: Arc<Admission>,
    number: u64,
    /// Cancelled when the connection is evicted.
    pub(super) evicted: CancellationToken,
}

impl ConnectionPermit {
    /// Counts the connection for this address from now on.
    ///
    /// # Errors
    /// When the address is at its limit. The connection stays counted as before.
    pub(super) fn assign(&mut self, address: IpAddr) -> Result<(), AdmissionError> {
        let party = party(address);
        let mut places = self.admission.places();
        if places
            .occupied
            .get(&self.number)
            .is_none_or(|place| place.party == Some(party))
        {
            return Ok(());
        }
        places.reserve_in_party(Some(party))?;
        places.update(self.number, |place| place.party = Some(party));
        Ok(())
    }

    /// Turns the connection into a link, which `outbox` can end. A server always gets its place. A
    /// client may evict another client without a tunnel.
    ///
    /// # Errors
    /// When clients with a tunnel use the whole client share.
    pub(super) fn become_link(
        &self,
        role: Role,
        outbox: &Arc<Outbox>,
    ) -> Result<LinkPlace, AdmissionError> {
        let mut places = self.admission.places();
        let class = if role == Role::Server {
            Class::Server
        } else {
            Class::Unattached
        };
        if class == Class::Unattached
            && places.unattached.total() + places.attached >= places.limits.clients
        {
            let party = places
                .occupied
                .get(&self.number)
                .and_then(|place| place.party);
            let victim = places.unattached.victim_for(
                party_or_unknown(party),
                self.number,
                1,
                fastrand::u64(..),
            );
            let Some(victim) = victim else {
                return Err(AdmissionError::Clients(places.limits.clients));
            };
            places.evict(victim);
        }
        places.update(self.number, |place| {
            (place.class, place.outbox) = (class, Some(Arc::clone(outbox)))
        });
        Ok(LinkPlace {
            admission: Arc::clone(&self.admission),
            number: self.number,
        })
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut places = self.admission.places();
        if let Some(place) = places.occupied.remove(&self.number) {
            places.discount(self.number, &place);
        }
    }
}

/// The place of a link.
#[derive(Debug)]
pub(super) struct LinkPlace {
    admission: Arc<Admission>,
    number: u64,
}

impl LinkPlace {
    /// Records a server's answer. The link is never evicted from then on.
    pub(super) fn mark_attached(&self) {
        self.admission.places().update(self.number, |place| {
            if place.class == Class::Unattached {
                place.class = Class::Attached;
            }
        });
    }
}
