//! The queue for one direction of one channel. Knows messages as bytes, the marks of PROTOCOL 5.7
//! and the memory budget, but not the destination. A channel with a rate limit has a lower high
//! mark, because everything in its queue waits.
//!
//! ```text
//!            above the high mark (PAUSE)
//!  flowing ─────────────────────────────► paused ──► above CHANNEL_LIMIT, or above its share of an exhausted budget: overflow
//!     ▲                                      │
//!     └──────────────────────────────────────┘
//!            below the low mark (RESUME)
//! ```

use std::collections::VecDeque;

use bytes::Bytes;

use super::memory::Memory;
use report_proto::constants::CHANNEL_LIMIT;

/// Queued bytes above which the sender is paused (PROTOCOL 12).
pub(super) const CHANNEL_HIGH_WATER: usize = 1024 * 1024;

/// Queued bytes below which the sender resumes (PROTOCOL 12).
pub(super) const CHANNEL_LOW_WATER: usize = 256 * 1024;

/// The bytes charged for a message besides its length: its queue entry and its allocation. Without
/// this charge a flood of one-byte messages would hold many times the counted memory.
const MESSAGE_OVERHEAD: usize = 64;

/// Messages shorter than this are copied. A slice would keep its whole read buffer alive, which is
/// as long as the longest message in it.
const COPY_BELOW: usize = 16 * 1024;

/// The capacity that an empty queue retains. An idle channel costs little, and a busy one does not
/// allocate for each message.
const RETAINED_CAPACITY: usize = 4;

/// Queued messages, in order.
#[derive(Debug)]
pub(super) struct ChannelQueue {
    messages: VecDeque<Bytes>,
    /// The bytes of the messages and [`MESSAGE_OVERHEAD`] for each, reserved in the budget.
    held_bytes: usize,
    /// Whether the sender is paused.
    paused: bool,
    /// The high mark of this queue, at most [`CHANNEL_HIGH_WATER`].
    cap: usize,
}

impl Default for ChannelQueue {
    fn default() -> Self {
        ChannelQueue {
            messages: VecDeque::new(),
            held_bytes: 0,
            paused: false,
            cap: CHANNEL_HIGH_WATER,
        }
    }
}

/// The actions that follow from a queued message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pushed {
    /// The queue was empty: wake its reader.
    pub(super) first: bool,
    /// Pause the sender.
    pub(super) pause: bool,
}

/// The reason why a message does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Overflow {
    /// The queue holds [`CHANNEL_LIMIT`].
    #[error("more than {CHANNEL_LIMIT} bytes in flight")]
    Channel,
    /// The budget is exhausted, and this queue holds its share.
    #[error("the master's channel memory is exhausted, and this channel holds more than its share")]
    Memory,
}

/// The result of [`ChannelQueue::pop`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Popped {
    /// The message.
    pub(super) message: Bytes,
    /// The queue is empty now.
    pub(super) last: bool,
    /// Resume the sender.
    pub(super) resume: bool,
}

impl ChannelQueue {
    /// Sets the high mark. The sender is paused above it with its next message.
    pub(super) fn set_cap(&mut self, bytes: usize) {
        self.cap = bytes.min(CHANNEL_HIGH_WATER);
    }

    /// Returns the length of the next message.
    pub(super) fn next_length(&self) -> Option<usize> {
        self.messages.front().map(Bytes::len)
    }

    /// Returns the lengths of all messages together.
    pub(super) fn queued_bytes(&self) -> usize {
        let overhead = self.messages.len().saturating_mul(MESSAGE_OVERHEAD);
        self.held_bytes.saturating_sub(overhead)
    }

    /// Queues a message.
    pub(super) fn push(&mut self, message: Bytes, memory: &Memory) -> Result<Pushed, Overflow> {
        let cost = message.len() + MESSAGE_OVERHEAD;
        if self.held_bytes + cost > CHANNEL_LIMIT {
            return Err(Overflow::Channel);
        }
        let first = self.messages.is_empty();
        if first {
            memory.add_holder();
        }
        if !memory.try_reserve_for_queue(cost, self.held_bytes) {
            if first {
                memory.remove_holder();
            }
            return Err(Overflow::Memory);
        }
        self.held_bytes += cost;
        self.messages.push_back(if message.len() < COPY_BELOW {
            Bytes::copy_from_slice(&message)
        } else {
            message
        });
        let pause = !self.paused && self.held_bytes > self.high_water(memory);
        self.paused |= pause;
        Ok(Pushed { first, pause })
    }

    /// Removes the next message.
    pub(super) fn pop(&mut self, memory: &Memory) -> Option<Popped> {
        let message = self.messages.pop_front()?;
        let cost = message.len() + MESSAGE_OVERHEAD;
        self.held_bytes -= cost;
        memory.refund(cost);
        let last = self.messages.is_empty();
        if last {
            memory.remove_holder();
            self.messages.shrink_to(RETAINED_CAPACITY);
        }
        let resume = self.paused
            && (last || self.held_bytes < CHANNEL_LOW_WATER.min(self.high_water(memory) / 4));
        self.paused &= !resume;
        Some(Popped {
            message,
            last,
            resume,
        })
    }

    /// Drops all messages.
    pub(super) fn discard(&mut self, memory: &Memory) {
        if !self.messages.is_empty() {
            memory.remove_holder();
            memory.refund(self.held_bytes);
        }
        *self = ChannelQueue {
            cap: self.cap,
            ..ChannelQueue::default()
        };
    }

    fn high_water(&self, memory: &Memory) -> usize {
        self.cap.min(memory.pause_above())
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
    fn fill(queue: &mut ChannelQueue, memory: &Memory) {
        while !queue
            .push(message(64 * KIB), memory)
            .expect("room before the pause")
            .pause
        {}
    }

    #[test]
    fn sender_is_paused_above_the_high_mark_and_resumed_below_the_low_one() {
        let memory = Memory::new(256 * MIB);
        let mut queue = ChannelQueue::default();
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
    fn lower_cap_pauses_earlier_and_is_left_again() {
        let memory = Memory::new(256 * MIB);
        let mut queue = ChannelQueue::default();
        queue.set_cap(32 * KIB);
        let pushed = |queue: &mut ChannelQueue| queue.push(message(16 * KIB), &memory);
        assert!(!pushed(&mut queue).expect("room").pause);
        assert!(pushed(&mut queue).expect("room").pause, "above the cap");
        let popped = queue.pop(&memory).expect("two are held");
        assert!(!popped.resume, "a quarter of the cap is the low mark");
        assert!(queue.pop(&memory).expect("one is held").resume);
        queue.set_cap(usize::MAX);
        fill(&mut queue, &memory);
        assert!(queue.held_bytes > CHANNEL_HIGH_WATER);
    }

    #[test]
    fn queued_bytes_are_the_lengths_of_the_messages() {
        let memory = Memory::new(256 * MIB);
        let mut queue = ChannelQueue::default();
        assert_eq!((queue.next_length(), queue.queued_bytes()), (None, 0));
        for length in [100, 20_000] {
            queue.push(message(length), &memory).expect("room");
        }
        assert_eq!(
            (queue.next_length(), queue.queued_bytes()),
            (Some(100), 20_100)
        );
    }

    #[test]
    fn messages_in_flight_are_accepted_up_to_the_limit() {
        let memory = Memory::new(256 * MIB);
        let mut queue = ChannelQueue::default();
        let taken = (0..)
            .take_while(|_| queue.push(message(64 * KIB), &memory).is_ok())
            .count();
        assert_eq!(taken, CHANNEL_LIMIT / (64 * KIB + MESSAGE_OVERHEAD));
        assert_eq!(
            queue.push(message(64 * KIB), &memory),
            Err(Overflow::Channel)
        );
        queue.discard(&memory);
        assert_eq!((memory.used_bytes(), queue.messages.is_empty()), (0, true));
    }

    #[test]
    fn a_thousand_unread_queues_are_paused_within_the_budget() {
        let memory = Memory::new(64 * MIB);
        let mut queues: Vec<_> = (0..1000).map(|_| ChannelQueue::default()).collect();
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
    fn exhausted_budget_rejects_only_queues_above_their_share() {
        let memory = Memory::new(8 * MIB);
        let (mut greedy, mut modest) = (ChannelQueue::default(), ChannelQueue::default());
        let overflow = (0..).find_map(|_| greedy.push(message(64 * KIB), &memory).err());
        assert_eq!(overflow, Some(Overflow::Memory));
        assert!(modest.push(message(64 * KIB), &memory).is_ok());
        assert_eq!(
            greedy.push(message(64 * KIB), &memory),
            Err(Overflow::Memory)
        );
    }

    #[test]
    fn queues_stay_within_the_budget_and_its_overcommit() {
        let memory = Memory::new(MIB);
        let mut queues: Vec<_> = (0..200).map(|_| ChannelQueue::default()).collect();
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
    fn small_messages_are_copied_and_an_empty_queue_shrinks() {
        let memory = Memory::new(256 * MIB);
        let mut queue = ChannelQueue::default();
        let block = message(64 * KIB);
        for _ in 0..100 {
            queue.push(block.slice(..100), &memory).expect("room");
        }
        assert!(block.is_unique());
        while queue.pop(&memory).is_some() {}
        assert!(
            queue.messages.capacity() <= RETAINED_CAPACITY,
            "{}",
            queue.messages.capacity()
        );
    }

    proptest! {
        #[test]
        fn order_is_kept_and_every_byte_is_refunded(steps in proptest::collection::vec(proptest::option::of(0_usize..40_000), 0..200)) {
            let memory = Memory::new(MIB);
            let mut queue = ChannelQueue::default();
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
                prop_assert_eq!(memory.used_bytes(), waiting.iter().map(|message| message.len() + MESSAGE_OVERHEAD).sum::<usize>());
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
