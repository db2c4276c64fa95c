//! Slows down who guesses the master key. Knows addresses, instance ids and time as a parameter; nothing of links.
//!
//! Each party ([`party`]) has a bucket of [`FAILURES`] tokens, a wrong proof takes one, and one comes back every [`REFILL`]. A party whose
//! bucket is empty is answered `throttled` without looking at its proof, except for instances that authenticated before: the servers
//! behind the address of a guesser go on.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{bucket::Bucket, limits::party};
use crate::id::Id;

/// Wrong proofs at once before a party is throttled: somebody who types a key, or several misconfigured servers in one network.
pub const FAILURES: u32 = 10;

/// The time in which one more attempt is earned: some 8,600 guesses a day, against keys whose guess costs an Argon2id each anyway.
pub const REFILL: Duration = Duration::from_secs(10);

/// Parties that are remembered; beyond it the one that failed longest ago is forgotten. At about 64 bytes each: 512 KiB.
const PARTIES: usize = 8_192;

/// Instances that are remembered as having authenticated; beyond it the oldest is forgotten. At about 64 bytes each: 1 MiB.
const INSTANCES: usize = 16_384;

/// The memory of wrong proofs.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    buckets: HashMap<IpAddr, Bucket>,
    /// Parties in the order of their first failure since they were last forgotten; each is in `buckets`.
    order: VecDeque<IpAddr>,
    known: HashSet<Id>,
    known_order: VecDeque<Id>,
}

impl Throttle {
    /// Whether a HELLO of this instance from this address is to be refused unread.
    pub(super) fn refuses(&self, now: Instant, address: IpAddr, instance: Id) -> bool {
        !self.known.contains(&instance)
            && self
                .buckets
                .get(&party(address))
                .is_some_and(|bucket| bucket.debt(now) > REFILL * (FAILURES - 1))
    }

    /// A proof from this address was wrong. Says whether the address is throttled from now on, having not been before.
    pub(super) fn failed(&mut self, now: Instant, address: IpAddr) -> bool {
        let party = party(address);
        if !self.buckets.contains_key(&party) {
            self.forget_for_one_more(now);
            self.order.push_back(party);
        }
        let bucket = self.buckets.entry(party).or_insert(Bucket::full(now));
        let before = bucket.debt(now);
        let after = bucket.take(now, REFILL, REFILL * FAILURES);
        before <= REFILL * (FAILURES - 1) && after > REFILL * (FAILURES - 1)
    }

    /// This instance has proven the key.
    pub(super) fn authenticated(&mut self, instance: Id) {
        if !self.known.insert(instance) {
            return;
        }
        self.known_order.push_back(instance);
        if self.known_order.len() > INSTANCES
            && let Some(oldest) = self.known_order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// Drops what is full again, from the oldest on, and one more when all places are taken.
    fn forget_for_one_more(&mut self, now: Instant) {
        while let Some(oldest) = self.order.front().copied() {
            let full = self
                .buckets
                .get(&oldest)
                .is_none_or(|bucket| bucket.debt(now).is_zero());
            if !full && self.buckets.len() < PARTIES {
                return;
            }
            self.order.pop_front();
            self.buckets.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
    const STRANGER: Id = Id([1; 16]);
    const FRIEND: Id = Id([2; 16]);

    fn exhausted(now: Instant) -> Throttle {
        let mut throttle = Throttle::default();
        for attempt in 1..=FAILURES {
            assert!(!throttle.refuses(now, HERE, STRANGER), "attempt {attempt}");
            assert_eq!(
                throttle.failed(now, HERE),
                attempt == FAILURES,
                "attempt {attempt}"
            );
        }
        throttle
    }

    #[test]
    fn the_last_failure_of_the_burst_throttles_the_address_and_no_other() {
        let now = Instant::now();
        let throttle = exhausted(now);
        assert!(throttle.refuses(now, HERE, STRANGER));
        assert!(!throttle.refuses(now, THERE, STRANGER));
    }

    #[test]
    fn an_attempt_is_earned_back_with_time() {
        let now = Instant::now();
        let mut throttle = exhausted(now);
        let later = now + REFILL;
        assert!(!throttle.refuses(later, HERE, STRANGER));
        assert!(throttle.failed(later, HERE), "and one failure spends it");
        assert!(throttle.refuses(later, HERE, STRANGER));
        assert!(!throttle.refuses(later + REFILL * FAILURES, HERE, STRANGER));
    }

    #[test]
    fn an_instance_that_authenticated_before_goes_on_from_a_throttled_address() {
        let now = Instant::now();
        let mut throttle = exhausted(now);
        throttle.authenticated(FRIEND);
        assert!(!throttle.refuses(now, HERE, FRIEND));
        assert!(throttle.refuses(now, HERE, STRANGER));
    }

    #[test]
    fn neither_many_addresses_nor_many_instances_grow_the_memory() {
        let now = Instant::now();
        let mut throttle = Throttle::default();
        for number in 0..3 * PARTIES as u32 {
            throttle.failed(now, IpAddr::V4(number.into()));
            throttle.authenticated(Id(u128::from(number).to_be_bytes()));
        }
        assert_eq!(
            (throttle.buckets.len(), throttle.order.len()),
            (PARTIES, PARTIES)
        );
        assert!(throttle.known.len() <= INSTANCES && throttle.known_order.len() <= INSTANCES);
        throttle.failed(now + REFILL, THERE);
        assert_eq!(
            (throttle.buckets.len(), throttle.order.len()),
            (1, 1),
            "what is full again is forgotten"
        );
    }
}
