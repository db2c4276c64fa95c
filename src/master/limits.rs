//! What a master gives away at most, and the counting of it. Knows addresses and numbers; nothing of links.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What a master gives away at most. Each default stands for a small public machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time, whatever they are good for: counted from `accept` on, so that those who never say what they want are in it.
    /// 16,384 links at rest take about 256 MiB. The process needs as many file descriptors.
    pub links: usize,
    /// Connections at a time from one address (IPv6: from one /64 network), that other visitors find room. Links that come through a trusted
    /// proxy are counted for the visitor whom it names.
    pub links_per_address: usize,
    /// Key ids that one server may register.
    pub ports_per_link: u32,
    /// Channels that one link may hold, waiting ones included: a tunnel takes one, whatever the number of its connections.
    pub channels_per_link: u32,
    /// Bytes of a request's head; what browsers and proxies send stays far below.
    pub header_bytes: usize,
    /// Bytes that all channels together may keep waiting in the master. Under pressure channels are paused earlier, and beyond it the
    /// greediest are closed.
    pub memory_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            links: 16_384,
            links_per_address: 4_096,
            ports_per_link: 1_024,
            channels_per_link: 4_096,
            header_bytes: 16 * 1024,
            memory_bytes: 256 * 1024 * 1024,
        }
    }
}

/// The party behind an address: an IPv4 address, or the /64 network of an IPv6 address, which is what one customer is given.
#[must_use]
pub(super) fn party(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// Counts connections, in all and for each party.
#[derive(Debug)]
pub(super) struct Admission {
    links: usize,
    links_per_address: usize,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    parties: HashMap<IpAddr, usize>,
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
}

impl Admission {
    /// Nothing counted yet.
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Admission {
            links: limits.links,
            links_per_address: limits.links_per_address,
            counts: Mutex::new(Counts::default()),
        })
    }

    /// Counts one more connection, until the permit is dropped: in all, and as one of a party's where that is known already.
    pub(super) fn admit(self: &Arc<Self>, address: Option<IpAddr>) -> Result<Permit, Full> {
        let mut counts = self.counts();
        if counts.total >= self.links {
            return Err(Full::Master(self.links));
        }
        let party = address.map(party);
        party.map_or(Ok(()), |party| counts.enter(party, self.links_per_address))?;
        counts.total += 1;
        Ok(Permit { admission: Arc::clone(self), party })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn enter(&mut self, party: IpAddr, most: usize) -> Result<(), Full> {
        let of_party = self.parties.get(&party).copied().unwrap_or(0);
        if of_party >= most {
            return Err(Full::Address(most));
        }
        self.parties.insert(party, of_party + 1);
        Ok(())
    }

    fn leave(&mut self, party: IpAddr) {
        match self.parties.get_mut(&party) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.parties.remove(&party);
            }
        }
    }
}

/// The place of one connection; dropping it makes room.
#[derive(Debug)]
pub(super) struct Permit {
    admission: Arc<Admission>,
    party: Option<IpAddr>,
}

impl Permit {
    /// Counts the connection as one from this address from now on.
    ///
    /// # Errors
    /// When there are as many from there as may be; it is counted as before then.
    pub(super) fn assign(&mut self, address: IpAddr) -> Result<(), Full> {
        let party = party(address);
        if self.party == Some(party) {
            return Ok(());
        }
        let mut counts = self.admission.counts();
        counts.enter(party, self.admission.links_per_address)?;
        if let Some(before) = self.party.replace(party) {
            counts.leave(before);
        }
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.admission.counts();
        counts.total = counts.total.saturating_sub(1);
        if let Some(party) = self.party {
            counts.leave(party);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(links: usize, links_per_address: usize) -> Arc<Admission> {
        Admission::new(&Limits { links, links_per_address, ..Limits::default() })
    }

    #[test]
    fn a_dropped_permit_makes_room() {
        let admission = admission(2, 2);
        let address = IpAddr::from([10, 0, 0, 1]);
        let first = admission.admit(Some(address)).expect("room for one");
        let _second = admission.admit(Some(address)).expect("room for two");
        assert_eq!(admission.admit(Some(address)).err(), Some(Full::Master(2)));
        drop(first);
        assert!(admission.admit(Some(address)).is_ok());
    }

    #[test]
    fn one_address_leaves_room_for_others_and_is_forgotten_when_it_went() {
        let admission = admission(3, 1);
        let greedy = admission.admit(Some(IpAddr::from([10, 0, 0, 1]))).expect("room for one");
        assert_eq!(admission.admit(Some(IpAddr::from([10, 0, 0, 1]))).err(), Some(Full::Address(1)));
        let other = admission.admit(Some(IpAddr::from([10, 0, 0, 2]))).expect("room for another");
        drop((greedy, other));
        assert!(admission.counts.lock().expect("unpoisoned").parties.is_empty());
        assert_eq!(admission.counts.lock().expect("unpoisoned").total, 0);
    }

    #[test]
    fn a_connection_of_a_proxy_is_counted_as_its_visitors_once_that_is_known() {
        let admission = admission(3, 1);
        let (proxy, visitor) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([192, 0, 2, 7]));
        let mut first = admission.admit(None).expect("room for one");
        let mut second = admission.admit(Some(proxy)).expect("room for two");
        first.assign(visitor).expect("its first");
        assert_eq!(second.assign(visitor), Err(Full::Address(1)));
        assert_eq!(admission.admit(Some(proxy)).err(), Some(Full::Address(1)), "still counted as before");
        drop(first);
        second.assign(visitor).expect("room again");
        second.assign(visitor).expect("no second place");
        assert!(admission.admit(Some(proxy)).is_ok());
        drop(second);
        assert!(admission.counts().parties.is_empty());
    }

    #[test]
    fn an_ipv6_network_is_one_party_and_a_mapped_address_is_the_ipv4_one() {
        let of = |text: &str| party(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
