//! The packets on the way in one direction, in the order in which they arrive.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A packet and its time of arrival. Packets of the same time stay in their order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Scheduled {
    at: Duration,
    number: u64,
    packet: Vec<u8>,
}

#[derive(Debug, Default)]
struct Packets {
    scheduled: BinaryHeap<Reverse<Scheduled>>,
    next_number: u64,
    has_stopped: bool,
}

/// The packets on the way. The queue of the bottleneck and the delay bound their number.
#[derive(Debug, Default)]
pub(super) struct Transit {
    packets: Mutex<Packets>,
    changed: Condvar,
}

impl Transit {
    /// Adds a packet that arrives at this time.
    pub(super) fn push(&self, at: Duration, packet: &[u8]) {
        let mut packets = self.packets();
        let number = packets.next_number;
        packets.next_number += 1;
        let is_next = packets
            .scheduled
            .peek()
            .is_none_or(|Reverse(first)| at < first.at);
        packets.scheduled.push(Reverse(Scheduled {
            at,
            number,
            packet: packet.to_vec(),
        }));
        if is_next {
            self.changed.notify_one();
        }
    }

    /// Waits until the next packet arrives. Times count from `start`. Returns nothing after
    /// [`stop`](Self::stop).
    pub(super) fn next(&self, start: Instant) -> Option<Vec<u8>> {
        let mut packets = self.packets();
        while !packets.has_stopped {
            let now = start.elapsed();
            let first_at = packets.scheduled.peek().map(|Reverse(first)| first.at);
            packets = match first_at {
                Some(at) if at <= now => {
                    return packets.scheduled.pop().map(|Reverse(first)| first.packet);
                }
                Some(at) => {
                    self.changed
                        .wait_timeout(packets, at - now)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => self
                    .changed
                    .wait(packets)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
        None
    }

    /// Ends the waiting.
    pub(super) fn stop(&self) {
        self.packets().has_stopped = true;
        self.changed.notify_all();
    }

    fn packets(&self) -> MutexGuard<'_, Packets> {
        self.packets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #[allow(
        unused_imports,
        reason = "a benchmark without a harness compiles this module without its tests"
    )]
    use super::*;

    #[test]
    fn packets_arrive_by_time_and_then_in_their_order() {
        let transit = Transit::default();
        for (milliseconds, packet) in [(3, 1), (1, 2), (3, 3), (2, 4)] {
            transit.push(Duration::from_millis(milliseconds), &[packet]);
        }
        let start = Instant::now();
        let arrived: Vec<u8> = (0..4)
            .filter_map(|_| transit.next(start)?.first().copied())
            .collect();
        assert_eq!(arrived, [2, 4, 1, 3]);
        assert!(start.elapsed() >= Duration::from_millis(3));
        transit.stop();
        assert_eq!(transit.next(start), None);
    }
}
