//! Moves nodes between their states: idle, queued and parked.

use std::time::Instant;

use super::{
    MAX_STEPS, NodeId, RateTree,
    node::{Leaf, NodeSchedule, NodeState, ROOT},
};
use crate::master::rates::{
    fair_queue::{Tag, tag_cost},
    limits::RateDirection,
};

impl RateTree {
    pub(super) fn leaf_mut(&mut self, id: NodeId) -> Option<&mut Leaf> {
        self.nodes.get_mut(&id)?.leaf.as_deref_mut()
    }

    fn schedule(&self, id: NodeId, direction: RateDirection) -> Option<&NodeSchedule> {
        Some(self.nodes.get(&id)?.schedule.of(direction))
    }

    fn schedule_mut(&mut self, id: NodeId, direction: RateDirection) -> Option<&mut NodeSchedule> {
        Some(self.nodes.get_mut(&id)?.schedule.of_mut(direction))
    }

    fn state(&self, id: NodeId, direction: RateDirection) -> NodeState {
        self.schedule(id, direction)
            .map_or(NodeState::Idle, |schedule| schedule.state)
    }

    fn parent(&self, id: NodeId) -> Option<NodeId> {
        self.nodes.get(&id)?.parent
    }

    /// Whether a node is queued.
    pub(super) fn is_queued(&self, id: NodeId, direction: RateDirection) -> bool {
        matches!(self.state(id, direction), NodeState::Queued(_))
    }

    /// Whether children of an inner node are queued.
    pub(super) fn has_waiting(&self, id: NodeId, direction: RateDirection) -> bool {
        self.schedule(id, direction)
            .is_some_and(|schedule| !schedule.queue.is_empty())
    }

    /// Queues an idle node, and its ancestors up to one that is not idle.
    pub(super) fn enqueue(&mut self, id: NodeId, direction: RateDirection) {
        let mut next = Some(id);
        while let Some(id) = next {
            if self.state(id, direction) != NodeState::Idle {
                return;
            }
            next = self.parent(id);
            let finish = self
                .schedule(id, direction)
                .map_or(0, |schedule| schedule.finish);
            let start = match next {
                Some(parent) => self
                    .schedule_mut(parent, direction)
                    .map_or(0, |parent| parent.queue.add(id, finish)),
                None => 0,
            };
            self.set_state(id, direction, NodeState::Queued(start));
        }
    }

    /// Makes a node idle, and those ancestors in which nothing waits any more. Its children keep
    /// their states.
    pub(super) fn withdraw(&mut self, id: NodeId, direction: RateDirection) {
        let mut next = Some(id);
        while let Some(id) = next {
            next = match self.state(id, direction) {
                NodeState::Idle => None,
                NodeState::Parked(due) => {
                    self.parked.remove(&(due, direction, id));
                    None
                }
                NodeState::Queued(start) => self.leave_queue(id, start, direction),
            };
            self.set_state(id, direction, NodeState::Idle);
        }
    }

    /// Removes a node from the queue of its parent. Returns the parent if nothing waits there any
    /// more and it is queued itself. A parked parent stays parked, as its debt remains.
    fn leave_queue(&mut self, id: NodeId, start: Tag, direction: RateDirection) -> Option<NodeId> {
        let parent = self.parent(id)?;
        let schedule = self.schedule_mut(parent, direction)?;
        schedule.queue.remove(id, start);
        let is_over = schedule.queue.is_empty() && matches!(schedule.state, NodeState::Queued(_));
        is_over.then_some(parent)
    }

    fn set_state(&mut self, id: NodeId, direction: RateDirection, state: NodeState) {
        if let Some(schedule) = self.schedule_mut(id, direction) {
            schedule.state = state;
        }
    }

    /// Returns the channel that is next. Parks the nodes on the way whose subjects are in debt.
    pub(super) fn next_leaf(&mut self, direction: RateDirection, now: Instant) -> Option<NodeId> {
        let mut id = ROOT;
        while self.is_queued(ROOT, direction) {
            if let Some(due) = self.blocked_until(id, direction, now) {
                self.park(id, direction, due);
                id = ROOT;
                continue;
            }
            let node = self.nodes.get(&id)?;
            if node.leaf.is_some() {
                return Some(id);
            }
            match node.schedule.of(direction).queue.first() {
                Some(child) => id = child,
                None => {
                    self.withdraw(id, direction);
                    id = ROOT;
                }
            }
        }
        None
    }

    /// Returns when the limits of a node will admit a message, unless they do now.
    fn blocked_until(
        &mut self,
        id: NodeId,
        direction: RateDirection,
        now: Instant,
    ) -> Option<Instant> {
        let node = self.nodes.get(&id)?;
        let gate = node.leaf.as_ref().and_then(|leaf| leaf.gate);
        let rates = self.subjects.get_mut(&node.subject().or(gate)?)?;
        rates.ready_at(direction, now)
    }

    /// Parks a queued node until its debt is paid.
    fn park(&mut self, id: NodeId, direction: RateDirection, due: Instant) {
        self.withdraw(id, direction);
        self.parked.insert((due, direction, id));
        self.set_state(id, direction, NodeState::Parked(due));
    }

    /// Releases the parked nodes whose debts are paid. Returns `false` if it stopped early.
    pub(super) fn release_due(&mut self, now: Instant) -> bool {
        for _ in 0..MAX_STEPS {
            match self.parked.first() {
                Some(&(due, direction, id)) if due <= now => self.release(id, direction),
                _ => return true,
            }
        }
        false
    }

    /// Releases all parked nodes, because limits have changed. The next
    /// [`RateTree::serve`] parks those again that are still in debt.
    pub(in crate::master::rates) fn release_all(&mut self) {
        while let Some(&(_, direction, id)) = self.parked.first() {
            self.release(id, direction);
        }
    }

    fn release(&mut self, id: NodeId, direction: RateDirection) {
        self.withdraw(id, direction);
        let is_waiting = self.nodes.get(&id).is_some_and(|node| {
            let leaf = node.leaf.as_ref();
            leaf.is_some_and(|leaf| leaf.demand.of(direction).needed > 0)
                || !node.schedule.of(direction).queue.is_empty()
        });
        if is_waiting {
            self.enqueue(id, direction);
        }
    }

    /// Records that a queued node was served, and queues it again if something still waits in it.
    pub(super) fn advance(
        &mut self,
        id: NodeId,
        direction: RateDirection,
        bytes: u64,
        weight: u32,
        is_waiting: bool,
    ) {
        let NodeState::Queued(start) = self.state(id, direction) else {
            return;
        };
        let finish = start.saturating_add(tag_cost(bytes, weight));
        let mut next_start = 0;
        if let Some(parent) = self.parent(id) {
            let Some(parent) = self.schedule_mut(parent, direction) else {
                return;
            };
            parent.queue.serve(id, start);
            if is_waiting {
                next_start = parent.queue.add(id, finish);
            }
        }
        let state = if is_waiting {
            NodeState::Queued(next_start)
        } else {
            NodeState::Idle
        };
        if let Some(schedule) = self.schedule_mut(id, direction) {
            (schedule.finish, schedule.state) = (finish, state);
        }
    }

    /// Ends the requests that were granted since `served_before`. Until then a channel stays queued
    /// for what the limits admit beyond its next message.
    pub(super) fn settle(&mut self, served_before: usize) {
        for position in served_before..self.granted.len() {
            let Some(granted) = self.granted.get(position).copied() else {
                return;
            };
            self.withdraw(granted.leaf, granted.direction);
            if let Some(leaf) = self.leaf_mut(granted.leaf) {
                leaf.demand.of_mut(granted.direction).queued = 0;
            }
        }
    }
}
