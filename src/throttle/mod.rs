//! Throttles guesses of a secret, such as the master key or a credential. Knows addresses and
//! instance ids, and takes the time as a parameter. Knows nothing of links, nor of the secret.
//!
//! Each party ([`party()`]) has a bucket of [`THROTTLE_BURST`] tokens. A wrong proof takes one, and
//! one refills every [`THROTTLE_REFILL`]. A party with an empty bucket is refused, and its proof is
//! not verified. Instances that authenticated before are exempt, so servers behind the address of a
//! guesser stay connected.

mod log_limit;
mod party;
mod token_bucket;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    hash::Hash,
    net::IpAddr,
    time::{Duration, Instant},
};

pub use self::{
    log_limit::{LogLimit, LogLimits},
    party::party,
    token_bucket::TokenBucket,
};
use report_proto::id::Id;

/// The burst of wrong proofs before a party is throttled: enough for a user who types a key, or for
/// several misconfigured servers in one network.
pub const THROTTLE_BURST: u32 = 10;

/// The refill interval of one attempt: some 8,600 guesses a day, against keys whose guess costs an
/// Argon2id.
pub const THROTTLE_REFILL: Duration = Duration::from_secs(10);

/// The most parties remembered. The oldest entry is forgotten first. At about 64
/// bytes each: 512 KiB.
const MAX_PARTIES: usize = 8_192;

/// The most authenticated instances remembered. The oldest is forgotten first. At about 100 bytes
/// each: 1.6 MiB.
const MAX_INSTANCES: usize = 16_384;

/// The record of wrong proofs. `N` names what has proven a secret. If peers hold different secrets,
/// the name contains the secret that was proven: the holder of one may not guess another.
#[derive(Debug)]
pub struct Throttle<N = Id> {
    buckets: HashMap<IpAddr, TokenBucket>,
    /// The parties in `buckets`, in the order in which they were added.
    order: VecDeque<IpAddr>,
    known: HashSet<N>,
    known_order: VecDeque<N>,
}

impl<N> Default for Throttle<N> {
    fn default() -> Self {
        Throttle {
            buckets: HashMap::new(),
            order: VecDeque::new(),
            known: HashSet::new(),
            known_order: VecDeque::new(),
        }
    }
}

impl<N: Copy + Eq + Hash> Throttle<N> {
    /// Whether the HELLO of this instance must be refused without verifying its proof.
    #[must_use]
    pub fn refuses(&self, now: Instant, address: IpAddr, instance: N) -> bool {
        !self.known.contains(&instance) && self.throttles(now, address)
    }

    /// Whether the party of this address has no attempt left.
    #[must_use]
    pub fn throttles(&self, now: Instant, address: IpAddr) -> bool {
        self.buckets
            .get(&party(address))
            .is_some_and(|bucket| bucket.debt(now) > THROTTLE_REFILL * (THROTTLE_BURST - 1))
    }

    /// Records a wrong proof. Returns whether it throttles an address that was not throttled
    /// before.
    pub fn record_failure(&mut self, now: Instant, address: IpAddr) -> bool {
        let party = party(address);
        if !self.buckets.contains_key(&party) {
            self.make_room(now);
            self.order.push_back(party);
        }
        let bucket = self.buckets.entry(party).or_insert(TokenBucket::full(now));
        let before = bucket.debt(now);
        let after = bucket.take(now, THROTTLE_REFILL, THROTTLE_REFILL * THROTTLE_BURST);
        before <= THROTTLE_REFILL * (THROTTLE_BURST - 1)
            && after > THROTTLE_REFILL * (THROTTLE_BURST - 1)
    }

    /// Records an instance that has proven the secret.
    pub fn record_success(&mut self, instance: N) {
        if !self.known.insert(instance) {
            return;
        }
        self.known_order.push_back(instance);
        if self.known_order.len() > MAX_INSTANCES
            && let Some(oldest) = self.known_order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// Drops refilled buckets, oldest first, and one more if the table is full.
    fn make_room(&mut self, now: Instant) {
        while let Some(oldest) = self.order.front().copied() {
            let is_full = self
                .buckets
                .get(&oldest)
                .is_none_or(|bucket| bucket.debt(now).is_zero());
            if !is_full && self.buckets.len() < MAX_PARTIES {
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

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
    const UNKNOWN: Id = Id([1; 16]);
    const KNOWN: Id = Id([2; 16]);

    fn exhausted(now: Instant) -> Throttle {
        let mut throttle = Throttle::default();
        for attempt in 1..=THROTTLE_BURST {
            assert!(
                !throttle.refuses(now, ADDRESS, UNKNOWN),
                "attempt {attempt}"
            );
            assert_eq!(
                throttle.record_failure(now, ADDRESS),
                attempt == THROTTLE_BURST,
                "attempt {attempt}"
            );
        }
        throttle
    }

    #[test]
    fn last_failure_of_the_burst_throttles_only_that_address() {
        let now = Instant::now();
        let throttle = exhausted(now);
        assert!(throttle.refuses(now, ADDRESS, UNKNOWN));
        assert!(!throttle.refuses(now, OTHER_ADDRESS, UNKNOWN));
    }

    #[test]
    fn attempts_refill_over_time() {
        let now = Instant::now();
        let mut throttle = exhausted(now);
        let later = now + THROTTLE_REFILL;
        assert!(!throttle.refuses(later, ADDRESS, UNKNOWN));
        assert!(
            throttle.record_failure(later, ADDRESS),
            "and one failure spends it"
        );
        assert!(throttle.refuses(later, ADDRESS, UNKNOWN));
        assert!(!throttle.refuses(later + THROTTLE_REFILL * THROTTLE_BURST, ADDRESS, UNKNOWN));
    }

    #[test]
    fn known_instance_bypasses_the_throttle() {
        let now = Instant::now();
        let mut throttle = exhausted(now);
        throttle.record_success(KNOWN);
        assert!(!throttle.refuses(now, ADDRESS, KNOWN));
        assert!(throttle.refuses(now, ADDRESS, UNKNOWN));
        assert!(
            throttle.throttles(now, ADDRESS),
            "a peer without an instance is not exempt"
        );
    }

    #[test]
    fn memory_is_bounded_for_many_addresses_and_instances() {
        let now = Instant::now();
        let mut throttle = Throttle::<Id>::default();
        for number in 0..3 * MAX_PARTIES as u32 {
            throttle.record_failure(now, IpAddr::V4(number.into()));
            throttle.record_success(Id(u128::from(number).to_be_bytes()));
        }
        assert_eq!(
            (throttle.buckets.len(), throttle.order.len()),
            (MAX_PARTIES, MAX_PARTIES)
        );
        assert!(
            throttle.known.len() <= MAX_INSTANCES && throttle.known_order.len() <= MAX_INSTANCES
        );
        throttle.record_failure(now + THROTTLE_REFILL, OTHER_ADDRESS);
        assert_eq!(
            (throttle.buckets.len(), throttle.order.len()),
            (1, 1),
            "what is full again is forgotten"
        );
    }
}
