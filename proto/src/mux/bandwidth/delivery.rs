//! The best delivery rate of the recent round trips, from which the floor of the window follows.
//!
//! TCP delivers in order. Everything behind a lost segment waits until the segment is repeated, and
//! then arrives at once. The pause and the burst belong together: a rate that contains one without
//! the other is too low or too high. Therefore a rate counts from the last arrival before a round
//! trip, so that a pause in front of a burst always belongs to the time that the burst took.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Arrivals within this share of a round trip make one mark. A burst comes in several messages, and
/// may not be divided: a rate that began in the middle of it would count bytes of the pause before.
/// A larger share would omit more of what the path delivers.
const MARK_SHARE: f64 = 1.0 / 16.0;

/// A rate counts for this many periods without the current one: ten round trips, as in BBR, and at
/// least a second, which is longer than most timeouts of TCP. A longer memory delays the end of the
/// queue when a path becomes slower. It also slows two tunnels down that converge to equal shares.
const PERIODS: usize = 4;
const PERIOD_RTTS: f64 = 2.5;
const PERIOD_MIN: Duration = Duration::from_millis(250);

/// The best delivery rate over a round trip.
#[derive(Debug)]
pub(super) struct BestDeliveryRate {
    /// The marks of the last round trip and one before it, oldest first. They are less than 40:
    /// those of a round trip that has just become longer, and new ones.
    marks: VecDeque<Mark>,
    /// The best rate of the current period, and those of the periods before it, in bytes per
    /// second.
    rates: [f64; 1 + PERIODS],
    /// The start of the current period.
    since: Instant,
}

/// Arrivals that count as one.
#[derive(Debug, Clone, Copy)]
struct Mark {
    /// The time of the first one.
    at: Instant,
    /// The number of bytes that had arrived after the last one.
    received: u64,
}

impl Mark {
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.at)
    }
}

impl BestDeliveryRate {
    /// Creates a measurement that knows no rate.
    pub(super) fn new(now: Instant) -> Self {
        BestDeliveryRate {
            marks: VecDeque::new(),
            rates: [0.0; 1 + PERIODS],
            since: now,
        }
    }

    /// Returns the best rate of the recent round trips, in bytes per second.
    pub(super) fn max(&self) -> f64 {
        self.rates.into_iter().fold(0.0, f64::max)
    }

    /// Processes the arrival of data on a path with this round trip: `received` bytes in total.
    pub(super) fn on_received(&mut self, now: Instant, received: u64, round_trip: Duration) {
        while self
            .marks
            .get(1)
            .is_some_and(|mark| mark.age(now) >= round_trip)
        {
            self.marks.pop_front();
        }
        let before = self.marks.front().copied();
        if let Some(before) = before.filter(|mark| mark.age(now) >= round_trip) {
            let bytes = received.saturating_sub(before.received);
            let rate = bytes as f64 / before.age(now).as_secs_f64();
            self.add(now, rate, round_trip);
        }
        match self.marks.back_mut() {
            Some(mark) if mark.age(now) < round_trip.mul_f64(MARK_SHARE) => {
                mark.received = received;
            }
            _ => self.marks.push_back(Mark { at: now, received }),
        }
    }

    /// Leaves out `bytes` that count as received and did not arrive.
    pub(super) fn skip(&mut self, bytes: u64) {
        for mark in &mut self.marks {
            mark.received = mark.received.saturating_add(bytes);
        }
    }

    /// Adds a rate. Time without data ends no more than one period, because it says nothing about
    /// the path.
    fn add(&mut self, now: Instant, rate: f64, round_trip: Duration) {
        let period = round_trip.mul_f64(PERIOD_RTTS).max(PERIOD_MIN);
        let is_over = now.saturating_duration_since(self.since) > period;
        if is_over {
            self.rates.rotate_right(1);
            self.since = now;
        }
        let [current, ..] = &mut self.rates;
        *current = if is_over { rate } else { current.max(rate) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(100);
    const PER_MILLISECOND: u64 = 100;
    const RATE: f64 = 1000.0 * PER_MILLISECOND as f64;

    /// A receiver to which data arrives at times in milliseconds.
    struct Receiver {
        start: Instant,
        received: u64,
        best: BestDeliveryRate,
    }

    impl Receiver {
        fn new() -> Self {
            let start = Instant::now();
            Receiver {
                start,
                received: 0,
                best: BestDeliveryRate::new(start),
            }
        }

        fn receive(&mut self, at: u64, bytes: u64) {
            self.received += bytes;
            let now = self.start + Duration::from_millis(at);
            self.best.on_received(now, self.received, RTT);
        }

        /// Receives a message every ten milliseconds from one time to another, at a rate in bytes
        /// per millisecond.
        fn receive_evenly(&mut self, times: std::ops::Range<u64>, per_millisecond: u64) {
            for at in times.skip(9).step_by(10) {
                self.receive(at + 1, 10 * per_millisecond);
            }
        }

        /// Returns the best rate in relation to the rate of the path.
        fn best(&self) -> f64 {
            self.best.max() / RATE
        }
    }

    #[test]
    fn burst_after_a_stall_is_not_the_delivery_of_one_round_trip() {
        for stall in [60, 100, 300, 1000] {
            let mut receiver = Receiver::new();
            receiver.receive_evenly(0..1000, PER_MILLISECOND);
            assert!((0.99..1.01).contains(&receiver.best()));
            // The burst is what the path delivered during the stall. It comes in three messages.
            for (late, share) in [(0, 2), (1, 1), (2, 1)] {
                receiver.receive(1000 + stall + late, stall * PER_MILLISECOND * share / 4);
            }
            receiver.receive_evenly(1000 + stall..3000 + stall, PER_MILLISECOND);
            let best = receiver.best();
            assert!((0.99..1.01).contains(&best), "{stall} ms: {best}");
        }
    }

    #[test]
    fn one_round_trip_without_a_stall_shows_the_rate_of_the_path() {
        let mut receiver = Receiver::new();
        for cycle in 0..20 {
            // A round trip's data at once, more than a round trip at the rate of the path, and a
            // stall. On average it is half of the rate of the path.
            let start = cycle * 500;
            receiver.receive(start, 100 * PER_MILLISECOND);
            receiver.receive_evenly(start..start + 150, PER_MILLISECOND);
            let best = receiver.best();
            assert!((0.99..1.01).contains(&best), "cycle {cycle}: {best}");
        }
    }

    #[test]
    fn best_rate_ages_after_ten_round_trips() {
        let mut receiver = Receiver::new();
        receiver.receive_evenly(0..1000, PER_MILLISECOND);
        receiver.receive_evenly(1000..2000, PER_MILLISECOND / 10);
        assert!(receiver.best() > 0.99, "{}", receiver.best());
        receiver.receive_evenly(2000..2500, PER_MILLISECOND / 10);
        assert!(receiver.best() < 0.15, "{}", receiver.best());
    }

    #[test]
    fn time_without_data_does_not_age_the_best_rate() {
        let mut receiver = Receiver::new();
        receiver.receive_evenly(0..1000, PER_MILLISECOND);
        receiver.receive_evenly(60_000..60_500, PER_MILLISECOND / 10);
        assert!(receiver.best() > 0.99, "{}", receiver.best());
    }

    #[test]
    fn marks_are_few_whatever_the_round_trip_does() {
        let mut receiver = Receiver::new();
        for at in 0..5000_u32 {
            let round_trip = RTT * [1, 50, 2, 7][at as usize / 700 % 4];
            receiver.received += 1000;
            let now = receiver.start + Duration::from_millis(at.into());
            receiver
                .best
                .on_received(now, receiver.received, round_trip);
            assert!(receiver.best.marks.len() < 40);
        }
    }
}
