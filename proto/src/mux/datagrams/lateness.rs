//! Decides which datagrams arrive too late. A datagram carries the time at which its sender got it,
//! by the sender's clock. The clocks of the ends have no common zero, so only differences count: the
//! shortest time that a recent datagram took is the length of the path, and what another takes
//! beyond that is its wait.

use std::time::{Duration, Instant};

/// The shortest time counts for one to two of these periods, so that clocks may drift apart.
const PERIOD: Duration = Duration::from_secs(5);

/// After this time without a datagram, the shortest time says nothing any more.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// If all datagrams have been late for this time, and take about as long at its end as at its
/// beginning, the path has become longer, or a clock has stopped for a while: later ones count from
/// now.
const LATE_MAX: Duration = Duration::from_secs(1);

/// If what they take changes by more than this in that time, they are a backlog, which grows or
/// drains: its datagrams were sent within a short time, so each takes longer than the one before it.
const CHANGE_MAX: Duration = Duration::from_millis(500);

/// The shortest times that recent datagrams took, in milliseconds between the two clocks. Those that
/// were late say nothing about the path.
#[derive(Debug, Default)]
pub(super) struct LatenessFilter {
    current: Option<i64>,
    previous: Option<i64>,
    /// When the current period began.
    since: Option<Instant>,
    /// The last datagram.
    last: Option<Instant>,
    /// Since when all datagrams have been late, and how long the first of them took.
    late_since: Option<(Instant, i64)>,
}

impl LatenessFilter {
    /// Processes a datagram with this time, which arrives at `arrived`, both in milliseconds. Returns
    /// whether it has waited for longer than `max_delay`.
    pub(super) fn is_late(
        &mut self,
        now: Instant,
        arrived: u64,
        sent: u64,
        max_delay: Duration,
    ) -> bool {
        let signed = |time: u64| i64::try_from(time).unwrap_or(i64::MAX);
        let took = signed(arrived).saturating_sub(signed(sent));
        self.begin_period(now);
        let shortest = self.current.map_or(took, |current| current.min(took));
        let path = self
            .previous
            .map_or(shortest, |previous| previous.min(shortest));
        let waited = u128::try_from(took.saturating_sub(path)).unwrap_or_default();
        if waited <= max_delay.as_millis() {
            self.current = Some(shortest);
            self.late_since = None;
            return false;
        }
        let (late_since, first_took) = *self.late_since.get_or_insert((now, took));
        let elapsed = now.saturating_duration_since(late_since);
        if elapsed < LATE_MAX {
            return true;
        }
        if Duration::from_millis(took.abs_diff(first_took)) > CHANGE_MAX {
            self.late_since = Some((now, took));
            return true;
        }
        *self = LatenessFilter {
            current: Some(took),
            since: Some(now),
            last: Some(now),
            ..LatenessFilter::default()
        };
        false
    }

    /// Begins a new period if the current one is over and knows a time.
    fn begin_period(&mut self, now: Instant) {
        let elapsed = |at: Instant| now.saturating_duration_since(at);
        if self
            .last
            .is_some_and(|last| elapsed(last) >= FORGOTTEN_AFTER)
        {
            *self = LatenessFilter::default();
        }
        self.last = Some(now);
        let since = *self.since.get_or_insert(now);
        if elapsed(since) >= PERIOD && self.current.is_some() {
            self.previous = self.current.take();
            self.since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_DELAY: Duration = Duration::from_millis(200);

    /// A receiver whose clock differs from the sender's by an offset in milliseconds.
    struct Receiver {
        start: Instant,
        offset: i64,
        filter: LatenessFilter,
    }

    impl Receiver {
        fn new(offset: i64) -> Self {
            Receiver {
                start: Instant::now(),
                offset,
                filter: LatenessFilter::default(),
            }
        }

        /// Receives a datagram of the time `sent`, which takes `took` milliseconds. Returns whether
        /// it is late.
        fn is_late(&mut self, sent: u64, took: u64) -> bool {
            let now = self.start + Duration::from_millis(sent + took);
            let arrived = (sent + took).saturating_add_signed(self.offset);
            self.filter.is_late(now, arrived, sent, MAX_DELAY)
        }
    }

    #[test]
    fn wait_counts_from_the_shortest_time_whatever_the_offset_of_the_clocks() {
        for offset in [0, 1 << 40, -100_000] {
            let mut receiver = Receiver::new(offset);
            let begin = 200_000;
            assert!(!receiver.is_late(begin, 50));
            assert!(!receiver.is_late(begin + 1000, 250), "{offset}");
            assert!(receiver.is_late(begin + 2000, 251), "{offset}");
            assert!(!receiver.is_late(begin + 3000, 20), "a shorter time");
            assert!(receiver.is_late(begin + 4000, 221), "{offset}");
            assert!(!receiver.is_late(begin + 5000, 220), "{offset}");
        }
    }

    #[test]
    fn backlog_of_a_stall_is_late_except_its_end() {
        let mut receiver = Receiver::new(77);
        for sent in (0..3000).step_by(10) {
            assert!(!receiver.is_late(sent, 30));
        }
        // Everything from here on arrives at the same time.
        let late: Vec<u64> = (3000..4000)
            .step_by(10)
            .filter(|sent| receiver.is_late(*sent, 4000 - sent + 30))
            .collect();
        assert_eq!(late, (3000..3800).step_by(10).collect::<Vec<_>>());
    }

    #[test]
    fn backlog_that_arrives_slowly_is_late_until_the_path_is_steady() {
        let mut receiver = Receiver::new(0);
        for sent in (0..3000).step_by(10) {
            assert!(!receiver.is_late(sent, 30));
        }
        // The path becomes ten times slower, and its queue takes over five seconds to arrive.
        let late: Vec<u64> = (3000..3600)
            .step_by(10)
            .filter(|sent| receiver.is_late(*sent, 30 + (sent - 3000) * 9))
            .collect();
        assert_eq!(late, (3030..3600).step_by(10).collect::<Vec<_>>());
        // Then it is longer than before, without a queue.
        let late: Vec<u64> = (9000..12_000)
            .step_by(10)
            .filter(|sent| receiver.is_late(*sent, 600))
            .collect();
        assert_eq!(late, (9000..10_000).step_by(10).collect::<Vec<_>>());
    }

    #[test]
    fn rare_datagrams_that_stall_are_late_although_the_one_before_was() {
        let mut receiver = Receiver::new(0);
        for sent in (0..60_000).step_by(10_000) {
            assert!(!receiver.is_late(sent, 30));
        }
        assert!(receiver.is_late(60_000, 900));
        assert!(receiver.is_late(70_000, 8000));
        assert!(!receiver.is_late(80_000, 30));
        // The path becomes longer.
        assert!(receiver.is_late(90_000, 700));
        assert!(!receiver.is_late(100_000, 700));
    }

    #[test]
    fn drifting_clock_makes_nothing_late_and_a_longer_path_for_a_second() {
        let mut receiver = Receiver::new(0);
        for sent in (0..20_000).step_by(20) {
            // Without a limit of its age, the first time would make the last ones late.
            receiver.offset = sent as i64 * 15 / 1000;
            assert!(!receiver.is_late(sent, 30));
        }
        let late: Vec<u64> = (20_000..25_000)
            .step_by(20)
            .filter(|sent| receiver.is_late(*sent, 600))
            .collect();
        assert_eq!(late, (20_000..21_000).step_by(20).collect::<Vec<_>>());
    }

    #[test]
    fn times_of_a_hostile_sender_cause_no_overflow() {
        let mut receiver = Receiver::new(0);
        let now = receiver.start;
        for (arrived, sent) in [(0, u64::MAX), (u64::MAX, 0), (5, 1 << 62), (1 << 62, 5)] {
            receiver.filter.is_late(now, arrived, sent, MAX_DELAY);
        }
    }
}
