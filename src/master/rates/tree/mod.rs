//! The tree of rate limits. Knows nodes, bytes and the time that it is given, but no links, locks or
//! clocks.
//!
//! ```text
//!  relay ──► owner account ──► key ──► party or credential ──► client instance ──► channel
//!   limits       limits       limits
//! ```
//!
//! A node's children share what the node may send: evenly, or by weight between accounts and
//! between keys. So a client gains nothing by more lanes, tunnels or processes, and its share of a
//! key depends on the number of parties only. A share that is not used goes to the others, so the
//! result is max-min fair. `fair_queue` defines the order within a node.
//!
//! Limits belong to subjects and not to nodes: several nodes may have the same subject, and a
//! channel may have a subject that is on no path to the root, the account of a foreign client.
//!
//! Each node has this state in each direction:
//!
//! ```text
//!            request of a channel below              its turn, and its subject is in debt
//!   idle ──────────────────────────────► queued ─────────────────────────────► parked
//!    ▲                                   │    ▲                                   │
//!    └──── granted, nothing waits below ─┘    └──── the debt is paid or changed ──┘
//! ```
//!
//! [`RateTree::serve`] descends from the root along the first children, until it finds a channel. A
//! node in debt is parked on the way, and the descent starts again.

mod node;
mod queues;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, hash_map::Entry},
    time::{Duration, Instant},
};

pub(super) use self::node::NodeId;
use self::node::{Leaf, Node, NodeKey, ROOT};
use super::{
    limits::{PairSubjects, PerDirection, RateDirection, RateSubject, SubjectLimits, bytes_in},
    subject::SubjectRates,
};
use crate::interner::Interner;
use report_proto::map::Map;

/// The time of the tightest rate that one grant covers, for messages shorter than that.
const GRANT_TIME: Duration = Duration::from_millis(5);

/// The bounds of a grant, in bytes. A grant covers at least the next message.
const MIN_GRANT: u64 = 2 * 1024;
const MAX_GRANT: u64 = 64 * 1024;

/// The most grants, and the most nodes that leave their parking places, in one call of
/// [`RateTree::serve`]. The caller holds a lock in the meantime.
const MAX_STEPS: usize = 256;

/// The tree of rate limits.
#[derive(Debug)]
pub(super) struct RateTree {
    /// The limits in force. Only subjects with a limit or a weight are here.
    subjects: Map<RateSubject, SubjectRates>,
    /// Subjects with the same limits share them.
    limits: Interner<SubjectLimits>,
    nodes: Map<NodeId, Node>,
    /// The inner nodes by parent and key.
    index: Map<(NodeId, NodeKey), NodeId>,
    next_node: u64,
    /// The parked nodes, by the time at which their debts are paid.
    parked: BTreeSet<(Instant, RateDirection, NodeId)>,
    /// The direction that is served next.
    turn: RateDirection,
    /// The channels whose requests were granted since the last [`RateTree::take_granted`].
    granted: Vec<Granted>,
}

/// A channel whose request was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Granted {
    /// The number that [`RateTree::add_leaf`] received.
    pub(super) owner: u64,
    pub(super) direction: RateDirection,
    leaf: NodeId,
}

/// The bytes that a channel wants to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RateRequest {
    /// The bytes that its next message needs, positive.
    pub(super) needed: u64,
    /// All bytes that wait, the next message included.
    pub(super) queued: u64,
}

impl RateTree {
    /// Creates a tree without limits.
    pub(super) fn new() -> Self {
        let mut nodes = Map::default();
        nodes.insert(ROOT, Node::new(None, NodeKey::Relay, None));
        RateTree {
            subjects: Map::default(),
            limits: Interner::default(),
            nodes,
            index: Map::default(),
            next_node: 1,
            parked: BTreeSet::new(),
            turn: RateDirection::Down,
            granted: Vec::new(),
        }
    }

    /// Sets the limits of a subject. The caller then calls [`RateTree::release_all`] and
    /// [`RateTree::serve`].
    pub(super) fn set_limits(&mut self, subject: RateSubject, limits: SubjectLimits, now: Instant) {
        if limits == SubjectLimits::default() {
            self.subjects.remove(&subject);
            return;
        }
        let limits = self.limits.share(limits);
        match self.subjects.entry(subject) {
            Entry::Occupied(rates) => rates.into_mut().change(limits, now),
            Entry::Vacant(vacant) => {
                vacant.insert(SubjectRates::new(limits));
            }
        }
    }

    /// Whether a limit applies to a channel pair.
    pub(super) fn is_limited(&self, subjects: &PairSubjects) -> bool {
        let mut limits = self.limits_of(subjects);
        limits.any(SubjectLimits::is_limited)
    }

    /// Returns the lowest rate that applies to one direction of a channel pair.
    pub(super) fn tightest_rate(
        &self,
        subjects: &PairSubjects,
        direction: RateDirection,
    ) -> Option<u64> {
        self.limits_of(subjects)
            .filter_map(|limits| limits.tightest_rate(direction))
            .min()
    }

    fn limits_of(&self, subjects: &PairSubjects) -> impl Iterator<Item = &SubjectLimits> {
        subjects
            .limited_by()
            .filter_map(move |subject| self.subjects.get(&subject))
            .map(SubjectRates::limits)
    }

    /// Returns for how long traffic of each subject had to wait for its limits.
    pub(super) fn throttled(&self) -> impl Iterator<Item = (RateSubject, PerDirection<Duration>)> {
        let subjects = self.subjects.iter();
        subjects.map(|(subject, rates)| (*subject, rates.throttled()))
    }

    /// Adds a channel pair. `owner` is the caller's number for it.
    pub(super) fn add_leaf(&mut self, subjects: &PairSubjects, owner: u64) -> NodeId {
        let path = [
            NodeKey::Account(subjects.owner_account),
            NodeKey::Key(subjects.key),
            NodeKey::Party(subjects.party),
            NodeKey::Instance(subjects.instance),
        ];
        let mut parent = ROOT;
        for key in path {
            parent = match self.index.get(&(parent, key)) {
                Some(node) => *node,
                None => self.insert(parent, key, None),
            };
        }
        let leaf = Leaf::new(owner, subjects.foreign_account());
        self.insert(parent, NodeKey::Channel, Some(leaf))
    }

    /// Removes a channel pair, and the inner nodes that have no other one.
    pub(super) fn remove_leaf(&mut self, leaf: NodeId) {
        self.granted.retain(|granted| granted.leaf != leaf);
        let mut id = leaf;
        while id != ROOT {
            for direction in RateDirection::ALL {
                self.withdraw(id, direction);
            }
            let Some(node) = self.nodes.remove(&id) else {
                return;
            };
            let Some(parent) = node.parent else { return };
            self.index.remove(&(parent, node.key));
            let Some(parent_node) = self.nodes.get_mut(&parent) else {
                return;
            };
            parent_node.children = parent_node.children.saturating_sub(1);
            if parent_node.children > 0 {
                return;
            }
            id = parent;
        }
    }

    fn insert(&mut self, parent: NodeId, key: NodeKey, leaf: Option<Leaf>) -> NodeId {
        let id = NodeId(self.next_node);
        self.next_node = self.next_node.saturating_add(1);
        if leaf.is_none() {
            self.index.insert((parent, key), id);
        }
        self.nodes.insert(id, Node::new(Some(parent), key, leaf));
        if let Some(parent) = self.nodes.get_mut(&parent) {
            parent.children = parent.children.saturating_add(1);
        }
        id
    }

    /// Requests bytes for a channel. Returns the bytes that it may send, or zero if it has to wait:
    /// [`RateTree::take_granted`] then names it once it may. Returns `None` if the channel is not in
    /// the tree, because no limit applies to it any more.
    pub(super) fn request(
        &mut self,
        id: NodeId,
        direction: RateDirection,
        request: RateRequest,
        now: Instant,
    ) -> Option<u64> {
        let demand = self.leaf_mut(id)?.demand.of_mut(direction);
        if demand.granted < request.needed {
            demand.request(request);
            self.enqueue(id, direction);
            self.serve(now);
        }
        let demand = self.leaf_mut(id)?.demand.of_mut(direction);
        if demand.granted < request.needed {
            return Some(0);
        }
        let granted = std::mem::take(&mut demand.granted);
        self.granted
            .retain(|granted| granted.leaf != id || granted.direction != direction);
        Some(granted)
    }

    /// Withdraws the request of a channel.
    pub(super) fn cancel(&mut self, id: NodeId, direction: RateDirection) {
        self.withdraw(id, direction);
        if let Some(leaf) = self.leaf_mut(id) {
            leaf.demand.of_mut(direction).clear();
        }
    }

    /// Grants what the limits admit. Returns `false` if it stopped because of [`MAX_STEPS`], and
    /// more can be granted.
    pub(super) fn serve(&mut self, now: Instant) -> bool {
        let mut is_complete = self.release_due(now);
        let served_before = self.granted.len();
        let (mut steps, mut idle_directions) = (0, 0);
        while idle_directions < RateDirection::ALL.len() {
            if steps >= MAX_STEPS {
                is_complete = false;
                break;
            }
            steps += 1;
            self.turn = self.turn.opposite();
            match self.next_leaf(self.turn, now) {
                Some(leaf) => {
                    self.grant(leaf, self.turn, now);
                    idle_directions = 0;
                }
                None => idle_directions += 1,
            }
        }
        self.settle(served_before);
        is_complete
    }

    /// Returns the channels whose requests were granted, each once.
    pub(super) fn take_granted(&mut self) -> impl Iterator<Item = Granted> {
        self.granted.drain(..)
    }

    /// Returns when the next call of [`RateTree::serve`] can grant something. Returns `None` if no
    /// channel waits.
    pub(super) fn next_refill(&self, now: Instant) -> Option<Instant> {
        let is_unfinished = RateDirection::ALL
            .into_iter()
            .any(|direction| self.is_queued(ROOT, direction));
        if is_unfinished {
            return Some(now);
        }
        self.parked.first().map(|(due, _, _)| *due)
    }

    /// Takes bytes of a channel from all limits that apply to it, and adds them to its grant.
    fn grant(&mut self, id: NodeId, direction: RateDirection, now: Instant) {
        let chunk = self.chunk(id, direction);
        let Some(leaf) = self.leaf_mut(id) else {
            return;
        };
        let (gate, owner) = (leaf.gate, leaf.owner);
        let demand = leaf.demand.of_mut(direction);
        let is_first = demand.needed > 0;
        let bytes = demand.grant(chunk);
        let mut is_waiting = demand.queued > 0;
        if is_first {
            self.granted.push(Granted {
                owner,
                direction,
                leaf: id,
            });
        }
        if let Some(rates) = gate.and_then(|gate| self.subjects.get_mut(&gate)) {
            rates.take(direction, bytes, now);
        }
        let mut next = Some(id);
        while let Some(id) = next {
            let Some(node) = self.nodes.get(&id) else {
                return;
            };
            next = node.parent;
            let rates = node.subject().and_then(|of| self.subjects.get_mut(&of));
            let weight = rates.as_ref().map_or(1, |rates| rates.limits().weight);
            if let Some(rates) = rates {
                rates.take(direction, bytes, now);
            }
            self.advance(id, direction, bytes, weight, is_waiting);
            is_waiting = match next {
                Some(parent) => self.has_waiting(parent, direction),
                None => false,
            };
        }
    }

    /// Returns the size of a grant of short messages.
    fn chunk(&self, leaf: NodeId, direction: RateDirection) -> u64 {
        let mut tightest = None;
        let mut next = Some(leaf);
        while let Some(node) = next.and_then(|id| self.nodes.get(&id)) {
            let gate = node.leaf.as_ref().and_then(|leaf| leaf.gate);
            for subject in node.subject().into_iter().chain(gate) {
                let rates = self.subjects.get(&subject);
                let rate = rates.and_then(|rates| rates.limits().tightest_rate(direction));
                // `None` is less than any rate.
                tightest = tightest.into_iter().chain(rate).min();
            }
            next = node.parent;
        }
        tightest.map_or(MAX_GRANT, |rate| {
            bytes_in(rate, GRANT_TIME).clamp(MIN_GRANT, MAX_GRANT)
        })
    }
}
