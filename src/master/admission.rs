//! The places for connections: counted from `accept` on, for each party, and in classes of which none can take the others' places. Knows addresses, numbers and
//! how a connection is told to go; not what a link does.
//!
//! ```text
//!  admit ──► arriving ──stand as a server──► server                       a quarter of the places may be arriving
//!               │  └────stand as a client──► stranger ──attach──► attached   five eighths may be clients, attached or not
//!               └── gives way ──► cut           └── gives way ──► told to go
//! ```
//!
//! Who is arriving, or a client without a tunnel, gives way when others come whose party holds less: no number of strangers keeps a server out, nor a
//! client from another address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

use super::{
    limits::{Limits, party},
    shares::Shares,
};
use crate::{
    frame::{Code, Notice, Role},
    link::Outbox,
};

/// Connections that are no links yet may take one place of so many.
const ARRIVING_PART: usize = 4;

/// Of so many places one is only for servers, beside those for who is arriving.
const SERVERS_PART: usize = 8;

/// The places of a master.
#[derive(Debug)]
pub(super) struct Admission {
    links: usize,
    links_per_address: usize,
    arriving: usize,
    clients: usize,
    places: Mutex<Places>,
}

#[derive(Debug, Default)]
struct Places {
    next: u64,
    taken: HashMap<u64, Place>,
    /// Of each party, without those that were told to go.
    parties: HashMap<IpAddr, usize>,
    arriving: Shares,
    strangers: Shares,
    attached: usize,
}

#[derive(Debug)]
struct Place {
    /// Unknown until a trusted proxy has said whom it relays.
    party: Option<IpAddr>,
    class: Class,
    /// Cuts it while it is arriving.
    cut: CancellationToken,
    /// Tells it to go once it is a link.
    outbox: Option<Arc<Outbox>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Arriving,
    /// A client's link on which no server has answered.
    Stranger,
    Attached,
    Server,
    /// It was told to go.
    Leaving,
}

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    /// The master has as many as it may.
    #[error("the master holds {0} connections, its limit `links`")]
    Master(usize),
    /// The party has.
    #[error("this address holds {0} connections, the limit `links_per_address`")]
    Address(usize),
    /// Clients have.
    #[error("clients with a tunnel hold {0} links, their part of the limit `links`")]
    Clients(usize),
}

impl Admission {
    /// Nothing counted yet.
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        let arriving = (limits.links / ARRIVING_PART).max(1);
        let servers = limits.links / SERVERS_PART;
        Arc::new(Admission {
            links: limits.links,
            links_per_address: limits.links_per_address,
            arriving,
            clients: limits
                .links
                .saturating_sub(arriving)
                .saturating_sub(servers)
                .max(1),
            places: Mutex::default(),
        })
    }

    /// Counts one more connection, until the permit is dropped: in all, and as one of a party's where that is known already.
    pub(super) fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Permit, Full> {
        let party = address.map(party);
        let mut places = self.places();
        self.make_room_in_party(&mut places, party)?;
        let is_crowded = places.arriving.total() >= self.arriving;
        if (is_crowded || places.taken.len() >= self.links) && !places.cut_one_for(party) {
            return Err(Full::Master(self.links));
        }
        let (number, cut) = (places.next, CancellationToken::new());
        places.next += 1;
        let place = Place {
            party,
            class: Class::Arriving,
            cut: cut.clone(),
            outbox: None,
        };
        places.count(number, &place);
        places.taken.insert(number, place);
        Ok(Permit {
            admission: Arc::clone(self),
            number,
            cut,
        })
    }

    fn make_room_in_party(&self, places: &mut Places, party: Option<IpAddr>) -> Result<(), Full> {
        let Some(party) = party else { return Ok(()) };
        let held = places.parties.get(&party).copied().unwrap_or(0);
        if held < self.links_per_address {
            return Ok(());
        }
        let random = fastrand::u64(..);
        if let Some(number) = places
            .arriving
            .any_of(party, random)
            .or_else(|| places.strangers.any_of(party, random))
        {
            places.tell_to_go(number);
            return Ok(());
        }
        Err(Full::Address(self.links_per_address))
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// Cuts a connection that is arriving, so that one of `party` finds a place: one of the party that has most of them, by chance, so that a flood does not
    /// last longer than anybody else. Without one, a client without a tunnel is told to go, and its place is free soon.
    fn cut_one_for(&mut self, party: Option<IpAddr>) -> bool {
        let Some(heaviest) = self.arriving.heaviest_party() else {
            if let Some(number) = self.strangers.heaviest() {
                self.tell_to_go(number);
            }
            return false;
        };
        let own = known(party);
        let most = self.arriving.of_party(heaviest);
        let from = if self.arriving.of_party(own) >= most {
            own
        } else {
            heaviest
        };
        let Some(number) = self.arriving.any_of(from, fastrand::u64(..)) else {
            return false;
        };
        self.tell_to_go(number);
        true
    }

    /// Makes a place free, or lets a link know that it has to go.
    fn tell_to_go(&mut self, number: u64) {
        let Some(mut place) = self.taken.remove(&number) else {
            return;
        };
        self.discount(number, &place);
        match &place.outbox {
            None => place.cut.cancel(),
            Some(outbox) => {
                outbox.end(Notice::new(
                    Code::Limit,
                    "the master is full, and this link has no tunnel",
                ));
                place.class = Class::Leaving;
                self.taken.insert(number, place);
            }
        }
    }

    fn count(&mut self, number: u64, place: &Place) {
        let party = known(place.party);
        match place.class {
            Class::Arriving => self.arriving.add(party, number, 1),
            Class::Stranger => self.strangers.add(party, number, 1),
            Class::Attached => self.attached += 1,
            Class::Server => {}
            Class::Leaving => return,
        }
        if let Some(party) = place.party {
            *self.parties.entry(party).or_default() += 1;
        }
    }

    fn discount(&mut self, number: u64, place: &Place) {
        let party = known(place.party);
        match place.class {
            Class::Arriving => self.arriving.remove(party, number, 1),
            Class::Stranger => self.strangers.remove(party, number, 1),
            Class::Attached => self.attached = self.attached.saturating_sub(1),
            Class::Server => {}
            Class::Leaving => return,
        }
        let Some(party) = place.party else { return };
        if let Some(count) = self.parties.get_mut(&party) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.parties.remove(&party);
            }
        }
    }

    /// Changes a place, unless it was told to go.
    fn change(&mut self, number: u64, change: impl FnOnce(&mut Place)) {
        let Some(mut place) = self.taken.remove(&number) else {
            return;
        };
        self.discount(number, &place);
        if place.class != Class::Leaving {
            change(&mut place);
        }
        self.count(number, &place);
        self.taken.insert(number, place);
    }
}

/// All that come through a trusted proxy are one party until it has said whom it relays.
fn known(party: Option<IpAddr>) -> IpAddr {
    party.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// The place of one connection; dropping it makes room.
#[derive(Debug)]
pub(super) struct Permit {
    admission: Arc<Admission>,
    number: u64,
    /// The connection has to give way.
    pub(super) cut: CancellationToken,
}

impl Permit {
    /// Counts the connection as one from this address from now on.
    ///
    /// # Errors
    /// When there are as many from there as may be; it is counted as before then.
    pub(super) fn assign(&mut self, address: IpAddr) -> Result<(), Full> {
        let party = party(address);
        let mut places = self.admission.places();
        if places
            .taken
            .get(&self.number)
            .is_none_or(|place| place.party == Some(party))
        {
            return Ok(());
        }
        self.admission
            .make_room_in_party(&mut places, Some(party))?;
        places.change(self.number, |place| place.party = Some(party));
        Ok(())
    }

    /// The connection is a link now, which says what it is told by `outbox`. A server always has its place; a client without a tunnel gives way to it
    /// when there are too many.
    ///
    /// # Errors
    /// When clients with a tunnel have all places.
    pub(super) fn stand(&self, role: Role, outbox: &Arc<Outbox>) -> Result<Seat, Full> {
        let mut places = self.admission.places();
        let class = if role == Role::Server {
            Class::Server
        } else {
            Class::Stranger
        };
        if class == Class::Stranger
            && places.strangers.total() + places.attached >= self.admission.clients
        {
            let party = places.taken.get(&self.number).and_then(|place| place.party);
            let victim = places.strangers.gives_way_to(known(party), self.number, 1);
            let Some(victim) = victim else {
                return Err(Full::Clients(self.admission.clients));
            };
            places.tell_to_go(victim);
        }
        places.change(self.number, |place| {
            (place.class, place.outbox) = (class, Some(Arc::clone(outbox)))
        });
        Ok(Seat {
            admission: Arc::clone(&self.admission),
            number: self.number,
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut places = self.admission.places();
        if let Some(place) = places.taken.remove(&self.number) {
            places.discount(self.number, &place);
        }
    }
}

/// The place of a link.
#[derive(Debug)]
pub(super) struct Seat {
    admission: Arc<Admission>,
    number: u64,
}

impl Seat {
    /// A server has answered: the link gives way to nobody from now on.
    pub(super) fn attached(&self) {
        self.admission.places().change(self.number, |place| {
            if place.class == Class::Stranger {
                place.class = Class::Attached;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(links: usize, links_per_address: usize) -> Arc<Admission> {
        Admission::new(&Limits {
            links,
            links_per_address,
            ..Limits::default()
        })
    }

    fn address(number: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, number]))
    }

    fn admit(admission: &Arc<Admission>, number: u8) -> Permit {
        admission.admit(address(number)).expect("a place")
    }

    fn stand(permit: &Permit, role: Role) -> (Seat, Arc<Outbox>) {
        let outbox = Outbox::new();
        (permit.stand(role, &outbox).expect("a place"), outbox)
    }

    fn cut(permits: &[Permit]) -> usize {
        permits
            .iter()
            .filter(|permit| permit.cut.is_cancelled())
            .count()
    }

    #[test]
    fn silent_connections_take_a_quarter_and_give_way_to_others() {
        let admission = admission(64, 64);
        let flood: Vec<_> = (0..200).map(|_| admit(&admission, 1)).collect();
        assert_eq!(cut(&flood), 200 - 16);
        let other = admit(&admission, 2);
        for _ in 0..1_000 {
            drop(admit(&admission, 1));
        }
        assert!(
            !other.cut.is_cancelled(),
            "the party that has most of them loses one"
        );
        // One for the other, and one for all that came and went.
        assert_eq!(cut(&flood), 200 - 14);
    }

    #[test]
    fn one_of_a_flooded_address_lasts_long_enough() {
        let admission = admission(4_096, 4_096);
        let mut flood: Vec<_> = (0..2_000).map(|_| admit(&admission, 1)).collect();
        let server = admit(&admission, 1);
        flood.extend((0..100).map(|_| admit(&admission, 1)));
        // Of 1,024 one is cut by chance a hundred times: nine of ten servers are still there.
        if !server.cut.is_cancelled() {
            assert!(server.stand(Role::Server, &Outbox::new()).is_ok());
        }
        let left = admission.places().arriving.total();
        assert!((1_023..=1_024).contains(&left), "{left}");
    }

    #[test]
    fn clients_without_a_tunnel_do_not_keep_servers_or_other_addresses_out() {
        let admission = admission(64, 64);
        let permits: Vec<_> = (0..40).map(|_| admit_and_stand(&admission, 1)).collect();
        let server = admit(&admission, 1);
        stand(&server, Role::Server);
        let (_other, _, outbox) = admit_and_stand(&admission, 2);
        let told = permits
            .iter()
            .filter(|(.., outbox)| is_told_to_go(outbox))
            .count();
        assert_eq!((told, is_told_to_go(&outbox)), (1, false));
    }

    fn admit_and_stand(admission: &Arc<Admission>, number: u8) -> (Permit, Seat, Arc<Outbox>) {
        let permit = admit(admission, number);
        let (seat, outbox) = stand(&permit, Role::Client);
        (permit, seat, outbox)
    }

    fn is_told_to_go(outbox: &Outbox) -> bool {
        outbox.is_to_end()
    }

    #[test]
    fn a_link_with_a_tunnel_gives_way_to_nobody() {
        let admission = admission(64, 64);
        let attached: Vec<_> = (0..40).map(|_| admit_and_stand(&admission, 1)).collect();
        attached.iter().for_each(|(_, seat, _)| seat.attached());
        let late = admit(&admission, 2);
        assert_eq!(
            late.stand(Role::Client, &Outbox::new()).err(),
            Some(Full::Clients(40))
        );
        assert!(late.stand(Role::Server, &Outbox::new()).is_ok());
        assert!(attached.iter().all(|(.., outbox)| !is_told_to_go(outbox)));
    }

    #[test]
    fn a_dropped_permit_makes_room_and_is_forgotten() {
        let admission = admission(3, 1);
        let greedy = admit(&admission, 1);
        let (seat, _) = stand(&greedy, Role::Client);
        seat.attached();
        assert_eq!(admission.admit(address(1)).err(), Some(Full::Address(1)));
        let other = admit(&admission, 2);
        drop((greedy, other));
        let places = admission.places();
        assert_eq!(
            (places.taken.len(), places.parties.len(), places.attached),
            (0, 0, 0)
        );
        assert_eq!((places.arriving.total(), places.strangers.total()), (0, 0));
    }

    #[test]
    fn a_connection_of_a_proxy_is_counted_as_its_visitors_once_that_is_known() {
        let admission = admission(16, 1);
        let visitor = IpAddr::from([192, 0, 2, 7]);
        let mut first = admission.admit(None).expect("room for one");
        first.assign(visitor).expect("its first");
        let (seat, _) = stand(&first, Role::Client);
        seat.attached();
        let mut second = admit(&admission, 1);
        assert_eq!(second.assign(visitor), Err(Full::Address(1)));
        assert_eq!(
            admission.places().parties.get(&IpAddr::from([10, 0, 0, 1])),
            Some(&1),
            "still counted as before"
        );
        drop(first);
        second.assign(visitor).expect("room again");
        second.assign(visitor).expect("no second place");
        drop(second);
        assert!(admission.places().parties.is_empty());
    }
}
