//! Channels that send through the tree in virtual time. The driver wakes every millisecond.

use super::*;

/// The bytes that a queue holds before its sender is paused.
const QUEUE_BYTES: u64 = 1024 * KIB;

const TICK: Duration = Duration::from_millis(1);

/// A channel and the application behind it.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    /// The length of each message.
    pub(super) length: u64,
    /// The bytes per second that the application writes. `None` if its queue is always full.
    pub(super) demand: Option<u64>,
    /// The queued bytes of an application with a demand.
    pub(super) backlog: u64,
    pub(super) sent: u64,
    leaf: NodeId,
    direction: RateDirection,
    credit: u64,
    waits: bool,
    /// The fraction of a byte that the application has written, in thousandths.
    fraction: u64,
}

impl Sender {
    /// A sender that always has more messages of this length.
    pub(super) fn bulk(length: u64) -> Self {
        Sender {
            length,
            demand: None,
            backlog: 0,
            sent: 0,
            leaf: ROOT,
            direction: Up,
            credit: 0,
            waits: false,
            fraction: 0,
        }
    }

    fn write(&mut self) {
        match self.demand {
            None => self.backlog = QUEUE_BYTES,
            Some(demand) => {
                // A tick is a thousandth of a second.
                self.fraction += demand;
                self.backlog = (self.backlog + self.fraction / 1_000).min(QUEUE_BYTES);
                self.fraction %= 1_000;
            }
        }
    }
}

/// A tree and its senders.
pub(super) struct Simulation {
    pub(super) tree: RateTree,
    pub(super) senders: Vec<Sender>,
    now: Instant,
}

impl Simulation {
    pub(super) fn new(limits: &[(RateSubject, SubjectLimits)]) -> Self {
        let (mut tree, now) = (RateTree::new(), Instant::now());
        for (subject, limits) in limits {
            tree.set_limits(*subject, *limits, now);
        }
        Simulation {
            tree,
            senders: Vec::new(),
            now,
        }
    }

    /// Adds a sender. Returns its number.
    pub(super) fn add(
        &mut self,
        subjects: &PairSubjects,
        direction: RateDirection,
        sender: Sender,
    ) -> usize {
        let number = self.senders.len();
        let leaf = self.tree.add_leaf(subjects, number as u64);
        self.senders.push(Sender {
            leaf,
            direction,
            ..sender
        });
        number
    }

    pub(super) fn set_limits(&mut self, subject: RateSubject, limits: SubjectLimits) {
        self.tree.set_limits(subject, limits, self.now);
        self.tree.release_all();
        self.serve();
    }

    /// Returns the bytes that each sender sends in this time.
    pub(super) fn sent_in(&mut self, time: Duration) -> Vec<u64> {
        let before: Vec<_> = self.senders.iter().map(|sender| sender.sent).collect();
        self.run(time);
        let after = self.senders.iter().map(|sender| sender.sent);
        after
            .zip(before)
            .map(|(after, before)| after - before)
            .collect()
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK;
            for number in 0..self.senders.len() {
                self.senders[number].write();
            }
            self.serve();
            for number in 0..self.senders.len() {
                if !self.senders[number].waits {
                    self.send(number);
                }
            }
            self.wake_granted();
        }
    }

    /// The driver.
    fn serve(&mut self) {
        while !self.tree.serve(self.now) {
            self.wake_granted();
        }
        self.wake_granted();
    }

    fn wake_granted(&mut self) {
        loop {
            let granted: Vec<_> = self.tree.take_granted().collect();
            if granted.is_empty() {
                return;
            }
            for granted in granted {
                let number = granted.owner as usize;
                assert!(self.senders[number].waits, "granted without a request");
                self.senders[number].waits = false;
                self.send(number);
            }
        }
    }

    /// Sends messages until the queue is empty or the limits hold the channel.
    fn send(&mut self, number: usize) {
        let sender = &mut self.senders[number];
        while sender.backlog >= sender.length {
            if sender.credit < sender.length {
                let request = RateRequest {
                    needed: sender.length - sender.credit,
                    queued: sender.backlog - sender.credit.min(sender.backlog),
                };
                let granted = self
                    .tree
                    .request(sender.leaf, sender.direction, request, self.now);
                sender.credit += granted.expect("the channel is in the tree");
            }
            if sender.credit < sender.length {
                sender.waits = true;
                return;
            }
            sender.credit -= sender.length;
            sender.sent += sender.length;
            if sender.demand.is_some() {
                sender.backlog -= sender.length;
            }
        }
    }
}
