//! What waits in one direction of one channel. Knows messages as bytes, the marks of PROTOCOL 5.7 and the budget; not where they go.
//!
//! ```text
//!            passes the high mark (PAUSE)
//!  flowing ─────────────────────────────► paused ──► beyond CHANNEL_LIMIT, or more than its share of a used-up budget: overflow
//!     ▲                                      │
//!     └──────────────────────────────────────┘
//!            below the low mark (RESUME)
//! ```

use std::collections::VecDeque;

use bytes::Bytes;

use super::memory::Memory;

/// Bytes in a queue beyond which the sender is paused (PROTOCOL 12).
pub(super) const CHANNEL_HIGH_WATER: usize = 1024 * 1024;

/// Bytes in a queue below which the sender goes on (PROTOCOL 12).
pub(super) const CHANNEL_LOW_WATER: usize = 256 * 1024;

/// Bytes in a queue beyond which the channel is closed: the largest tunnel window, and what surrounds it (PROTOCOL 12).
pub(super) const CHANNEL_LIMIT: usize = 34 * 1024 * 1024;

/// What a message counts beside its bytes: its place in the queue and its allocation. Without it a flood of one-byte messages would take
/// many times of what is counted.
const MESSAGE_COST: usize = 64;

/// Messages shorter than this are copied into memory of their own: as a slice they would keep alive the block that they were read with,
/// which is as long as the longest message in it.
const COPY_BELOW: usize = 16 * 1024;

/// Places that an empty queue keeps, so that a channel at rest costs little and a flowing one does not allocate for each message.
const PLACES_KEPT: usize = 4;

/// Messages that wait, in order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    messages: VecDeque<Bytes>,
    /// Their bytes and [`MESSAGE_COST`] each, taken from the budget.
    held_bytes: usize,
    /// Whether the sender has been paused.
    paused: bool,
}

/// What follows from a message that was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pushed {
    /// The queue was empty: its reader is to be told.
    pub(super) first: bool,
    /// The sender is to be paused.
    pub(super) pause: bool,
}

/// The message does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Overflow {
    /// The queue holds [`CHANNEL_LIMIT`].
    #[error("more than {CHANNEL_LIMIT} bytes in flight")]
    Channel,
    /// The budget is used up, and this queue has its share of it.
    #[error("the master's memory for channels is used up, and this one holds more than its share")]
    Memory,
}

/// What [`Queue::pop`] gives.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Popped {
    /// The message.
    pub(super) message: Bytes,
    /// The queue is empty now.
    pub(super) last: bool,
    /// The sender is to go on.
    pub(super) resume: bool,
}

impl Queue {
    /// Takes a message in.
    pub(super) fn push(&mut self, message: Bytes, memory: &Memory) -> Result<Pushed, Overflow> {
        let cost = message.len() + MESSAGE_COST;
        if self.held_bytes + cost > CHANNEL_LIMIT {
            return Err(Overflow::Channel);
        }
        let first = self.messages.is_empty();
        if first {
            memory.holder_came();
        }
        if !memory.try_take_for_queue(cost, self.held_bytes) {
            if first {
                memory.holder_went();
            }
            return Err(Overflow::Memory);
        }
        self.held_bytes += cost;
        self.messages.push_back(if message.len() < COPY_BELOW {
            Bytes::copy_from_slice(&message)
        } else {
            message
        });
        let pause = !self.paused && self.held_bytes > Self::high_water(memory);
        self.paused |= pause;
        Ok(Pushed { first, pause })
    }

    /// Gives the next message out.
    pub(super) fn pop(&mut self, memory: &Memory) -> Option<Popped> {
        let message = self.messages.pop_front()?;
        let cost = message.len() + MESSAGE_COST;
        self.held_bytes -= cost;
        memory.give_back(cost);
        let last = self.messages.is_empty();
        if last {
            memory.holder_went();
            self.messages.shrink_to(PLACES_KEPT);
        }
        let resume = self.paused
            && (last || self.held_bytes < CHANNEL_LOW_WATER.min(Self::high_water(memory) / 4));
        self.paused &= !resume;
        Some(Popped {
            message,
            last,
            resume,
        })
    }

    /// Drops what waits.
    pub(super) fn discard(&mut self, memory: &Memory) {
        if !self.messages.is_empty() {
            memory.holder_went();
            memory.give_back(self.held_bytes);
        }
        *self = Queue::default();
    }

    fn high_water(memory: &Memory) -> usize {
        CHANNEL_HIGH_WATER.min(memory.pause_above())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: usize = 1024;
    const MIB: usize = 1024 * KIB;

    fn message(length: usize) -> Bytes {
        Bytes::from(vec![7; length])
    }

    /// Pushes 64 KiB messages until the queue pauses its sender.
    fn fill(queue: &mut Queue, memory: &Memory) {
        while !queue
            .push(message(64 * KIB), memory)
            .expect("room before the pause")
            .pause
        {}
    }

    #[test]
    fn the_sender_is_paused_above_the_high_mark_and_resumed_below_the_low_one() {
        let memory = Memory::new(256 * MIB);
        let mut queue = Queue::default();
        fill(&mut queue, &memory);
        assert!(
            (CHANNEL_HIGH_WATER..CHANNEL_HIGH_WATER + 66 * KIB).contains(&queue.held_bytes),
            "{}",
            queue.held_bytes
        );
        assert!(
            !queue.push(message(1), &memory).expect("in flight").pause,
            "once"
        );
        while !queue.pop(&memory).expect("paused means held").resume {}
        assert!(
            (CHANNEL_LOW_WATER - 66 * KIB..CHANNEL_LOW_WATER).contains(&queue.held_bytes),
            "{}",
            queue.held_bytes
        );
        assert!(!queue.pop(&memory).expect("some is left").resume, "once");
    }

    #[test]
    fn what_is_in_flight_is_taken_up_to_the_limit_and_not_beyond() {
        let memory = Memory::new(256 * MIB);
        let mut queue = Queue::default();
        let taken = (0..)
            .take_while(|_| queue.push(message(64 * KIB), &memory).is_ok())
            .count();
        assert_eq!(taken, CHANNEL_LIMIT / (64 * KIB + MESSAGE_COST));
        assert_eq!(
            queue.push(message(64 * KIB), &memory),
            Err(Overflow::Channel)
        );
        queue.discard(&memory);
        assert_eq!((memory.used_bytes(), queue.messages.is_empty()), (0, true));
    }

    #[test]
    fn a_thousand_queues_that_nobody_reads_are_paused_within_the_budget() {
        let memory = Memory::new(64 * MIB);
        let mut queues: Vec<_> = (0..1000).map(|_| Queue::default()).collect();
        for _ in 0..64 {
            for queue in &mut queues {
                if !queue.paused {
                    queue
                        .push(message(4 * KIB), &memory)
                        .expect("paused before it is full");
                }
            }
        }
        assert!(queues.iter().all(|queue| queue.paused));
        assert!(memory.used_bytes() < 48 * MIB, "{}", memory.used_bytes());
    }

    #[test]
    fn when_the_budget_is_used_up_the_greedy_overflow_and_the_modest_do_not() {
        let memory = Memory::new(8 * MIB);
        let (mut greedy, mut modest) = (Queue::default(), Queue::default());
        let overflow = (0..).find_map(|_| greedy.push(message(64 * KIB), &memory).err());
        assert_eq!(overflow, Some(Overflow::Memory));
        assert!(modest.push(message(64 * KIB), &memory).is_ok());
        assert_eq!(
            greedy.push(message(64 * KIB), &memory),
            Err(Overflow::Memory)
        );
    }

    #[test]
    fn no_number_of_queues_takes_more_than_the_budget_and_its_grace() {
        let memory = Memory::new(MIB);
        let mut queues: Vec<_> = (0..200).map(|_| Queue::default()).collect();
        for queue in &mut queues {
            while queue.push(message(8 * KIB), &memory).is_ok() {}
        }
        assert!(
            memory.used_bytes() <= MIB + MIB / 4,
            "{}",
            memory.used_bytes()
        );
        queues.iter_mut().for_each(|queue| queue.discard(&memory));
        assert_eq!(memory.used_bytes(), 0);
    }

    #[test]
    fn a_small_message_does_not_keep_its_block_and_an_empty_queue_keeps_few_places() {
        let memory = Memory::new(256 * MIB);
        let mut queue = Queue::default();
        let block = message(64 * KIB);
        for _ in 0..100 {
            queue.push(block.slice(..100), &memory).expect("room");
        }
        assert!(block.is_unique());
        while queue.pop(&memory).is_some() {}
        assert!(
            queue.messages.capacity() <= PLACES_KEPT,
            "{}",
            queue.messages.capacity()
        );
    }

    proptest! {
        #[test]
        fn order_is_kept_and_every_byte_is_given_back(steps in proptest::collection::vec(proptest::option::of(0_usize..40_000), 0..200)) {
            let memory = Memory::new(MIB);
            let mut queue = Queue::default();
            let (mut sent, mut received) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Some(length) => {
                        let message = Bytes::from(vec![sent.len() as u8; length]);
                        if queue.push(message.clone(), &memory).is_ok() {
                            sent.push(message);
                        }
                    }
                    None => received.extend(queue.pop(&memory).map(|popped| popped.message)),
                }
                let waiting = &sent[received.len()..];
                prop_assert_eq!(memory.used_bytes(), waiting.iter().map(|message| message.len() + MESSAGE_COST).sum::<usize>());
            }
            while let Some(popped) = queue.pop(&memory) {
                prop_assert_eq!(popped.last, queue.messages.is_empty());
                received.push(popped.message);
            }
            prop_assert_eq!(received, sent);
            prop_assert_eq!(memory.used_bytes(), 0);
        }
    }
}
