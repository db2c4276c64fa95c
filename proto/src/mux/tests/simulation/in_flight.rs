//! The messages in flight on an attachment of the simulated network.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

/// An item in flight on an attachment.
#[derive(Debug)]
pub(super) enum Item {
    /// The client's handshake message.
    Offer { joins: bool },
    /// The server's handshake message.
    Answer { joins: bool },
    /// A message of a mux or a candidate.
    Message(Bytes),
    /// The last message that an end sends on a lane.
    Left,
    /// The end of the attachment.
    Closed,
}

/// One direction of an attachment.
#[derive(Debug)]
pub(super) struct Direction {
    pub items: VecDeque<(Instant, Item)>,
    latest: Instant,
}

impl Direction {
    pub(super) fn new(now: Instant) -> Self {
        Direction {
            items: VecDeque::new(),
            latest: now,
        }
    }

    /// Appends an item that arrives at `at`, or later if an earlier item does.
    pub(super) fn push(&mut self, at: Instant, item: Item) {
        self.latest = self.latest.max(at);
        self.items.push_back((self.latest, item));
    }

    /// Delays what is in flight, and what follows it, by `time`.
    pub(super) fn stall(&mut self, now: Instant, time: Duration) {
        for (at, _) in &mut self.items {
            *at += time;
        }
        self.latest = self.latest.max(now) + time;
    }
}
