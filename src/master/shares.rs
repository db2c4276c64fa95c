//! Shares of a common resource: the weight of each link, summed for each party (an address or a
//! network). Finds the link to evict when the resource is exhausted. Knows addresses and numbers,
//! but not the resource.
//!
//! The heaviest party loses first, and within it the heaviest link. A party with many links loses
//! its own links before it takes from a party that holds less. Of equally heavy parties a random one
//! loses: no address is preferred, and a flood from many addresses lasts no longer than other links.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    net::{IpAddr, Ipv4Addr},
};

use super::limits::LinkNumber;

/// The weights of all links.
#[derive(Debug, Default)]
pub(super) struct Shares {
    parties: HashMap<IpAddr, Party>,
    /// The parties by weight, and those of equal weight by [`Shares::place`].
    order: BTreeSet<(usize, u64, IpAddr)>,
    places: RandomState,
    total: usize,
}

/// The links of one party that hold something.
#[derive(Debug, Default)]
struct Party {
    weight: usize,
    links: BTreeMap<LinkNumber, usize>,
    /// The links by weight; of equal links the oldest is last.
    order: BTreeSet<(usize, Reverse<LinkNumber>)>,
}

impl Shares {
    /// Returns the sum of all weights.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// Returns the weight of a party.
    pub(super) fn of_party(&self, party: IpAddr) -> usize {
        self.parties.get(&party).map_or(0, |held| held.weight)
    }

    /// Adds to the weight of a link.
    pub(super) fn add(&mut self, party: IpAddr, link: LinkNumber, weight: usize) {
        self.update(party, link, |held| held.saturating_add(weight));
    }

    /// Subtracts from the weight of a link.
    pub(super) fn remove(&mut self, party: IpAddr, link: LinkNumber, weight: usize) {
        self.update(party, link, |held| held.saturating_sub(weight));
    }

    /// Returns the link to evict so that `requester` of `party` can hold `weight` more: the
    /// heaviest link of the heaviest party. `random` selects one of equally heavy parties. Returns
    /// `None` when that would be the requester.
    pub(super) fn victim_for(
        &self,
        party: IpAddr,
        requester: LinkNumber,
        weight: usize,
        random: u64,
    ) -> Option<LinkNumber> {
        let own = self.parties.get(&party);
        let own_weight = own.map_or(0, |own| own.weight).saturating_add(weight);
        let heaviest = self.heaviest_party(random)?;
        if heaviest != party && self.of_party(heaviest) >= own_weight {
            return self.heaviest_link_of(heaviest);
        }
        let own = own?;
        let after = own
            .links
            .get(&requester)
            .copied()
            .unwrap_or(0)
            .saturating_add(weight);
        own.heaviest()
            .filter(|(held, link)| *link != requester && *held >= after)
            .map(|(_, link)| link)
    }

    /// Returns the heaviest link of the heaviest party. `random` selects one of equally heavy
    /// parties.
    pub(super) fn heaviest(&self, random: u64) -> Option<LinkNumber> {
        self.heaviest_link_of(self.heaviest_party(random)?)
    }

    fn heaviest_link_of(&self, party: IpAddr) -> Option<LinkNumber> {
        self.parties.get(&party)?.heaviest().map(|(_, link)| link)
    }

    /// Returns a link of a party, chosen by a random number.
    pub(super) fn random_link_of(&self, party: IpAddr, random: u64) -> Option<LinkNumber> {
        let links = &self.parties.get(&party)?.links;
        let (first, last) = (*links.first_key_value()?.0, *links.last_key_value()?.0);
        let from = first.saturating_add(random % last.saturating_sub(first).saturating_add(1));
        links.range(from..).next().map(|(link, _)| *link)
    }

    /// Returns the party with the largest weight. `random` selects one of equally heavy parties.
    pub(super) fn heaviest_party(&self, random: u64) -> Option<IpAddr> {
        let (weight, ..) = *self.order.last()?;
        let lowest = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let next = |place: u64| self.order.range((weight, place, lowest)..).next();
        next(random).or_else(|| next(0)).map(|(.., party)| *party)
    }

    /// Returns the place of a party among those of the same weight. No peer can predict it.
    fn place(&self, party: IpAddr) -> u64 {
        self.places.hash_one(party)
    }

    fn update(&mut self, name: IpAddr, link: LinkNumber, update: impl FnOnce(usize) -> usize) {
        let place = self.place(name);
        let party = self.parties.entry(name).or_default();
        let before = party.links.get(&link).copied().unwrap_or(0);
        let after = update(before);
        party.set(link, before, after);
        let weight = party.weight;
        party.weight = weight - before + after;
        self.total = self.total - before + after;
        self.order.remove(&(weight, place, name));
        if party.links.is_empty() {
            self.parties.remove(&name);
        } else {
            self.order.insert((party.weight, place, name));
        }
    }
}

impl Party {
    fn heaviest(&self) -> Option<(usize, LinkNumber)> {
        self.order
            .last()
            .map(|(weight, Reverse(link))| (*weight, *link))
    }

    fn set(&mut self, link: LinkNumber, before: usize, after: usize) {
        self.order.remove(&(before, Reverse(link)));
        if after == 0 {
            self.links.remove(&link);
        } else {
            self.links.insert(link, after);
            self.order.insert((after, Reverse(link)));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn party(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    #[test]
    fn heaviest_link_of_the_heaviest_party_is_the_victim() {
        let mut shares = Shares::default();
        (1..=10).for_each(|link| shares.add(party(1), link, 5));
        shares.add(party(1), 7, 1);
        shares.add(party(2), 20, 30);
        for random in [0, 1 << 63, u64::MAX] {
            let victim = |name, link, weight| shares.victim_for(party(name), link, weight, random);
            let many_links = "ten links of one address are one party";
            assert_eq!(victim(3, 30, 10), Some(7), "{many_links}");
            assert_eq!(victim(2, 21, 10), Some(7));
            assert_eq!(victim(1, 11, 5), Some(7), "within its own party too");
            assert_eq!(victim(1, 7, 1), None, "no other link holds more");
            let requester = "the requester would be the heaviest";
            assert_eq!(victim(3, 30, 100), None, "{requester}");
        }
    }

    #[test]
    fn oldest_of_equal_links_is_the_victim() {
        let mut shares = Shares::default();
        (1..=3).for_each(|link| shares.add(party(1), link, 5));
        assert_eq!(shares.victim_for(party(1), 4, 5, 0), Some(1));
    }

    #[test]
    fn each_of_equal_parties_can_be_the_victim() {
        let mut shares = Shares::default();
        (1..=4).for_each(|number| shares.add(party(number), number.into(), 5));
        shares.add(party(5), 5, 4);
        for number in 1..=4 {
            let random = shares.place(party(number));
            let expected = Some(LinkNumber::from(number));
            assert_eq!(shares.victim_for(party(6), 6, 5, random), expected);
            assert_eq!(shares.heaviest(random), expected);
        }
        let after_all = shares.heaviest_party(u64::MAX);
        assert_eq!(after_all, shares.heaviest_party(0), "the first follows");
        assert_ne!(after_all, Some(party(5)), "it holds less");
    }

    proptest! {
        #[test]
        fn weights_match_the_model(steps in proptest::collection::vec((0_u8..4, 0_u64..6, 0_usize..50, any::<bool>()), 0..200), random in any::<u64>()) {
            let mut shares = Shares::default();
            let mut model: HashMap<(u8, u64), usize> = HashMap::new();
            for (number, link, weight, adds) in steps {
                // A link belongs to one party.
                let link = link * 4 + u64::from(number);
                let held = model.entry((number, link)).or_default();
                if adds {
                    *held += weight;
                    shares.add(party(number), link, weight);
                } else {
                    *held = held.saturating_sub(weight);
                    shares.remove(party(number), link, weight);
                }
                prop_assert_eq!(shares.total(), model.values().sum::<usize>());
                let of_party = |number: u8| model.iter().filter(|((party, _), _)| *party == number).map(|(_, held)| held).sum::<usize>();
                for number in 0..4 {
                    prop_assert_eq!(shares.of_party(party(number)), of_party(number));
                    let links: Vec<_> = model.iter().filter(|((party, _), held)| *party == number && **held > 0).map(|((_, link), _)| *link).collect();
                    prop_assert_eq!(shares.random_link_of(party(number), random).is_some(), !links.is_empty());
                    prop_assert!(shares.random_link_of(party(number), random).is_none_or(|link| links.contains(&link)));
                }
                let most = (0..4).map(of_party).max();
                prop_assert_eq!(shares.heaviest_party(random).map(|name| shares.of_party(name)), most.filter(|most| *most > 0));
                prop_assert_eq!(shares.parties.len(), (0..4).filter(|number| of_party(*number) > 0).count());
            }
        }
    }
}
