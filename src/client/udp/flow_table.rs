//! The flows of a port by their sources. Pure: time is an argument.
//!
//! A port has a bounded number of flows, and opens a bounded number in a second, because sources are
//! forged easily. When the port is full, new flows replace the idlest, as in the connection tracking
//! of Linux: first those that are not *assured*. A flow is assured when its source has sent a datagram
//! after an answer. A forged source never sees an answer.
//!
//! ```text
//!   admit ─► opened ──answer──► answered ──datagram of the source──► assured
//!              │ idle for 1 s: may give way │                          │ idle for 10 s
//!              └───────────── idle for `udp_idle_timeout`: ends ───────┘
//! ```

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::throttle::TokenBucket;

/// The time without datagrams after which a flow may give way to another. A resolver that uses a new
/// port for each query thus opens `max_flows` flows in a second.
const IDLE_MIN: Duration = Duration::from_secs(1);

/// The same for an assured flow. Players and calls are silent for shorter.
const IDLE_MIN_ASSURED: Duration = Duration::from_secs(10);

/// New flows refill at 1,000 a second, as many as a full port with 1,024 flows can replace.
const NEW_FLOW_REFILL: Duration = Duration::from_millis(1);

/// New flows at once: all of a port after a restart.
const NEW_FLOW_BURST: u32 = 1024;

/// One of this many flows gives way at a time, so that the search for them is rare.
const EVICTED_DIVISOR: usize = 64;

/// The key that distinguishes the flows of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FlowKey {
    /// The number of the local address in the range of the port.
    pub offset: u16,
    /// The source of the datagrams.
    pub source: SocketAddr,
    /// The address of this machine to which they are sent, if the system tells.
    pub local_ip: Option<IpAddr>,
}

/// Why a source gets no flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FlowRefusal {
    /// The port has as many flows as it may, and none is idle.
    #[error("the port has {0} flows, and none of them is idle (raise `max_flows`)")]
    Full(usize),
    /// Too many sources have appeared.
    #[error("more than 1,000 new sources in a second")]
    TooFast,
}

/// A place for a new flow.
#[derive(Debug)]
pub(super) struct FlowPlace<F> {
    /// The number of the new flow, which no other flow of the table has.
    pub number: u64,
    /// Flows that gave way.
    pub evicted: Vec<F>,
}

#[derive(Debug)]
struct FlowEntry<F> {
    flow: F,
    number: u64,
    last: Instant,
    is_answered: bool,
    is_assured: bool,
}

impl<F> FlowEntry<F> {
    /// Returns when the flow may give way if it stays idle.
    fn evictable_at(&self) -> Option<Instant> {
        let idle = if self.is_assured {
            IDLE_MIN_ASSURED
        } else {
            IDLE_MIN
        };
        self.last.checked_add(idle)
    }

    fn is_evictable(&self, now: Instant) -> bool {
        self.evictable_at().is_some_and(|at| at <= now)
    }
}

/// The flows of a port.
#[derive(Debug)]
pub(super) struct FlowTable<F> {
    flows: HashMap<FlowKey, FlowEntry<F>>,
    max: usize,
    idle_timeout: Option<Duration>,
    new_flows: TokenBucket,
    next: u64,
    /// No flow may give way before this time.
    search_at: Option<Instant>,
}

impl<F> FlowTable<F> {
    /// Creates an empty table for up to `max` flows, which end after `idle_timeout`.
    pub(super) fn new(now: Instant, max: usize, idle_timeout: Option<Duration>) -> Self {
        FlowTable {
            flows: HashMap::new(),
            max,
            idle_timeout,
            new_flows: TokenBucket::full(now),
            next: 0,
            search_at: None,
        }
    }

    /// Returns the flow of a source that sends a datagram now.
    pub(super) fn on_datagram(&mut self, now: Instant, key: &FlowKey) -> Option<&F> {
        let entry = self.flows.get_mut(key)?;
        entry.last = now;
        entry.is_assured |= entry.is_answered;
        Some(&entry.flow)
    }

    /// Records that a flow has answered its source now.
    pub(super) fn on_answer(&mut self, now: Instant, key: &FlowKey, number: u64) {
        let entry = self.flows.get_mut(key);
        if let Some(entry) = entry.filter(|entry| entry.number == number) {
            entry.last = now;
            entry.is_answered = true;
        }
    }

    /// Makes room for one more flow.
    ///
    /// # Errors
    /// If too many flows are open, or were opened in a short time.
    pub(super) fn admit(&mut self, now: Instant) -> Result<FlowPlace<F>, FlowRefusal> {
        let most = NEW_FLOW_REFILL.saturating_mul(NEW_FLOW_BURST);
        if self.new_flows.debt(now).saturating_add(NEW_FLOW_REFILL) > most {
            return Err(FlowRefusal::TooFast);
        }
        let evicted = if self.flows.len() < self.max {
            Vec::new()
        } else {
            self.evict(now)
        };
        if self.flows.len() >= self.max {
            return Err(FlowRefusal::Full(self.flows.len()));
        }
        self.new_flows.take(now, NEW_FLOW_REFILL, most);
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        Ok(FlowPlace { number, evicted })
    }

    /// Adds the flow of an admitted source.
    pub(super) fn insert(&mut self, now: Instant, key: FlowKey, number: u64, flow: F) {
        let entry = FlowEntry {
            flow,
            number,
            last: now,
            is_answered: false,
            is_assured: false,
        };
        let evictable_at = entry.evictable_at();
        self.search_at = self.search_at.and_then(|at| Some(at.min(evictable_at?)));
        self.flows.insert(key, entry);
    }

    /// Removes a flow, unless another one has taken its place.
    pub(super) fn remove(&mut self, key: &FlowKey, number: u64) -> Option<F> {
        self.flows.get(key).filter(|flow| flow.number == number)?;
        self.flows.remove(key).map(|entry| entry.flow)
    }

    /// Removes the flows that have been idle for too long.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<F> {
        let Some(timeout) = self.idle_timeout else {
            return Vec::new();
        };
        let is_idle = |entry: &FlowEntry<F>| now.saturating_duration_since(entry.last) >= timeout;
        let expired: Vec<FlowKey> = self
            .flows
            .iter()
            .filter(|(_, entry)| is_idle(entry))
            .map(|(key, _)| *key)
            .collect();
        self.take(&expired)
    }

    /// Removes some of the flows that may give way: those without assurance first, then the idlest.
    fn evict(&mut self, now: Instant) -> Vec<F> {
        if self.search_at.is_some_and(|at| now < at) {
            return Vec::new();
        }
        let mut idle: Vec<(bool, Instant, FlowKey)> = self
            .flows
            .iter()
            .filter(|(_, entry)| entry.is_evictable(now))
            .map(|(key, entry)| (entry.is_assured, entry.last, *key))
            .collect();
        if idle.is_empty() {
            self.search_at = self
                .flows
                .values()
                .filter_map(FlowEntry::evictable_at)
                .min();
            return Vec::new();
        }
        idle.sort_unstable_by_key(|&(is_assured, last, _)| (is_assured, last));
        let most = self.max / EVICTED_DIVISOR + 1;
        let evicted: Vec<FlowKey> = idle.into_iter().take(most).map(|(_, _, key)| key).collect();
        self.take(&evicted)
    }

    fn take(&mut self, keys: &[FlowKey]) -> Vec<F> {
        let flows = keys.iter().filter_map(|key| self.flows.remove(key));
        flows.map(|entry| entry.flow).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u32) -> FlowKey {
        FlowKey {
            offset: 0,
            source: SocketAddr::from((number.to_be_bytes(), 5000)),
            local_ip: None,
        }
    }

    fn open(table: &mut FlowTable<u32>, now: Instant, source: u32) -> Result<u64, FlowRefusal> {
        let FlowPlace { number, .. } = table.admit(now)?;
        table.insert(now, key(source), number, source);
        Ok(number)
    }

    #[test]
    fn idle_flows_end_and_either_direction_keeps_them() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut table = FlowTable::new(now, 10, Some(Duration::from_secs(60)));
        let numbers: Vec<u64> = (0..4).map(|n| open(&mut table, now, n).unwrap()).collect();
        assert_eq!(table.on_datagram(at(50), &key(1)), Some(&1));
        table.on_answer(at(50), &key(2), numbers[2]);
        table.on_answer(at(50), &key(3), numbers[3] + 1);
        assert!(table.expire(at(59)).is_empty());
        let mut expired = table.expire(at(60));
        expired.sort_unstable();
        assert_eq!(expired, [0, 3], "an answer of another flow does not count");
        assert_eq!(table.on_datagram(at(60), &key(0)), None);
        table.idle_timeout = None;
        assert!(table.expire(at(1_000_000)).is_empty());
    }

    #[test]
    fn a_full_port_replaces_the_idlest_flow_without_assurance() {
        let now = Instant::now();
        let at = |seconds: u64| now + Duration::from_millis(seconds * 1_000);
        let mut table = FlowTable::new(now, 4, None);
        for source in 0..4 {
            let number = open(&mut table, now, source).unwrap();
            table.on_answer(now, &key(source), number);
        }
        // The idlest flow is assured, the others are not.
        table.on_datagram(now, &key(0));
        let half = now + Duration::from_millis(500);
        table.on_answer(half, &key(1), 1);
        assert_eq!(open(&mut table, half, 9), Err(FlowRefusal::Full(4)));
        let place = table.admit(at(1)).expect("flows 2 and 3 are idle");
        assert!(matches!(place.evicted[..], [2 | 3]), "{:?}", place.evicted);
        table.insert(at(1), key(10), place.number, 10);
        // Assured flows give way after a longer time.
        for second in 2..10 {
            for source in 1..11 {
                table.on_datagram(at(second), &key(source));
            }
            assert_eq!(open(&mut table, at(second), 11), Err(FlowRefusal::Full(4)));
        }
        for source in 1..11 {
            table.on_datagram(at(10), &key(source));
        }
        let place = table.admit(at(10)).expect("flow 0 is idle");
        assert_eq!(place.evicted, [0]);
    }

    #[test]
    fn a_flood_of_sources_is_bounded_and_leaves_assured_flows_alone() {
        let now = Instant::now();
        let mut table = FlowTable::new(now, 1024, None);
        let number = open(&mut table, now, 0).unwrap();
        table.on_answer(now, &key(0), number);
        let (mut opened, mut source) = (0_u32, 1);
        for milliseconds in 0..10_000 {
            let now = now + Duration::from_millis(milliseconds);
            if milliseconds % 5_000 == 0 {
                assert_eq!(table.on_datagram(now, &key(0)), Some(&0));
            }
            for _ in 0..10 {
                source += 1;
                opened += u32::from(open(&mut table, now, source).is_ok());
            }
            assert!(table.flows.len() <= 1024);
        }
        assert!((9_000..12_000).contains(&opened), "{opened}");
        assert!(table.on_datagram(now, &key(0)).is_some());
    }

    #[test]
    fn new_flows_are_limited_in_a_second() {
        let now = Instant::now();
        let mut table = FlowTable::new(now, 1_000_000, None);
        let burst = (0..5_000).filter(|n| open(&mut table, now, *n).is_ok());
        assert_eq!(burst.count(), NEW_FLOW_BURST as usize);
        assert_eq!(open(&mut table, now, 9_000), Err(FlowRefusal::TooFast));
        let later = now + Duration::from_millis(10);
        let refilled = (10_000..11_000).filter(|n| open(&mut table, later, *n).is_ok());
        assert_eq!(refilled.count(), 10);
    }

    #[test]
    fn a_flow_that_was_replaced_removes_nothing() {
        let now = Instant::now();
        let mut table = FlowTable::new(now, 10, None);
        let first = open(&mut table, now, 5).unwrap();
        let second = open(&mut table, now, 5).unwrap();
        assert_eq!(table.remove(&key(5), first), None);
        assert_eq!(table.remove(&key(5), second), Some(5));
        assert_eq!(table.remove(&key(5), second), None);
    }
}
