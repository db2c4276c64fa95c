//! Counters of the datagrams of a port.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::parameters::{Counter, PortCounters};
use report_proto::mux::DatagramCounts;

/// Why an end dropped a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// It waited for `max_delay` and could not leave.
    Expired,
    /// Too many others waited.
    QueueFull,
    /// It was older than `max_delay` when it arrived from the peer.
    Late,
    /// It arrived from the peer for a flow that this end does not have.
    UnknownFlow,
    /// It waited when its flow ended.
    FlowEnded,
    /// No tunnel was up.
    NoTunnel,
    /// It would have opened a flow beyond `max_flows`, or beyond the new flows of a second.
    FlowLimit,
    /// The local socket refused it.
    Socket,
}

impl DropReason {
    /// All reasons.
    pub const ALL: [Self; 8] = [
        Self::Expired,
        Self::QueueFull,
        Self::Late,
        Self::UnknownFlow,
        Self::FlowEnded,
        Self::NoTunnel,
        Self::FlowLimit,
        Self::Socket,
    ];

    /// Returns the name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::QueueFull => "queue_full",
            Self::Late => "late",
            Self::UnknownFlow => "unknown_flow",
            Self::FlowEnded => "flow_ended",
            Self::NoTunnel => "no_tunnel",
            Self::FlowLimit => "flow_limit",
            Self::Socket => "socket",
        }
    }
}

/// The counters of the datagrams of one port.
#[derive(Debug, Default)]
pub struct DatagramCounters {
    /// Datagrams that left in tunnels.
    pub sent: Counter,
    /// Datagrams that arrived in tunnels, for a flow of this end.
    pub received: Counter,
    /// Flows that were opened.
    pub opened_flows: Counter,
    /// Dropped datagrams, in the order of [`DropReason::ALL`].
    dropped: [Counter; DropReason::ALL.len()],
    /// The flows of this end, in all tunnels of the port.
    open_flows: AtomicUsize,
}

/// One of the flows that a port may have. Dropping it makes room for another.
#[derive(Debug)]
pub struct FlowSlot(Arc<PortCounters>);

impl FlowSlot {
    /// Takes one of `most` slots of a port.
    #[must_use]
    pub fn take(port: &Arc<PortCounters>, most: usize) -> Option<Self> {
        let more = |open: usize| open.checked_add(1).filter(|&open| open <= most);
        let open_flows = &port.datagrams.open_flows;
        open_flows.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(FlowSlot(Arc::clone(port)))
    }

    /// Returns whether the port has no other of its `most` slots.
    #[must_use]
    pub fn is_last_of(&self, most: usize) -> bool {
        self.0.datagrams.open_flows.load(Relaxed) >= most
    }
}

impl Drop for FlowSlot {
    fn drop(&mut self) {
        self.0.datagrams.open_flows.fetch_sub(1, Relaxed);
    }
}

impl DatagramCounters {
    /// Counts dropped datagrams.
    pub fn drop_some(&self, reason: DropReason, datagrams: u64) {
        if let Some(counter) = self.dropped.get(reason as usize) {
            counter.add(datagrams);
        }
    }

    /// Returns the number of datagrams that were dropped for this reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped
            .get(reason as usize)
            .map_or(0, |counter| counter.get())
    }

    /// Adds the counts of a tunnel.
    pub(super) fn add(&self, counts: DatagramCounts) {
        self.sent.add(counts.sent);
        self.received.add(counts.received);
        for (reason, datagrams) in [
            (DropReason::Expired, counts.expired),
            (DropReason::QueueFull, counts.dropped_full),
            (DropReason::Late, counts.late),
            (DropReason::UnknownFlow, counts.unknown_flow),
            (DropReason::FlowEnded, counts.ended),
        ] {
            self.drop_some(reason, datagrams);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_counter_and_name() {
        let counters = DatagramCounters::default();
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            counters.drop_some(reason, index as u64 + 1);
        }
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(counters.dropped(reason), index as u64 + 1);
        }
        let names: std::collections::BTreeSet<_> =
            DropReason::ALL.into_iter().map(DropReason::name).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
    }

    #[test]
    fn slots_are_bounded_and_return() {
        let port = Arc::new(PortCounters::default());
        let mut slots: Vec<_> = (0..5).filter_map(|_| FlowSlot::take(&port, 3)).collect();
        assert_eq!(slots.len(), 3);
        assert!(slots[0].is_last_of(3) && !slots[0].is_last_of(4));
        slots.pop();
        assert!(!slots[0].is_last_of(3));
        assert!(FlowSlot::take(&port, 3).is_some());
        assert!(FlowSlot::take(&port, 2).is_none());
        assert!(FlowSlot::take(&Arc::default(), 0).is_none());
    }

    #[test]
    fn counts_of_tunnels_add_up() {
        let counters = DatagramCounters::default();
        let counts = DatagramCounts {
            sent: 1,
            received: 2,
            expired: 3,
            dropped_full: 4,
            late: 5,
            unknown_flow: 6,
            ended: 7,
        };
        counters.add(counts);
        counters.add(counts);
        assert_eq!((counters.sent.get(), counters.received.get()), (2, 4));
        let dropped = DropReason::ALL.map(|reason| counters.dropped(reason));
        assert_eq!(dropped, [6, 8, 10, 12, 14, 0, 0, 0]);
    }
}
