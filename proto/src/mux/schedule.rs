//! The stream scheduler: deficit round robin that favours streams with little data (RFC 8290,
//! section 4.2, without dropping). A stream that starts to send is *new*, and precedes the *old*
//! streams until it has used up its quantum. A keystroke therefore overtakes a bulk copy, and no
//! stream can stay new by sending much.

use std::collections::VecDeque;

use super::{frame::StreamId, send_totals::WRITE_MAX};
use crate::map::Map;

/// The largest amount that a stream may send per round, in bytes, on a path that takes it in no
/// time. It fills a message, so that the receiving application gets that much at a time.
const QUANTUM_MAX: i64 = WRITE_MAX as i64;

/// The smallest quantum: large enough to make the headers negligible, small enough to keep a round
/// short. Four of them make a message.
pub(super) const QUANTUM: i64 = QUANTUM_MAX / 4;

/// The quantum may grow while a round of this many streams takes no longer than the data in flight,
/// which is about a round trip.
const STREAMS_PER_RTT: u64 = 4;

/// Returns the quantum for this many bytes in flight: a size that fills messages without a rest.
pub(super) fn quantum(in_flight_bytes: u64) -> i64 {
    let share = i64::try_from(in_flight_bytes / STREAMS_PER_RTT).unwrap_or(i64::MAX);
    [QUANTUM_MAX, QUANTUM_MAX / 2]
        .into_iter()
        .find(|quantum| share >= *quantum)
        .unwrap_or(QUANTUM)
}

/// The number of streams for which an empty schedule keeps memory. Each answered message empties
/// it.
const EMPTY_CAPACITY: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DrrList {
    New,
    Old,
}

/// The streams with data to send, in the order of sending.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    new: VecDeque<StreamId>,
    old: VecDeque<StreamId>,
    deficits: Map<StreamId, i64>,
}

impl Schedule {
    /// Adds a stream that has data to send. Does nothing if it is already in the round.
    pub(super) fn add(&mut self, stream: StreamId) {
        if let std::collections::hash_map::Entry::Vacant(entry) = self.deficits.entry(stream) {
            entry.insert(QUANTUM);
            self.new.push_back(stream);
        }
    }

    /// Returns whether no stream is in the round.
    pub(super) fn is_empty(&self) -> bool {
        self.deficits.is_empty()
    }

    /// Returns the stream that sends next, and how many bytes it may send. The caller reports the
    /// result with [`Schedule::sent`]. A stream that ends its turn gets `quantum` for the next one.
    pub(super) fn next(&mut self, quantum: i64) -> Option<(StreamId, usize)> {
        // No other stream waits, and one long frame costs the receiver less than several short
        // ones. The excess is subtracted nevertheless.
        let alone = self.deficits.len() == 1;
        loop {
            let (list, stream) = self.head()?;
            let deficit = self.deficits.get_mut(&stream)?;
            if *deficit > 0 {
                return Some((
                    stream,
                    if alone {
                        usize::MAX
                    } else {
                        usize::try_from(*deficit).unwrap_or(0)
                    },
                ));
            }
            // The quantum is used up: refill it, and move the stream to the end of the old list.
            *deficit = deficit.saturating_add(quantum);
            self.pop(list);
            self.old.push_back(stream);
        }
    }

    /// Records that the stream of [`Schedule::next`] sent `bytes`, and whether it has `more`.
    pub(super) fn sent(&mut self, bytes: usize, more: bool) {
        let Some((list, stream)) = self.head() else {
            return;
        };
        if let Some(deficit) = self.deficits.get_mut(&stream) {
            *deficit = deficit.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        if more {
            return;
        }
        self.pop(list);
        // A new stream passes once through the old list, so that it cannot become new again by
        // pausing.
        if list == DrrList::New && !self.old.is_empty() {
            self.old.push_back(stream);
        } else {
            self.deficits.remove(&stream);
            if self.deficits.is_empty() && self.deficits.capacity() > EMPTY_CAPACITY {
                *self = Schedule::default();
            }
        }
    }

    fn head(&self) -> Option<(DrrList, StreamId)> {
        let new = self.new.front().map(|&stream| (DrrList::New, stream));
        new.or_else(|| self.old.front().map(|&stream| (DrrList::Old, stream)))
    }

    fn pop(&mut self, list: DrrList) {
        match list {
            DrrList::New => self.new.pop_front(),
            DrrList::Old => self.old.pop_front(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends for `rounds` turns, while every stream always has more data. Returns the bytes of each
    /// stream.
    fn run(schedule: &mut Schedule, rounds: usize) -> Map<StreamId, usize> {
        let mut sent = Map::default();
        for _ in 0..rounds {
            let (stream, room) = schedule.next(QUANTUM).unwrap();
            *sent.entry(stream).or_default() += room;
            schedule.sent(room, true);
        }
        sent
    }

    #[test]
    fn bulk_streams_share_evenly() {
        let mut schedule = Schedule::default();
        (0..5).for_each(|id| schedule.add(StreamId(id)));
        let sent = run(&mut schedule, 500);
        assert!(
            sent.values().all(|&bytes| bytes == 100 * QUANTUM as usize),
            "{sent:?}"
        );
    }

    #[test]
    fn quantum_grows_with_the_data_in_flight_up_to_a_message() {
        assert_eq!(
            [0, 64, 128, 256, 1 << 20].map(|kib| quantum(kib * 1024)),
            [16_128, 16_128, 32_256, 64_512, 64_512]
        );
        assert_eq!(quantum(u64::MAX), QUANTUM_MAX);
    }

    #[test]
    fn new_stream_precedes_bulk_streams() {
        let mut schedule = Schedule::default();
        (0..5).for_each(|id| schedule.add(StreamId(id)));
        run(&mut schedule, 20);
        schedule.add(StreamId(9));
        assert_eq!(
            schedule.next(QUANTUM).map(|(stream, _)| stream),
            Some(StreamId(9))
        );
        schedule.sent(10, false);
        assert_ne!(
            schedule.next(QUANTUM).map(|(stream, _)| stream),
            Some(StreamId(9))
        );
    }

    #[test]
    fn pausing_stream_does_not_starve_the_others() {
        let mut schedule = Schedule::default();
        schedule.add(StreamId(1));
        let mut others = 0_usize;
        for _ in 0..1000 {
            schedule.add(StreamId(2));
            let (stream, room) = schedule.next(QUANTUM).unwrap();
            schedule.sent(room, stream == StreamId(1));
            others += usize::from(stream == StreamId(1));
        }
        assert!((300..700).contains(&others), "{others} of 1000");
    }
}
