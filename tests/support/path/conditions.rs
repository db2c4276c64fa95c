//! The fate of each packet of one direction. Only the decision: no packets, no sockets, no
//! clock. The same seed and the same packets give the same result.

use std::time::Duration;

/// The conditions of one direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Conditions {
    /// The time from the end of the bottleneck to the receiver.
    pub delay: Duration,
    /// The rate of the bottleneck.
    pub bits_per_second: u64,
    /// The queue of the bottleneck, as the time that its last packet waits. A packet that finds it
    /// full is dropped.
    pub queue: Duration,
    /// The share of packets that is lost at random.
    pub loss: f64,
    pub bursts: Option<Bursts>,
    pub reordering: Option<Reordering>,
}

/// Losses of several packets in a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bursts {
    /// The packets of one burst, as far as they come within [`BURST_MAX`].
    pub packets: u32,
    /// The time from the start of a burst to the next one.
    pub every: Duration,
}

/// Packets that later ones overtake.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reordering {
    /// The share of delayed packets.
    pub share: f64,
    /// Their additional delay.
    pub delay: Duration,
}

impl Conditions {
    /// Half of this round trip, this rate, and a queue of 100 ms. Nothing is lost at random.
    pub(crate) fn new(round_trip: Duration, megabits: u64) -> Conditions {
        Conditions {
            delay: round_trip / 2,
            bits_per_second: megabits * 1_000_000,
            queue: Duration::from_millis(100),
            loss: 0.0,
            bursts: None,
            reordering: None,
        }
    }

    /// The same with this share of random losses.
    pub(crate) fn with_loss(self, loss: f64) -> Conditions {
        Conditions { loss, ..self }
    }

    /// The same with bursts of this many lost packets.
    pub(crate) fn with_bursts(self, packets: u32, every: Duration) -> Conditions {
        let bursts = Some(Bursts { packets, every });
        Conditions { bursts, ..self }
    }

    /// The same with this share of packets delayed further.
    pub(crate) fn with_reordering(self, share: f64, delay: Duration) -> Conditions {
        let reordering = Some(Reordering { share, delay });
        Conditions { reordering, ..self }
    }

    fn transmission_time(&self, bytes: usize) -> Duration {
        Duration::from_nanos(bytes as u64 * 8_000_000_000 / self.bits_per_second.max(1))
    }
}

/// The fate of a packet. Times count from the start of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The packet arrives at this time. `late` packets are overtaken.
    Deliver {
        at: Duration,
        late: bool,
    },
    Drop(DropCause),
}

/// Why a packet is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DropCause {
    /// The path is interrupted.
    Blocked,
    /// A loss at random.
    Loss,
    /// A part of a burst.
    Burst,
    /// The queue of the bottleneck is full.
    QueueFull,
}

/// The longest duration of a burst. Without this limit, a connection that only repeats lost segments,
/// with longer and longer pauses, would lose all of them.
const BURST_MAX: Duration = Duration::from_millis(100);

/// One direction of a path.
#[derive(Debug)]
pub(crate) struct Direction {
    conditions: Conditions,
    random: fastrand::Rng,
    /// When the bottleneck has sent all packets before the next one.
    free_at: Duration,
    next_burst: Duration,
    /// The packets that the current burst still drops.
    burst_left: u32,
    /// When the current burst ends in any case.
    burst_ends: Duration,
    is_blocked: bool,
}

impl Direction {
    /// A direction without packets.
    pub(crate) fn new(conditions: Conditions, seed: u64) -> Direction {
        let mut direction = Direction {
            conditions,
            random: fastrand::Rng::with_seed(seed),
            free_at: Duration::ZERO,
            next_burst: Duration::ZERO,
            burst_left: 0,
            burst_ends: Duration::ZERO,
            is_blocked: false,
        };
        direction.set_conditions(Duration::ZERO, conditions);
        direction
    }

    /// Changes the conditions for later packets. The first burst follows after its interval.
    pub(crate) fn set_conditions(&mut self, now: Duration, conditions: Conditions) {
        self.conditions = conditions;
        self.burst_left = 0;
        self.next_burst = now
            + conditions
                .bursts
                .map_or(Duration::ZERO, |burst| burst.every);
    }

    /// Interrupts the direction, or ends the interruption.
    pub(crate) fn set_blocked(&mut self, is_blocked: bool) {
        self.is_blocked = is_blocked;
    }

    /// Decides about a packet of this many bytes that reaches the path now.
    pub(crate) fn on_packet(&mut self, now: Duration, bytes: usize) -> Fate {
        // Drawn for each packet, so that the numbers depend only on the seed and on its position.
        let (loss, lateness) = (self.random.f64(), self.random.f64());
        if self.is_blocked {
            return Fate::Drop(DropCause::Blocked);
        }
        if self.is_in_burst(now) {
            return Fate::Drop(DropCause::Burst);
        }
        if loss < self.conditions.loss {
            return Fate::Drop(DropCause::Loss);
        }
        let begin = self.free_at.max(now);
        if begin - now > self.conditions.queue {
            return Fate::Drop(DropCause::QueueFull);
        }
        self.free_at = begin + self.conditions.transmission_time(bytes);
        let at = self.free_at + self.conditions.delay;
        match self.conditions.reordering {
            Some(reordering) if lateness < reordering.share => Fate::Deliver {
                at: at + reordering.delay,
                late: true,
            },
            _ => Fate::Deliver { at, late: false },
        }
    }

    fn is_in_burst(&mut self, now: Duration) -> bool {
        let Some(bursts) = self.conditions.bursts else {
            return false;
        };
        if now >= self.next_burst {
            self.burst_left = bursts.packets;
            self.burst_ends = now + BURST_MAX;
            self.next_burst = now + bursts.every;
        }
        let is_in_burst = self.burst_left > 0 && now < self.burst_ends;
        self.burst_left = self.burst_left.saturating_sub(1);
        is_in_burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// 10 ms one way, and 1500 bytes in 1 ms.
    fn conditions() -> Conditions {
        Conditions {
            queue: 5 * MILLISECOND,
            ..Conditions::new(20 * MILLISECOND, 12)
        }
    }

    fn fates(conditions: Conditions, seed: u64, packets: u32) -> Vec<Fate> {
        let mut direction = Direction::new(conditions, seed);
        let at = |number: u32| number * MILLISECOND;
        (0..packets)
            .map(|number| direction.on_packet(at(number), 1500))
            .collect()
    }

    fn arrival(fate: Fate) -> Duration {
        match fate {
            Fate::Deliver { at, .. } => at,
            Fate::Drop(cause) => panic!("dropped: {cause:?}"),
        }
    }

    #[test]
    fn packet_takes_the_transmission_time_and_the_delay() {
        let mut direction = Direction::new(conditions(), 1);
        let second = Duration::from_secs(1);
        assert_eq!(
            arrival(direction.on_packet(second, 1500)),
            second + 11 * MILLISECOND
        );
        assert_eq!(
            arrival(direction.on_packet(second, 1500)),
            second + 12 * MILLISECOND
        );
    }

    #[test]
    fn full_queue_drops_the_packet_that_arrives() {
        let mut direction = Direction::new(conditions(), 1);
        let mut at_once = || direction.on_packet(Duration::ZERO, 1500);
        // Six are in the queue or in transmission: the last one waits for 5 ms.
        for _ in 0..6 {
            arrival(at_once());
        }
        assert_eq!(at_once(), Fate::Drop(DropCause::QueueFull));
        let later = direction.on_packet(MILLISECOND, 1500);
        assert_eq!(arrival(later), 17 * MILLISECOND);
    }

    #[test]
    fn same_seed_gives_the_same_losses() {
        let lossy = conditions().with_loss(0.1);
        let first = fates(lossy, 7, 10_000);
        assert_eq!(first, fates(lossy, 7, 10_000));
        assert_ne!(first, fates(lossy, 8, 10_000));
        let lost = first.iter().filter(|fate| matches!(fate, Fate::Drop(_)));
        assert!((800..1200).contains(&lost.count()));
    }

    #[test]
    fn burst_drops_packets_in_a_row_at_its_interval() {
        let bursty = conditions().with_bursts(3, 100 * MILLISECOND);
        let fates = fates(bursty, 1, 250);
        let dropped: Vec<usize> = (0..fates.len())
            .filter(|&number| fates[number] == Fate::Drop(DropCause::Burst))
            .collect();
        assert_eq!(dropped, [100, 101, 102, 200, 201, 202]);
    }

    #[test]
    fn burst_ends_in_time_for_a_connection_with_few_packets() {
        let bursty = conditions().with_bursts(30, 1000 * MILLISECOND);
        let mut direction = Direction::new(bursty, 1);
        let dropped = (0..100).filter(|&number| {
            let now = 60 * MILLISECOND * number;
            direction.on_packet(now, 100) == Fate::Drop(DropCause::Burst)
        });
        assert_eq!(dropped.count(), 2 * 5, "two in each burst");
    }

    #[test]
    fn later_packets_overtake_a_delayed_one() {
        let reordered = conditions().with_reordering(0.1, 5 * MILLISECOND);
        let fates = fates(reordered, 3, 1000);
        let late = |fate: &Fate| matches!(fate, Fate::Deliver { late: true, .. });
        assert!((50..150).contains(&fates.iter().filter(|fate| late(fate)).count()));
        let overtaken = fates
            .windows(2)
            .filter(|pair| arrival(pair[0]) > arrival(pair[1]));
        assert!(overtaken.count() > 30);
    }

    #[test]
    fn blocked_direction_passes_nothing() {
        let mut direction = Direction::new(conditions(), 1);
        direction.set_blocked(true);
        let blocked = direction.on_packet(Duration::ZERO, 1500);
        assert_eq!(blocked, Fate::Drop(DropCause::Blocked));
        direction.set_blocked(false);
        arrival(direction.on_packet(Duration::ZERO, 1500));
    }
}
