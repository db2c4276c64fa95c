//! The datagrams of a socket that wait for a tunnel, oldest first. Pure: time is an argument.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::net::udp::ReceivedDatagram;

/// The most datagrams and bytes that wait. A tunnel follows within `max_delay` or not at all, so few
/// sources have more.
const DATAGRAMS_MAX: usize = 256;
const BYTES_MAX: usize = 256 * 1024;

/// Datagrams that wait for a tunnel.
#[derive(Debug)]
pub(super) struct HeldDatagrams {
    waiting: VecDeque<(Instant, ReceivedDatagram)>,
    bytes: usize,
    max_delay: Duration,
}

impl HeldDatagrams {
    /// Creates an empty queue, whose datagrams wait for at most `max_delay`.
    pub(super) fn new(max_delay: Duration) -> Self {
        HeldDatagrams {
            waiting: VecDeque::new(),
            bytes: 0,
            max_delay,
        }
    }

    /// Returns whether no datagram waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Appends a datagram. Returns how many older ones are dropped for it.
    pub(super) fn push(&mut self, now: Instant, datagram: ReceivedDatagram) -> u64 {
        self.bytes = self.bytes.saturating_add(datagram.bytes.len());
        self.waiting.push_back((now, datagram));
        let mut dropped: u64 = 0;
        while self.waiting.len() > DATAGRAMS_MAX || self.bytes > BYTES_MAX {
            self.pop();
            dropped = dropped.saturating_add(1);
        }
        dropped
    }

    /// Returns when the oldest datagram has waited for too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.front()?.0.checked_add(self.max_delay)
    }

    /// Drops the datagrams that have waited for too long. Returns their number.
    pub(super) fn expire(&mut self, now: Instant) -> u64 {
        let mut dropped: u64 = 0;
        while self.deadline().is_some_and(|deadline| deadline <= now) {
            self.pop();
            dropped = dropped.saturating_add(1);
        }
        dropped
    }

    /// Takes all datagrams.
    pub(super) fn take_all(&mut self) -> Vec<ReceivedDatagram> {
        self.bytes = 0;
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_iter().map(|(_, datagram)| datagram).collect()
    }

    fn pop(&mut self) {
        if let Some((_, datagram)) = self.waiting.pop_front() {
            self.bytes = self.bytes.saturating_sub(datagram.bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn datagram(number: u8, length: usize) -> ReceivedDatagram {
        ReceivedDatagram {
            source: "192.0.2.1:5".parse().unwrap(),
            local_ip: None,
            bytes: Bytes::from(vec![number; length]),
        }
    }

    #[test]
    fn datagrams_wait_for_the_delay_and_leave_in_order() {
        let delay = Duration::from_millis(200);
        let (now, mut held) = (Instant::now(), HeldDatagrams::new(delay));
        assert_eq!(held.deadline(), None);
        for number in 0..4 {
            let at = now + Duration::from_millis(u64::from(number) * 50);
            assert_eq!(held.push(at, datagram(number, 10)), 0);
        }
        assert_eq!(held.deadline(), Some(now + delay));
        assert_eq!(held.expire(now + delay - Duration::from_millis(1)), 0);
        assert_eq!(held.expire(now + delay + Duration::from_millis(50)), 2);
        let left = held.take_all();
        assert_eq!(left, [datagram(2, 10), datagram(3, 10)]);
        assert!(held.is_empty());
    }

    #[test]
    fn the_oldest_are_dropped_beyond_the_bounds() {
        let (now, mut held) = (Instant::now(), HeldDatagrams::new(Duration::MAX));
        let dropped: u64 = (0..300_u16)
            .map(|number| held.push(now, datagram(number as u8, 1)))
            .sum();
        assert_eq!(dropped, 300 - DATAGRAMS_MAX as u64);
        assert_eq!(held.expire(now + Duration::from_secs(1_000)), 0);
        let large = (0..6).map(|_| held.push(now, datagram(7, 65_507)));
        assert_eq!(large.sum::<u64>(), DATAGRAMS_MAX as u64 + 2);
        assert_eq!((held.waiting.len(), held.bytes), (4, 4 * 65_507));
    }
}
