//! The nodes of the tree, and the requests of its leaves.

use std::time::Instant;

use super::RateRequest;
use crate::master::rates::{
    fair_queue::{FairQueue, Tag},
    limits::{PerDirection, RateParty, RateSubject},
};
use report_proto::id::Id;

/// The number of a node. Numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::master::rates) struct NodeId(pub(in crate::master::rates) u64);

/// The node of the relay.
pub(super) const ROOT: NodeId = NodeId(0);

/// The object of a node, unique among the children of its parent except for channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum NodeKey {
    Relay,
    Account(u64),
    Key(Id),
    Party(RateParty),
    Instance(Id),
    Channel,
}

/// A node of the tree.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) parent: Option<NodeId>,
    pub(super) key: NodeKey,
    pub(super) children: usize,
    pub(super) schedule: PerDirection<NodeSchedule>,
    /// The requests, if the node is a channel.
    pub(super) leaf: Option<Box<Leaf>>,
}

/// The schedule of a node in one direction.
#[derive(Debug, Default)]
pub(super) struct NodeSchedule {
    /// The children that wait.
    pub(super) queue: FairQueue<NodeId>,
    /// The finish tag of the node within its parent.
    pub(super) finish: Tag,
    pub(super) state: NodeState,
}

/// The state of a node in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum NodeState {
    /// Nothing waits in the node.
    #[default]
    Idle,
    /// The node waits in the queue of its parent, with this start tag. The root has no parent.
    Queued(Tag),
    /// The subject of the node is in debt until this time.
    Parked(Instant),
}

impl Node {
    pub(super) fn new(parent: Option<NodeId>, key: NodeKey, leaf: Option<Leaf>) -> Self {
        Node {
            parent,
            key,
            children: 0,
            schedule: PerDirection::default(),
            leaf: leaf.map(Box::new),
        }
    }

    /// Returns the subject whose limits apply to the node.
    pub(super) fn subject(&self) -> Option<RateSubject> {
        match self.key {
            NodeKey::Relay => Some(RateSubject::Relay),
            NodeKey::Account(account) => Some(RateSubject::Account(account)),
            NodeKey::Key(key) => Some(RateSubject::Key(key)),
            NodeKey::Party(_) | NodeKey::Instance(_) | NodeKey::Channel => None,
        }
    }
}

/// A channel pair.
#[derive(Debug)]
pub(super) struct Leaf {
    /// The caller's number for the pair.
    pub(super) owner: u64,
    /// A subject beside the path whose limits apply as well. It has no share.
    pub(super) gate: Option<RateSubject>,
    pub(super) demand: PerDirection<Demand>,
}

impl Leaf {
    pub(super) fn new(owner: u64, gate: Option<RateSubject>) -> Self {
        Leaf {
            owner,
            gate,
            demand: PerDirection::default(),
        }
    }
}

/// The request of a channel in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Demand {
    /// The bytes without which a grant is of no use. Zero if they were granted.
    pub(super) needed: u64,
    /// The bytes that wait and were not granted.
    pub(super) queued: u64,
    /// The bytes that were granted and not collected.
    pub(super) granted: u64,
}

impl Demand {
    /// Sets what the channel wants in addition to what was granted.
    pub(super) fn request(&mut self, request: RateRequest) {
        self.needed = request.needed.saturating_sub(self.granted);
        let queued = request.queued.saturating_sub(self.granted);
        self.queued = queued.max(self.needed);
    }

    /// Grants what the channel needs, or up to `chunk` bytes if that is more. Returns the bytes.
    pub(super) fn grant(&mut self, chunk: u64) -> u64 {
        let bytes = self.queued.min(chunk).max(self.needed);
        self.needed = 0;
        self.queued = self.queued.saturating_sub(bytes);
        self.granted = self.granted.saturating_add(bytes);
        bytes
    }

    /// Withdraws the request, and what was granted.
    pub(super) fn clear(&mut self) {
        *self = Demand::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grant_covers_the_next_message_and_no_more_than_waits() {
        let mut demand = Demand::default();
        demand.request(RateRequest {
            needed: 10_000,
            queued: 13_000,
        });
        assert_eq!(demand.grant(2_000), 10_000, "the message as a whole");
        assert_eq!(demand.grant(2_000), 2_000);
        assert_eq!(demand.grant(2_000), 1_000, "nothing else waits");
        assert_eq!((demand.granted, demand.queued), (13_000, 0));
        demand.request(RateRequest {
            needed: 14_000,
            queued: 14_000,
        });
        assert_eq!(demand.grant(0), 1_000, "the rest");
    }
}
