//! Who sends next: deficit round robin between streams, in which a stream that sends little goes first (RFC 8290, section 4.2, without the
//! dropping). A stream that begins to send is *new* and is served before the *old* ones until it has used up its quantum; so a keystroke
//! passes a bulk copy, and no stream can stay new by sending much.

use std::collections::VecDeque;

use super::{frame::StreamId, load::PIECE_MAX};
use crate::map::Map;

/// What a stream may send in a round at most, in bytes, on a path that takes that in no time: a message, so that the receiver's application is given as
/// much at a time.
const QUANTUM_MAX: i64 = PIECE_MAX as i64;

/// What it may send in any case: enough that the headers are small beside it, few enough that a round is short. Four make a message.
pub const QUANTUM: i64 = QUANTUM_MAX / 4;

/// Where a round of as many streams takes no longer than what is under way, which is about a round trip, a quantum may be longer.
const STREAMS_OF_A_ROUND_TRIP: u64 = 4;

/// The quantum while so many bytes are under way: as many as fill a message without a rest.
pub fn quantum(under_way_bytes: u64) -> i64 {
    let share = i64::try_from(under_way_bytes / STREAMS_OF_A_ROUND_TRIP).unwrap_or(i64::MAX);
    [QUANTUM_MAX, QUANTUM_MAX / 2]
        .into_iter()
        .find(|quantum| share >= *quantum)
        .unwrap_or(QUANTUM)
}

/// An empty schedule keeps the memory for as many streams: a message that is answered makes it empty each time.
const KEPT: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    New,
    Old,
}

/// The streams that have something to send, in the order of sending.
#[derive(Debug, Default)]
pub struct Schedule {
    new: VecDeque<StreamId>,
    old: VecDeque<StreamId>,
    deficits: Map<StreamId, i64>,
}

impl Schedule {
    /// `stream` has something to send; no effect when it is in the round already.
    pub fn add(&mut self, stream: StreamId) {
        if let std::collections::hash_map::Entry::Vacant(entry) = self.deficits.entry(stream) {
            entry.insert(QUANTUM);
            self.new.push_back(stream);
        }
    }

    /// Whether any stream is in the round.
    pub fn is_empty(&self) -> bool {
        self.deficits.is_empty()
    }

    /// The stream that sends next, and how many bytes it may send; call [`Schedule::sent`] for it afterwards. Whose turn is over gets `quantum` for the next.
    pub fn next(&mut self, quantum: i64) -> Option<(StreamId, usize)> {
        // Nobody waits for its turn: one long frame costs the receiver less than several short ones. What is too much is subtracted all the same.
        let alone = self.deficits.len() == 1;
        loop {
            let (queue, stream) = self.head()?;
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
            *deficit = deficit.saturating_add(quantum);
            self.pop(queue);
            self.old.push_back(stream);
        }
    }

    /// The stream that [`Schedule::next`] named sent `bytes`, and has `more` or not.
    pub fn sent(&mut self, bytes: usize, more: bool) {
        let Some((queue, stream)) = self.head() else {
            return;
        };
        if let Some(deficit) = self.deficits.get_mut(&stream) {
            *deficit = deficit.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        if more {
            return;
        }
        self.pop(queue);
        // One that was new passes through the old ones once, so that it cannot be new again at once by pausing.
        if queue == Queue::New && !self.old.is_empty() {
            self.old.push_back(stream);
        } else {
            self.deficits.remove(&stream);
            if self.deficits.is_empty() && self.deficits.capacity() > KEPT {
                *self = Schedule::default();
            }
        }
    }

    fn head(&self) -> Option<(Queue, StreamId)> {
        let new = self.new.front().map(|&stream| (Queue::New, stream));
        new.or_else(|| self.old.front().map(|&stream| (Queue::Old, stream)))
    }

    fn pop(&mut self, queue: Queue) {
        match queue {
            Queue::New => self.new.pop_front(),
            Queue::Old => self.old.pop_front(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `rounds` of sending in which every stream in `bulk` always has more, and returns what each sent.
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
    fn streams_that_always_have_more_share_evenly() {
        let mut schedule = Schedule::default();
        (0..5).for_each(|id| schedule.add(StreamId(id)));
        let sent = run(&mut schedule, 500);
        assert!(
            sent.values().all(|&bytes| bytes == 100 * QUANTUM as usize),
            "{sent:?}"
        );
    }

    #[test]
    fn a_turn_grows_with_what_is_under_way_up_to_a_message() {
        assert_eq!(
            [0, 64, 128, 256, 1 << 20].map(|kib| quantum(kib * 1024)),
            [16_128, 16_128, 32_256, 64_512, 64_512]
        );
        assert_eq!(quantum(u64::MAX), QUANTUM_MAX);
    }

    #[test]
    fn a_stream_that_sends_little_goes_before_those_that_send_much() {
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
    fn a_stream_that_pauses_after_each_quantum_does_not_starve_the_others() {
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
