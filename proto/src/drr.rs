//! Deficit round robin between senders, in which senders with little data go first (RFC 8290,
//! section 4.2, without dropping). The multiplexer schedules streams with it, a link its channels.
//!
//! A sender that starts to send is *new* and precedes the *old* ones until it has used up its
//! quantum. A keystroke therefore overtakes a bulk copy, and no sender can stay new by sending
//! much.
//!
//! ```text
//!            add                  quantum used up, or no more data
//!   idle ───────────► new ───────────────────────────────────────► old ──► old …
//!    ▲                                                              │
//!    └───────────── its turn comes and it has no data ◄─────────────┘
//! ```

use std::{collections::VecDeque, hash::Hash};

use crate::map::Map;

/// The number of senders for which an empty scheduler keeps memory. Each answered message empties
/// it.
const EMPTY_CAPACITY: usize = 64;

/// The senders that have data, in the order of sending.
#[derive(Debug)]
pub struct DrrScheduler<K> {
    new: VecDeque<K>,
    old: VecDeque<K>,
    entries: Map<K, DrrEntry>,
    /// The sender whose turn it is, with the list from which it came. It is in no list meanwhile.
    serving: Option<(DrrList, K)>,
}

/// The turn of one sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrrTurn<K> {
    /// The sender.
    pub key: K,
    /// The number of bytes that it may send. It is positive.
    pub credit: i64,
    /// Whether no other sender has data.
    pub is_alone: bool,
}

#[derive(Debug)]
struct DrrEntry {
    list: DrrList,
    /// Bytes that the sender may still send in this round. Negative after a message that was
    /// larger than the rest of the quantum.
    credit: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DrrList {
    New,
    Old,
}

impl<K> Default for DrrScheduler<K> {
    fn default() -> Self {
        DrrScheduler {
            new: VecDeque::new(),
            old: VecDeque::new(),
            entries: Map::default(),
            serving: None,
        }
    }
}

impl<K: Copy + Eq + Hash> DrrScheduler<K> {
    /// Adds a sender that has data, with `quantum` bytes of credit. Does nothing if it is already
    /// in the round.
    pub fn add(&mut self, key: K, quantum: i64) {
        if let std::collections::hash_map::Entry::Vacant(entry) = self.entries.entry(key) {
            entry.insert(DrrEntry {
                list: DrrList::New,
                credit: quantum,
            });
            self.new.push_back(key);
        }
    }

    /// Removes a sender.
    pub fn remove(&mut self, key: K) {
        // The lists keep the key until its turn, when it has no entry or one of another list.
        self.entries.remove(&key);
        if self.serving.is_some_and(|(_, serving)| serving == key) {
            self.serving = None;
        }
    }

    /// Returns whether no sender is in the round.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the sender whose turn it is. The caller reports the result with
    /// [`DrrScheduler::sent`] or [`DrrScheduler::skip`]; without a report the turn stays the same.
    /// A sender that ends its turn gets `quantum` for its next one.
    pub fn next(&mut self, quantum: i64) -> Option<DrrTurn<K>> {
        if let Some((list, key)) = self.serving.take() {
            self.list(list).push_front(key);
        }
        loop {
            let (list, key) = match self.new.pop_front() {
                Some(key) => (DrrList::New, key),
                None => (DrrList::Old, self.old.pop_front()?),
            };
            let is_alone = self.entries.len() == 1;
            // A key that was removed, and perhaps added again, is stale here.
            let Some(entry) = self
                .entries
                .get_mut(&key)
                .filter(|entry| entry.list == list)
            else {
                continue;
            };
            if entry.credit > 0 {
                let credit = entry.credit;
                self.serving = Some((list, key));
                return Some(DrrTurn {
                    key,
                    credit,
                    is_alone,
                });
            }
            // The quantum is used up: refill it, and move the sender to the end of the old list.
            entry.credit = entry.credit.saturating_add(quantum);
            entry.list = DrrList::Old;
            self.old.push_back(key);
        }
    }

    /// Records that the sender of this turn sent `bytes`, and whether it has `more`.
    pub fn sent(&mut self, bytes: usize, more: bool) {
        let Some((list, key)) = self.serving.take() else {
            return;
        };
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        entry.credit = entry
            .credit
            .saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        if more {
            // The turn continues until the credit is used up.
            self.list(list).push_front(key);
        } else if list == DrrList::New && !self.old.is_empty() {
            // A new sender passes once through the old list, so that it cannot become new again by
            // pausing.
            entry.list = DrrList::Old;
            self.old.push_back(key);
        } else {
            self.forget(key);
        }
    }

    /// Ends the turn of a sender that has nothing to send now. It leaves the round.
    pub fn skip(&mut self) {
        if let Some((_, key)) = self.serving.take() {
            self.forget(key);
        }
    }

    /// Reduces the memory to that of about `senders`.
    pub fn shrink_to(&mut self, senders: usize) {
        let entries = &self.entries;
        let is_in = |key: &K, list| entries.get(key).is_some_and(|entry| entry.list == list);
        self.new.retain(|key| is_in(key, DrrList::New));
        self.old.retain(|key| is_in(key, DrrList::Old));
        self.new.shrink_to(senders);
        self.old.shrink_to(senders);
        self.entries.shrink_to(senders);
    }

    fn forget(&mut self, key: K) {
        self.entries.remove(&key);
        if self.entries.is_empty() && self.entries.capacity() > EMPTY_CAPACITY {
            *self = DrrScheduler::default();
        }
    }

    fn list(&mut self, list: DrrList) -> &mut VecDeque<K> {
        match list {
            DrrList::New => &mut self.new,
            DrrList::Old => &mut self.old,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUANTUM: i64 = 16_128;

    /// Sends for `rounds` turns, while every sender always has more data. Returns the bytes of
    /// each sender.
    fn run(scheduler: &mut DrrScheduler<u64>, rounds: usize) -> Map<u64, i64> {
        let mut sent = Map::default();
        for _ in 0..rounds {
            let turn = scheduler.next(QUANTUM).unwrap();
            *sent.entry(turn.key).or_default() += turn.credit;
            scheduler.sent(turn.credit as usize, true);
        }
        sent
    }

    fn next_key(scheduler: &mut DrrScheduler<u64>) -> Option<u64> {
        scheduler.next(QUANTUM).map(|turn| turn.key)
    }

    #[test]
    fn bulk_senders_share_evenly() {
        let mut scheduler = DrrScheduler::default();
        (0..5).for_each(|key| scheduler.add(key, QUANTUM));
        let sent = run(&mut scheduler, 500);
        assert!(
            sent.values().all(|&bytes| bytes == 100 * QUANTUM),
            "{sent:?}"
        );
    }

    #[test]
    fn new_sender_precedes_bulk_senders() {
        let mut scheduler = DrrScheduler::default();
        (0..5).for_each(|key| scheduler.add(key, QUANTUM));
        run(&mut scheduler, 20);
        scheduler.add(9, QUANTUM);
        assert_eq!(next_key(&mut scheduler), Some(9));
        scheduler.sent(10, false);
        assert_ne!(next_key(&mut scheduler), Some(9));
    }

    #[test]
    fn pausing_sender_does_not_starve_the_others() {
        let mut scheduler = DrrScheduler::default();
        scheduler.add(1, QUANTUM);
        let mut others = 0_usize;
        for _ in 0..1000 {
            scheduler.add(2, QUANTUM);
            let turn = scheduler.next(QUANTUM).unwrap();
            scheduler.sent(turn.credit as usize, turn.key == 1);
            others += usize::from(turn.key == 1);
        }
        assert!((300..700).contains(&others), "{others} of 1000");
    }

    #[test]
    fn sender_added_during_a_turn_does_not_take_its_result() {
        let mut scheduler = DrrScheduler::default();
        scheduler.add(1, QUANTUM);
        run(&mut scheduler, 3);
        assert_eq!(next_key(&mut scheduler), Some(1));
        scheduler.add(2, QUANTUM);
        scheduler.sent(100, false);
        assert_eq!(next_key(&mut scheduler), Some(2));
        scheduler.sent(100, false);
        assert!(scheduler.is_empty());
    }

    #[test]
    fn turn_without_a_report_stays() {
        let mut scheduler = DrrScheduler::default();
        scheduler.add(1, QUANTUM);
        scheduler.add(2, QUANTUM);
        for _ in 0..3 {
            assert_eq!(next_key(&mut scheduler), Some(1));
        }
        scheduler.skip();
        assert_eq!(next_key(&mut scheduler), Some(2));
    }

    #[test]
    fn removed_sender_gets_no_turn_and_returns_once() {
        let mut scheduler = DrrScheduler::default();
        (0..3).for_each(|key| scheduler.add(key, QUANTUM));
        run(&mut scheduler, 6);
        scheduler.remove(1);
        assert!(!run(&mut scheduler, 10).contains_key(&1));
        scheduler.add(1, QUANTUM);
        let sent = run(&mut scheduler, 300);
        assert!(
            sent.values().all(|&bytes| bytes <= 101 * QUANTUM),
            "{sent:?}"
        );
        // Removal during the turn.
        let key = next_key(&mut scheduler).unwrap();
        scheduler.remove(key);
        scheduler.sent(10, true);
        assert!(!run(&mut scheduler, 10).contains_key(&key));
    }

    #[test]
    fn memory_follows_the_number_of_senders() {
        let mut scheduler = DrrScheduler::default();
        (0..4096).for_each(|key| scheduler.add(key, QUANTUM));
        (1..4096).for_each(|key| scheduler.remove(key));
        scheduler.shrink_to(16);
        assert!(scheduler.new.capacity() < 64 && scheduler.entries.capacity() < 64);
        assert_eq!(next_key(&mut scheduler), Some(0));
    }
}
