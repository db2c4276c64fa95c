//! Rate limits, enforced by back-pressure. A limit delays messages and never drops or splits one.
//!
//! ```text
//!  link ──DATA──► ChannelQueue ──pop──► link             unlimited: one branch for each message
//!                     │  ▲
//!         PAUSE above │  │ Transmit::Held: the channel waits in the tree
//!        a tenth of a │  │
//!     second of rate  ▼  └── ready ◄── RateTree ◄── refill, driver
//! ```
//!
//! # Mechanics
//! Before a channel pair passes on a message, its [`ChannelLimits`] take the bytes from a grant. When
//! the grant is used up, they request another from the [`tree`]. If the limits admit nothing, the
//! link holds the channel ([`Transmit::Held`](crate::link::Transmit::Held)), and the queue fills. Its
//! sender is then paused, as for a slow receiver. Nothing else of the link waits.
//!
//! A grant covers the next message, and more of what is queued for short messages: 5 ms of the
//! tightest rate. A message is taken from every limit on its path, if necessary as a debt. Traffic
//! of a subject in debt waits until the debt is paid, so a rate is exact over any time that is long
//! compared to one message. A message of 64 KiB takes a second at 64 KiB/s, so the ends send short
//! ones on a slow path.
//!
//! The tree decides who is next: see its documentation. Grants happen in requests and in
//! [`Rates::run`], the driver. It sleeps until the first debt is paid, or until a channel waits. So
//! limits whose traffic is at rest cost nothing.
//!
//! # Changes
//! [`Rates::set_limits`] acts on running channel pairs. Every spliced pair is known here, but only
//! those with a limit on their path are in the tree.
//!
//! # Locks
//! One lock protects the tree and the table of pairs. A caller may hold the lock of a channel pair,
//! and at the start of the master that of the policies. Links are marked ready after the lock is
//! released.

mod bucket;
mod channel_limits;
mod fair_queue;
mod limits;
mod subject;
mod tree;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use smallvec::SmallVec;
use tokio::{sync::Notify, time::sleep_until};

pub(super) use self::{
    channel_limits::ChannelLimits,
    limits::{
        PairSubjects, PerDirection, RateDirection, RateLimit, RateParty, RateSubject, SubjectLimits,
    },
};
use self::{
    limits::bytes_in,
    tree::{NodeId, RateRequest, RateTree},
};
use super::{channel_queue::CHANNEL_HIGH_WATER, router::now};
use crate::link::ChannelHandle;
use report_proto::map::Map;

/// The shortest sleep of the driver: the resolution of timers.
const TICK: Duration = Duration::from_millis(1);

/// The time of the tightest rate that the queue of a channel may hold before its sender is paused.
/// A keystroke waits behind this queue.
const QUEUE_TIME: Duration = Duration::from_millis(100);

/// The smallest such queue, in bytes: some short messages, or one long one. At a low rate the ends
/// keep less than that under way themselves, so that a PAUSE is rare.
const MIN_QUEUE: usize = 16 * 1024;

/// The leaf number of a pair without a limit. The root has this number, and it is no leaf.
const NO_LEAF: u64 = 0;

/// The rate limits of a master.
#[derive(Debug)]
pub(super) struct Rates {
    state: Mutex<RatesState>,
    /// Wakes the driver when a debt will be paid earlier than it sleeps for.
    earlier: Notify,
}

#[derive(Debug)]
struct RatesState {
    tree: RateTree,
    pairs: Map<u64, Arc<LimitedPair>>,
    next_pair: u64,
    /// The end of the driver's sleep. `None` if it waits for a channel.
    driver_wakes_at: Option<Instant>,
}

/// A spliced channel pair, whether a limit applies to it or not.
struct LimitedPair {
    subjects: PairSubjects,
    /// The channels to which each direction sends.
    channels: PerDirection<Arc<dyn ChannelHandle>>,
    /// The node in the tree, or [`NO_LEAF`]. The data path reads it without the lock.
    leaf: AtomicU64,
    /// The bytes in each queue above which its sender is paused.
    queue_caps: PerDirection<AtomicUsize>,
}

/// Channels that may send again.
type Woken = SmallVec<[Arc<dyn ChannelHandle>; 4]>;

impl Rates {
    /// Creates the rate limits of a master, none at first.
    pub(super) fn new() -> Arc<Self> {
        let state = RatesState {
            tree: RateTree::new(),
            pairs: Map::default(),
            next_pair: 0,
            driver_wakes_at: None,
        };
        Arc::new(Rates {
            state: Mutex::new(state),
            earlier: Notify::new(),
        })
    }

    /// Changes the limits of these subjects, at once and for running channel pairs. The default
    /// removes all limits of a subject. The cost grows with the number of pairs, so several changes
    /// belong in one call. The iterator runs under the lock.
    pub(super) fn set_limits(
        &self,
        changes: impl IntoIterator<Item = (RateSubject, SubjectLimits)>,
    ) {
        let now = now();
        let mut state = self.state();
        for (subject, limits) in changes {
            state.tree.set_limits(subject, limits, now);
        }
        let mut woken = state.update_pairs();
        state.tree.release_all();
        state.tree.serve(now);
        woken.extend(state.take_woken());
        drop(state);
        self.earlier.notify_one();
        woken.iter().for_each(|channel| channel.ready());
    }

    /// Returns for how long traffic of each subject with limits had to wait for them.
    pub(super) fn throttled(&self) -> Vec<(RateSubject, PerDirection<Duration>)> {
        self.state().tree.throttled().collect()
    }

    /// Enters a spliced channel pair. Its limits apply until the result is dropped. `channels` are
    /// the channels to which each direction sends.
    pub(super) fn attach(
        self: &Arc<Self>,
        subjects: PairSubjects,
        channels: PerDirection<Arc<dyn ChannelHandle>>,
    ) -> ChannelLimits {
        let pair = Arc::new(LimitedPair {
            subjects,
            channels,
            leaf: AtomicU64::new(NO_LEAF),
            queue_caps: PerDirection {
                up: AtomicUsize::new(CHANNEL_HIGH_WATER),
                down: AtomicUsize::new(CHANNEL_HIGH_WATER),
            },
        });
        let mut state = self.state();
        let number = state.next_pair;
        state.next_pair = state.next_pair.saturating_add(1);
        pair.update(number, &mut state.tree);
        state.pairs.insert(number, Arc::clone(&pair));
        drop(state);
        ChannelLimits::new(Arc::clone(self), number, pair)
    }

    /// Serves channels as their limits refill, until the future is dropped.
    ///
    /// # Cancel safety
    /// Safe: the function completes all work between two awaits.
    pub(super) async fn run(&self) {
        loop {
            match self.serve() {
                None => self.earlier.notified().await,
                Some(wakes_at) => {
                    tokio::select! {
                        () = sleep_until(wakes_at.into()) => {}
                        () = self.earlier.notified() => {}
                    }
                }
            }
        }
    }

    /// Grants everything that the limits admit now. Returns when to call it again, or `None` if no
    /// channel waits.
    fn serve(&self) -> Option<Instant> {
        loop {
            let now = now();
            let mut state = self.state();
            let is_complete = state.tree.serve(now);
            let woken = state.take_woken();
            let next = state.tree.next_refill(now);
            let wakes_at = next.map(|due| due.max(now + TICK));
            state.driver_wakes_at = wakes_at;
            // Other threads get the lock between two rounds.
            drop(state);
            woken.iter().for_each(|channel| channel.ready());
            if is_complete {
                return wakes_at;
            }
        }
    }

    /// Requests bytes for a pair, as [`RateTree::request`].
    fn request(&self, leaf: NodeId, direction: RateDirection, request: RateRequest) -> Option<u64> {
        let now = now();
        let mut state = self.state();
        let granted = state.tree.request(leaf, direction, request, now);
        let woken = state.take_woken();
        let must_wake_driver = state.plan_wake(now);
        drop(state);
        if must_wake_driver {
            self.earlier.notify_one();
        }
        woken.iter().for_each(|channel| channel.ready());
        granted
    }

    /// Withdraws the request of a pair.
    fn cancel(&self, leaf: NodeId, direction: RateDirection) {
        self.state().tree.cancel(leaf, direction);
    }

    /// Removes a pair.
    fn detach(&self, number: u64) {
        let mut state = self.state();
        let pair = state.pairs.remove(&number);
        if let Some(pair) = &pair
            && let Some(leaf) = pair.leaf()
        {
            state.tree.remove_leaf(leaf);
        }
        // The pair is dropped without the lock: it holds outboxes.
        drop(state);
        drop(pair);
    }

    fn state(&self) -> MutexGuard<'_, RatesState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of pairs in the tree.
    #[cfg(test)]
    pub(super) fn limited_pairs(&self) -> usize {
        let state = self.state();
        let pairs = state.pairs.values();
        pairs.filter(|pair| pair.leaf().is_some()).count()
    }

    /// Whether the driver waits for a channel, without a timer.
    #[cfg(test)]
    pub(super) fn is_at_rest(&self) -> bool {
        self.state().driver_wakes_at.is_none()
    }
}

impl RatesState {
    /// Adds the pairs to the tree whose first limit has appeared, and removes those whose last one
    /// is gone. Returns the channels of the latter.
    fn update_pairs(&mut self) -> Woken {
        let RatesState { tree, pairs, .. } = self;
        let mut woken = Woken::new();
        for (number, pair) in pairs.iter() {
            if pair.update(*number, tree) {
                let channels = RateDirection::ALL.map(|direction| pair.channels.of(direction));
                woken.extend(channels.into_iter().cloned());
            }
        }
        woken
    }

    /// Returns the channels whose requests were granted.
    fn take_woken(&mut self) -> Woken {
        let RatesState { tree, pairs, .. } = self;
        let channels = tree.take_granted().filter_map(|granted| {
            let pair = pairs.get(&granted.owner)?;
            Some(Arc::clone(pair.channels.of(granted.direction)))
        });
        channels.collect()
    }

    /// Returns whether the driver must wake earlier than it plans.
    fn plan_wake(&mut self, now: Instant) -> bool {
        let Some(next) = self.tree.next_refill(now) else {
            return false;
        };
        let wakes_at = next.max(now + TICK);
        let is_earlier = self
            .driver_wakes_at
            .is_none_or(|planned| wakes_at < planned);
        if is_earlier {
            self.driver_wakes_at = Some(wakes_at);
        }
        is_earlier
    }
}

impl LimitedPair {
    /// Returns the node of the pair, if a limit applies to it.
    fn leaf(&self) -> Option<NodeId> {
        let leaf = self.leaf.load(Relaxed);
        (leaf != NO_LEAF).then_some(NodeId(leaf))
    }

    /// Adopts changed limits. Returns whether the last limit of the pair is gone.
    fn update(&self, number: u64, tree: &mut RateTree) -> bool {
        for direction in RateDirection::ALL {
            let rate = tree.tightest_rate(&self.subjects, direction);
            let cap = rate.map_or(CHANNEL_HIGH_WATER, queue_cap);
            self.queue_caps.of(direction).store(cap, Relaxed);
        }
        match (tree.is_limited(&self.subjects), self.leaf()) {
            (true, None) => {
                let leaf = tree.add_leaf(&self.subjects, number);
                self.leaf.store(leaf.0, Relaxed);
                false
            }
            (false, Some(leaf)) => {
                self.leaf.store(NO_LEAF, Relaxed);
                tree.remove_leaf(leaf);
                true
            }
            (true, Some(_)) | (false, None) => false,
        }
    }
}

impl std::fmt::Debug for LimitedPair {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("LimitedPair")
            .field("subjects", &self.subjects)
            .field("leaf", &self.leaf)
            .finish_non_exhaustive()
    }
}

/// Returns the size of a queue above which its sender is paused.
fn queue_cap(rate: u64) -> usize {
    let bytes = usize::try_from(bytes_in(rate, QUEUE_TIME)).unwrap_or(usize::MAX);
    bytes.clamp(MIN_QUEUE, CHANNEL_HIGH_WATER)
}
