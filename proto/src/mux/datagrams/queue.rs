//! The datagrams of all flows that wait in one direction, and their bounds.
//!
//! Datagrams have no credit, so a queue that is full drops some: the oldest of the flow that holds
//! the most, and of several such flows the oldest. A flood in one flow therefore leaves the others
//! alone.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{map::Map, mux::frame::FlowId};

/// The most datagrams of all flows of a tunnel that wait in one direction (PROTOCOL 12).
pub const WAITING_MAX: usize = 1024;

/// The most bytes that wait in one direction (PROTOCOL 12). A path of 40 Mbit/s delivers them within
/// the usual `max_delay`.
const BYTES_MAX: usize = 1 << 20;

/// The bytes that may wait although the memory budget is used up: any single datagram.
const BYTES_MIN: usize = 65_536;

/// The amount that a datagram adds to the weight of its flow, so that many small ones weigh as much
/// as few large ones: both bounds are reached together.
const WEIGHT: usize = BYTES_MAX / WAITING_MAX;

/// The memory of a datagram that waits, without its bytes.
const OVERHEAD: usize = 64;

/// The number of flows for which an empty table keeps memory.
const EMPTY_CAPACITY: usize = 64;

/// A datagram that waits.
#[derive(Debug)]
pub(super) struct WaitingDatagram {
    /// Since when it waits.
    pub since: Instant,
    /// Its content.
    pub bytes: Bytes,
}

/// The datagrams of one flow, oldest first. There is at least one.
#[derive(Debug, Default)]
struct FlowQueue {
    datagrams: VecDeque<WaitingDatagram>,
    bytes: usize,
}

impl FlowQueue {
    fn weight(&self) -> usize {
        weight(self.bytes, self.datagrams.len())
    }

    /// Returns since when the oldest datagram waits.
    fn oldest(&self) -> Option<Instant> {
        self.datagrams.front().map(|datagram| datagram.since)
    }
}

fn weight(bytes: usize, datagrams: usize) -> usize {
    bytes.saturating_add(datagrams.saturating_mul(WEIGHT))
}

/// The datagrams of all flows that wait in one direction.
#[derive(Debug)]
pub(super) struct FlowQueues {
    /// Only the flows with datagrams, so that a search takes no more than [`WAITING_MAX`] steps,
    /// however many flows are open.
    queues: Map<FlowId, FlowQueue>,
    /// The number of datagrams, and of their bytes.
    count: usize,
    bytes: usize,
    /// The limit of `bytes`.
    bytes_max: usize,
}

impl Default for FlowQueues {
    fn default() -> Self {
        FlowQueues {
            queues: Map::default(),
            count: 0,
            bytes: 0,
            bytes_max: BYTES_MAX,
        }
    }
}

impl FlowQueues {
    /// Returns the number of datagrams.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Returns the memory of the datagrams, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.bytes
            .saturating_add(self.count.saturating_mul(OVERHEAD))
    }

    /// Limits the bytes to those now and `room`, within the bounds of the protocol.
    pub(super) fn limit_to(&mut self, room: usize) {
        let most = self.bytes.saturating_add(room);
        self.bytes_max = most.clamp(BYTES_MIN, BYTES_MAX);
    }

    /// Appends a datagram. Returns how many others were dropped for it.
    pub(super) fn push(&mut self, now: Instant, id: FlowId, bytes: Bytes) -> u64 {
        let mut dropped: u64 = 0;
        while !self.has_room(bytes.len())
            && let Some(victim) = self.victim(id)
            && self.pop(victim).is_some()
        {
            dropped = dropped.saturating_add(1);
        }
        let queue = self.queues.entry(id).or_default();
        self.count = self.count.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes.len());
        queue.bytes = queue.bytes.saturating_add(bytes.len());
        queue
            .datagrams
            .push_back(WaitingDatagram { since: now, bytes });
        dropped
    }

    fn has_room(&self, length: usize) -> bool {
        self.count < WAITING_MAX && self.bytes.saturating_add(length) <= self.bytes_max
    }

    /// Returns the flow that loses its oldest datagram for one of the flow `id`: this flow if it
    /// holds its share, otherwise the one that holds the most. A flow that floods the queue thus
    /// costs no search.
    fn victim(&self, id: FlowId) -> Option<FlowId> {
        let own = self.queues.get(&id).map_or(0, FlowQueue::weight);
        let total = weight(self.bytes, self.count);
        if own > 0 && own.saturating_mul(self.queues.len()) >= total {
            return Some(id);
        }
        let queues = self.queues.iter();
        queues
            .max_by_key(|(id, queue)| (queue.weight(), Reverse(queue.oldest()), **id))
            .map(|(&id, _)| id)
    }

    /// Returns the bytes of the datagrams of a flow.
    pub(super) fn bytes_of(&self, id: FlowId) -> usize {
        self.queues.get(&id).map_or(0, |queue| queue.bytes)
    }

    /// Returns the oldest datagram of a flow.
    pub(super) fn front(&self, id: FlowId) -> Option<&WaitingDatagram> {
        self.queues.get(&id)?.datagrams.front()
    }

    /// Removes and returns the oldest datagram of a flow.
    pub(super) fn pop(&mut self, id: FlowId) -> Option<WaitingDatagram> {
        let queue = self.queues.get_mut(&id)?;
        let datagram = queue.datagrams.pop_front()?;
        let length = datagram.bytes.len();
        queue.bytes = queue.bytes.saturating_sub(length);
        self.bytes = self.bytes.saturating_sub(length);
        self.count = self.count.saturating_sub(1);
        if queue.datagrams.is_empty() {
            self.forget(id);
        }
        Some(datagram)
    }

    /// Removes the queue of a flow.
    fn forget(&mut self, id: FlowId) {
        self.queues.remove(&id);
        if self.queues.is_empty() && self.queues.capacity() > EMPTY_CAPACITY {
            self.queues = Map::default();
        }
    }

    /// Drops the datagrams of a flow that have waited for `age`. Returns their number.
    pub(super) fn expire_of(&mut self, id: FlowId, now: Instant, age: Duration) -> u64 {
        let mut expired: u64 = 0;
        while self
            .front(id)
            .is_some_and(|oldest| now.saturating_duration_since(oldest.since) >= age)
        {
            self.pop(id);
            expired = expired.saturating_add(1);
        }
        expired
    }

    /// Drops the datagrams of all flows that have waited for `age`. Returns their number.
    pub(super) fn expire(&mut self, now: Instant, age: Duration) -> u64 {
        let flows: Vec<FlowId> = self.queues.keys().copied().collect();
        let expired = flows.into_iter().map(|id| self.expire_of(id, now, age));
        expired.fold(0, u64::saturating_add)
    }

    /// Returns since when the oldest datagram waits.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.queues.values().filter_map(FlowQueue::oldest).min()
    }

    /// Drops the datagrams of a flow. Returns their number.
    pub(super) fn remove(&mut self, id: FlowId) -> u64 {
        let mut dropped: u64 = 0;
        while self.pop(id).is_some() {
            dropped = dropped.saturating_add(1);
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: FlowId = FlowId(1);
    const B: FlowId = FlowId(2);

    fn bytes(length: usize) -> Bytes {
        Bytes::from(vec![7; length])
    }

    #[test]
    fn flood_of_one_flow_drops_its_own_oldest_datagrams() {
        let now = Instant::now();
        let mut queues = FlowQueues::default();
        assert_eq!(queues.push(now, B, bytes(100)), 0);
        let mut dropped = 0;
        for number in 0..5000_u32 {
            let content = Bytes::copy_from_slice(&number.to_be_bytes());
            dropped += queues.push(now, A, content);
        }
        assert_eq!(queues.count(), WAITING_MAX);
        assert_eq!(dropped as usize, 5001 - WAITING_MAX);
        assert_eq!(queues.pop(B).map(|first| first.bytes.len()), Some(100));
        let first = queues.pop(A).unwrap();
        let oldest = 5000 - (WAITING_MAX as u32 - 1);
        assert_eq!(first.bytes, oldest.to_be_bytes()[..]);
    }

    #[test]
    fn small_flow_finds_room_beside_one_that_holds_everything() {
        let now = Instant::now();
        let mut queues = FlowQueues::default();
        while queues.push(now, A, bytes(10_000)) == 0 {}
        let before = queues.count();
        assert_eq!(queues.push(now, B, bytes(9000)), 1);
        assert_eq!(queues.count(), before, "one for one");
        assert!(queues.front(B).is_some());
    }

    #[test]
    fn datagrams_expire_at_their_age_and_not_before() {
        let start = Instant::now();
        let age = Duration::from_millis(200);
        let mut queues = FlowQueues::default();
        for step in 0..10_u32 {
            let at = start + Duration::from_millis(50) * step;
            queues.push(at, FlowId(u64::from(step % 3)), bytes(1));
        }
        assert_eq!(queues.oldest(), Some(start));
        assert_eq!(queues.expire(start + age - Duration::from_nanos(1), age), 0);
        assert_eq!(queues.expire(start + age, age), 1);
        assert_eq!(queues.expire(start + age * 2, age), 4);
        assert_eq!(queues.oldest(), Some(start + Duration::from_millis(250)));
    }

    #[test]
    fn used_up_budget_leaves_room_for_the_largest_datagram() {
        let now = Instant::now();
        let mut queues = FlowQueues::default();
        while queues.push(now, A, bytes(1000)) == 0 {}
        queues.limit_to(0);
        let held = queues.memory();
        queues.push(now, A, bytes(1000));
        assert!(queues.memory() <= held, "no more than before");
        queues.remove(A);
        queues.limit_to(0);
        assert_eq!(queues.push(now, B, bytes(65_507)), 0);
        assert_eq!(queues.push(now, B, bytes(30)), 1, "the budget has no more");
    }

    #[test]
    fn of_flows_that_hold_as_much_the_oldest_datagram_is_dropped() {
        let start = Instant::now();
        let mut queues = FlowQueues::default();
        let most = WAITING_MAX as u64;
        for id in 0..most + 10 {
            queues.push(start + Duration::from_millis(id), FlowId(id), bytes(10));
        }
        let first = start + Duration::from_millis(10);
        assert_eq!(queues.oldest(), Some(first));
        assert!(queues.front(FlowId(most + 9)).is_some());
    }

    #[test]
    fn flows_without_datagrams_take_no_memory() {
        let now = Instant::now();
        let mut queues = FlowQueues::default();
        for id in 0..10_000 {
            queues.push(now, FlowId(id), bytes(1));
            assert!(id % 2 == 0 || queues.pop(FlowId(id)).is_some());
            assert!(queues.queues.len() <= WAITING_MAX);
        }
        assert_eq!(queues.count(), WAITING_MAX - 1);
        let capacity = queues.queues.capacity();
        assert!(capacity < 4 * WAITING_MAX, "{capacity}");
        for id in 0..10_000 {
            queues.remove(FlowId(id));
        }
        assert!(queues.queues.capacity() <= EMPTY_CAPACITY);
    }

    proptest! {
        #[test]
        fn bounds_hold_and_counts_agree(
            steps in proptest::collection::vec((0_u64..6, 0_usize..70_000, 0_u8..4), 1..300),
        ) {
            let now = Instant::now();
            let mut queues = FlowQueues::default();
            let (mut pushed, mut gone) = (0_u64, 0_u64);
            for (id, length, action) in steps {
                let id = FlowId(id);
                match action {
                    0 => gone += u64::from(queues.pop(id).is_some()),
                    1 if length % 7 == 0 => gone += queues.remove(id),
                    _ => {
                        pushed += 1;
                        gone += queues.push(now, id, bytes(length.min(65_507)));
                    }
                }
                prop_assert!(queues.count <= WAITING_MAX && queues.bytes <= BYTES_MAX);
                let sum = |of: fn(&FlowQueue) -> usize| queues.queues.values().map(of).sum::<usize>();
                prop_assert_eq!(sum(|queue| queue.datagrams.len()), queues.count);
                prop_assert_eq!(sum(|queue| queue.bytes), queues.bytes);
                prop_assert!(queues.queues.values().all(|queue| !queue.datagrams.is_empty()));
                prop_assert_eq!(queues.count as u64, pushed - gone);
            }
        }
    }
}
