//! Counts the bytes of spliced channel pairs, and the tunnels that begin.
//!
//! A pair counts in two numbers of its own, which only the holder of the pair's lock writes. The
//! meter reads them without that lock.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::attachments::Attachments;
use crate::{
    master::{policies::TunnelKey, rates::RateDirection, router::now},
    policy::{AccountId, LimitSubject, Moved},
};
use report_proto::{id::Id, map::Map};

/// The subjects to which the traffic of a pair is charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::master) struct Charge {
    /// The key id.
    pub(in crate::master) key: Id,
    /// The account that owns the key, otherwise that of the server's link.
    pub(in crate::master) owner: Option<AccountId>,
    /// The account of the client, if it has one.
    pub(in crate::master) client: Option<AccountId>,
}

impl Charge {
    /// Returns the subjects, each once: the relay, the key, the owner, and the client's account if
    /// it is another one.
    pub(in crate::master) fn subjects(&self) -> impl Iterator<Item = LimitSubject> + use<> {
        let foreign = self.client.filter(|client| self.owner != Some(*client));
        [LimitSubject::Relay, LimitSubject::Key(self.key)]
            .into_iter()
            .chain(self.owner.map(LimitSubject::Account))
            .chain(foreign.map(LimitSubject::Account))
    }
}

/// The meter of a master.
#[derive(Debug)]
pub(in crate::master) struct UsageMeter {
    /// Without a database no pair is metered.
    is_enabled: AtomicBool,
    state: Mutex<MeterState>,
}

#[derive(Debug, Default)]
struct MeterState {
    pairs: Map<u64, MeteredPair>,
    next_pair: u64,
    /// What pairs have moved that ended, or that are charged to other subjects now.
    rest: Map<Charge, Moved>,
    attachments: Attachments,
}

#[derive(Debug)]
struct MeteredPair {
    tunnel: TunnelKey,
    charge: Charge,
    counter: Arc<PairCounter>,
    /// The part of the counter that was taken before.
    taken: Moved,
}

/// The bytes of a pair since its start.
#[derive(Debug, Default)]
struct PairCounter {
    up: AtomicU64,
    down: AtomicU64,
}

/// The meter of one pair. Dropping it ends the pair.
#[derive(Debug)]
pub(in crate::master) struct PairMeter {
    meter: Arc<UsageMeter>,
    number: u64,
    counter: Arc<PairCounter>,
}

impl PairCounter {
    fn moved(&self) -> Moved {
        Moved {
            up: self.up.load(Relaxed),
            down: self.down.load(Relaxed),
        }
    }
}

impl MeteredPair {
    /// Takes the bytes since the last call.
    fn take(&mut self) -> Moved {
        let moved = self.counter.moved();
        let before = std::mem::replace(&mut self.taken, moved);
        Moved {
            up: moved.up.saturating_sub(before.up),
            down: moved.down.saturating_sub(before.down),
        }
    }
}

impl UsageMeter {
    /// Creates a meter that counts nothing.
    pub(in crate::master) fn new() -> Arc<Self> {
        Arc::new(UsageMeter {
            is_enabled: AtomicBool::new(false),
            state: Mutex::default(),
        })
    }

    /// Counts from now on.
    pub(in crate::master) fn enable(&self) {
        self.is_enabled.store(true, Relaxed);
    }

    /// Enters a pair that was just spliced. Returns `None` if the meter counts nothing.
    pub(in crate::master) fn enter(
        self: &Arc<Self>,
        tunnel: TunnelKey,
        charge: Charge,
    ) -> Option<PairMeter> {
        if !self.is_enabled.load(Relaxed) {
            return None;
        }
        let counter = Arc::<PairCounter>::default();
        let mut state = self.state();
        state.attachments.start(tunnel, charge.subjects(), now());
        let number = state.next_pair;
        state.next_pair = state.next_pair.saturating_add(1);
        let pair = MeteredPair {
            tunnel,
            charge,
            counter: Arc::clone(&counter),
            taken: Moved::default(),
        };
        state.pairs.insert(number, pair);
        drop(state);
        Some(PairMeter {
            meter: Arc::clone(self),
            number,
            counter,
        })
    }

    /// Takes the bytes since the last call, by the subjects to which they are charged.
    pub(super) fn take(&self) -> Map<Charge, Moved> {
        let mut state = self.state();
        let mut taken = std::mem::take(&mut state.rest);
        for pair in state.pairs.values_mut() {
            let moved = pair.take();
            if moved != Moved::default() {
                add(taken.entry(pair.charge).or_default(), moved);
            }
        }
        taken
    }

    /// Returns the subjects to which the traffic of living pairs is charged.
    pub(super) fn subjects(&self) -> HashSet<LimitSubject> {
        let state = self.state();
        let charges: HashSet<Charge> = state.pairs.values().map(|pair| pair.charge).collect();
        drop(state);
        charges.iter().flat_map(Charge::subjects).collect()
    }

    /// Whether a tunnel is up, or ended so recently that its next pair resumes it.
    pub(in crate::master) fn is_known_tunnel(&self, tunnel: &TunnelKey) -> bool {
        self.state().attachments.is_known(tunnel, now())
    }

    /// Returns the number of tunnels of a subject that began within the last minute.
    pub(in crate::master) fn attachments(&self, subject: LimitSubject) -> u32 {
        self.state().attachments.of(subject, now())
    }

    /// Forgets tunnels that ended long ago, and the numbers of subjects without new tunnels.
    pub(super) fn forget_old(&self, now: Instant) {
        self.state().attachments.forget_old(now);
    }

    fn state(&self) -> MutexGuard<'_, MeterState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds bytes.
pub(super) fn add(sum: &mut Moved, moved: Moved) {
    sum.up = sum.up.saturating_add(moved.up);
    sum.down = sum.down.saturating_add(moved.down);
}

impl PairMeter {
    /// Counts bytes of a direction. The caller holds the lock of the pair, so no other thread writes
    /// in between.
    pub(in crate::master) fn count(&self, direction: RateDirection, bytes: usize) {
        let sum = match direction {
            RateDirection::Up => &self.counter.up,
            RateDirection::Down => &self.counter.down,
        };
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        sum.store(sum.load(Relaxed).saturating_add(bytes), Relaxed);
    }

    /// Charges the traffic from now on to another account as the owner of the key.
    pub(in crate::master) fn set_owner(&self, owner: Option<AccountId>) {
        let mut state = self.meter.state();
        let MeterState { pairs, rest, .. } = &mut *state;
        if let Some(pair) = pairs.get_mut(&self.number) {
            add(rest.entry(pair.charge).or_default(), pair.take());
            pair.charge.owner = owner;
        }
    }
}

impl Drop for PairMeter {
    fn drop(&mut self) {
        let mut state = self.meter.state();
        let Some(mut pair) = state.pairs.remove(&self.number) else {
            return;
        };
        let moved = pair.take();
        if moved != Moved::default() {
            add(state.rest.entry(pair.charge).or_default(), moved);
        }
        state.attachments.end(pair.tunnel, now());
    }
}

/// The time for which a tunnel without a pair counts as interrupted, not as ended.
pub(super) const RESUMPTION_TIME: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::master::identity::Identity;

    fn charge() -> Charge {
        Charge {
            key: Id([7; 16]),
            owner: Some(AccountId(2)),
            client: Some(AccountId(3)),
        }
    }

    fn tunnel(instance: u8) -> TunnelKey {
        TunnelKey {
            client: Identity::Anonymous,
            instance: Id([instance; 16]),
            key: charge().key,
        }
    }

    fn meter() -> Arc<UsageMeter> {
        let meter = UsageMeter::new();
        meter.enable();
        meter
    }

    fn taken(meter: &UsageMeter) -> Vec<(Charge, Moved)> {
        let mut taken: Vec<_> = meter.take().into_iter().collect();
        taken.sort_by_key(|(charge, _)| *charge);
        taken
    }

    fn moved(up: u64, down: u64) -> Moved {
        Moved { up, down }
    }

    #[test]
    fn traffic_is_charged_to_each_subject_once() {
        let subjects = |owner: Option<i64>, client: Option<i64>| -> Vec<_> {
            let charge = Charge {
                owner: owner.map(AccountId),
                client: client.map(AccountId),
                ..charge()
            };
            charge.subjects().skip(2).collect()
        };
        let account = |id| LimitSubject::Account(AccountId(id));
        assert_eq!(subjects(Some(2), Some(3)), [account(2), account(3)]);
        assert_eq!(subjects(Some(2), Some(2)), [account(2)]);
        assert_eq!(subjects(None, Some(2)), [account(2)]);
        assert_eq!(subjects(None, None), []);
        let first: Vec<_> = charge().subjects().take(2).collect();
        assert_eq!(
            first,
            [LimitSubject::Relay, LimitSubject::Key(charge().key)]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_taken_once_while_pairs_live_and_when_they_end() {
        let meter = meter();
        let first = meter.enter(tunnel(1), charge()).unwrap();
        let second = meter.enter(tunnel(2), charge()).unwrap();
        first.count(RateDirection::Up, 5);
        second.count(RateDirection::Down, 7);
        assert_eq!(taken(&meter), [(charge(), moved(5, 7))]);
        assert_eq!(taken(&meter), []);
        first.count(RateDirection::Up, 1);
        second.count(RateDirection::Up, 2);
        drop(first);
        assert_eq!(taken(&meter), [(charge(), moved(3, 0))]);
        drop(second);
        assert_eq!(taken(&meter), []);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_before_a_change_of_the_owner_are_charged_to_the_former_one() {
        let meter = meter();
        let pair = meter.enter(tunnel(1), charge()).unwrap();
        pair.count(RateDirection::Up, 5);
        pair.set_owner(Some(AccountId(9)));
        pair.count(RateDirection::Up, 6);
        let later = Charge {
            owner: Some(AccountId(9)),
            ..charge()
        };
        let expected = [(charge(), moved(5, 0)), (later, moved(6, 0))];
        assert_eq!(taken(&meter), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn meter_counts_nothing_without_a_database() {
        let meter = UsageMeter::new();
        assert!(meter.enter(tunnel(1), charge()).is_none());
        assert_eq!(taken(&meter), []);
    }

    #[tokio::test(start_paused = true)]
    async fn further_lanes_and_resumptions_are_no_new_tunnels() {
        let meter = meter();
        let key = LimitSubject::Key(charge().key);
        let first = meter.enter(tunnel(1), charge());
        let lane = meter.enter(tunnel(1), charge());
        assert_eq!(meter.attachments(key), 1);
        drop((first, lane));
        assert!(meter.is_known_tunnel(&tunnel(1)));
        let resumed = meter.enter(tunnel(1), charge());
        assert_eq!(meter.attachments(key), 1);
        drop(resumed);
        tokio::time::advance(RESUMPTION_TIME).await;
        assert!(!meter.is_known_tunnel(&tunnel(1)));
        let _again = meter.enter(tunnel(1), charge());
        assert_eq!(
            meter.attachments(key),
            1,
            "the first one is out of the minute"
        );
        let _other = meter.enter(tunnel(2), charge());
        assert_eq!(meter.attachments(key), 2);
    }
}
