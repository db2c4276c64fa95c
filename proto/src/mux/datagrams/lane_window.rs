//! How many bytes of datagrams may be under way on a lane.
//!
//! Datagrams have no credit. A relay accepts them faster than a slow connection behind it delivers,
//! and they would wait there, where nothing drops them. The receiver therefore reports what has
//! arrived on a lane, and the sender keeps no more under way than the lane delivers in a round trip
//! and a part of `max_delay`. The rest waits at the sender, which drops the oldest.
//!
//! The rate of a lane is the best of the recent rounds: a round with a lost segment of TCP is
//! slower than the lane. Data behind the segment then arrives at once, in a round that is
//! faster than the lane. The pause and the burst belong together, so a round is no faster than it is
//! together with the one before it. A round in which the sender had little to send says nothing.

use std::time::{Duration, Instant};

use crate::constants::CHANNEL_LIMIT;

/// The window of a lane whose rate is unknown, and the smallest one, in bytes.
const WINDOW_FIRST: u64 = 64 * 1024;
const WINDOW_MIN: u64 = 16 * 1024;

/// The bytes of messages that a relay which has sent PAUSE still accepts on a channel, without their
/// overhead there. Beyond them it closes the channel (PROTOCOL 5.7).
const CHANNEL_ROOM: u64 = CHANNEL_LIMIT as u64 - (1 << 20);

/// The part of `max_delay` that datagrams may wait between the ends. A window of this length also
/// bridges the repetition of a lost segment.
const QUEUE_SHARE: f64 = 0.5;

/// A datagram that leaves must have this part of `max_delay` left when it has arrived.
const MARGIN_SHARE: f64 = 0.125;

/// The bytes of a message.
const MESSAGE: u64 = 64 * 1024;

/// This many bytes are reported at once (PROTOCOL 12). The smallest window must exceed them, because
/// fewer may never be reported.
const REPORT: u64 = 16 * 1024;

/// Fewer bytes are reported too, down to this number, but not more often than in this interval.
const REPORT_MIN: u64 = 4 * 1024;
const REPORT_INTERVAL: Duration = Duration::from_millis(10);

/// The shortest round, and the shortest period of the best rate.
const ROUND_MIN: Duration = Duration::from_millis(10);
const PERIOD_MIN: Duration = Duration::from_secs(1);
const PERIOD_RTTS: u32 = 10;

/// The values that determine the window of every lane.
#[derive(Debug, Clone, Copy)]
pub(in crate::mux) struct WindowLimits {
    /// The minimum round trip of the path.
    pub(in crate::mux) min_rtt: Duration,
    /// How long a datagram may wait.
    pub(in crate::mux) max_delay: Duration,
    /// The largest window, in bytes.
    pub(in crate::mux) most: u64,
}

/// Returns the largest window beside streams with `bytes` of credit and data under way, all of which
/// may be on the same channel.
pub(in crate::mux) fn most_beside_streams(bytes: u64) -> u64 {
    CHANNEL_ROOM.saturating_sub(bytes).max(WINDOW_FIRST)
}

/// The datagrams on one lane, in both directions. Bytes include the constant cost of a datagram.
#[derive(Debug, Default)]
pub(in crate::mux) struct LaneWindow {
    /// Sent on the lane, and reported as received by the peer.
    sent: u64,
    delivered: u64,
    /// When the present round and the one before it began, and what was delivered by then.
    round: Option<(Instant, u64)>,
    previous_round: Option<(Instant, u64)>,
    /// Whether the window was used up in the present round, and in the one before it.
    is_used_up: bool,
    was_used_up: bool,
    /// The best rates of the present and of the previous period, in bytes per second.
    rates: [f64; 2],
    /// When the present period began.
    period: Option<Instant>,
    /// Whether a round has ever shown the rate of the lane.
    is_measured: bool,
    /// Received on the lane, and reported to the peer.
    received: u64,
    reported: u64,
    last_report: Option<Instant>,
    is_report_due: bool,
}

impl LaneWindow {
    /// Returns whether the window is used up.
    pub(in crate::mux) fn is_full(&self, limits: WindowLimits) -> bool {
        self.under_way() >= self.window(limits)
    }

    /// Returns how old a datagram may be that leaves now, while `waiting` bytes wait. Those with
    /// which it shares a message delay it too, because a message arrives as a whole.
    pub(in crate::mux) fn age_max(&self, limits: WindowLimits, waiting: u64) -> Duration {
        let ahead = self.under_way().saturating_add(waiting.min(MESSAGE));
        // This delays a datagram by as much of the queue as it takes of the window.
        let used = (ahead as f64 / self.window(limits) as f64).min(1.0);
        limits
            .max_delay
            .mul_f64(1.0 - MARGIN_SHARE - QUEUE_SHARE * used)
    }

    /// Returns the bytes that were sent on the lane and not reported as received.
    pub(in crate::mux) fn under_way(&self) -> u64 {
        self.sent.saturating_sub(self.delivered)
    }

    fn window(&self, limits: WindowLimits) -> u64 {
        let [current, previous] = self.rates;
        let rate = current.max(previous);
        let queue = limits.max_delay.mul_f64(QUEUE_SHARE);
        let time = limits.min_rtt.saturating_add(queue);
        let least = if self.is_measured {
            WINDOW_MIN
        } else {
            WINDOW_FIRST
        };
        // A cast of a float saturates.
        ((rate * time.as_secs_f64()) as u64)
            .min(limits.most)
            .max(least)
    }

    /// Records a datagram that leaves on the lane.
    pub(in crate::mux) fn on_sent(&mut self, bytes: u64, limits: WindowLimits) {
        self.sent = self.sent.saturating_add(bytes);
        self.is_used_up |= self.is_full(limits);
    }

    /// Handles the peer's report of what has arrived on the lane.
    pub(in crate::mux) fn on_report(&mut self, now: Instant, bytes: u64, min_rtt: Duration) {
        self.delivered = self.delivered.max(bytes).min(self.sent);
        let delivered = self.delivered;
        let round = *self.round.get_or_insert((now, delivered));
        let elapsed = |(since, _): (Instant, u64)| now.saturating_duration_since(since);
        if elapsed(round) < min_rtt.max(ROUND_MIN) {
            return;
        }
        let rate = |round: (Instant, u64)| {
            delivered.saturating_sub(round.1) as f64 / elapsed(round).as_secs_f64()
        };
        let with_previous = self.previous_round.map_or(f64::INFINITY, rate);
        self.add_rate(now, rate(round).min(with_previous), min_rtt);
        self.previous_round = Some(round);
        self.round = Some((now, delivered));
        self.was_used_up = std::mem::take(&mut self.is_used_up);
    }

    fn add_rate(&mut self, now: Instant, rate: f64, min_rtt: Duration) {
        let length = min_rtt.saturating_mul(PERIOD_RTTS).max(PERIOD_MIN);
        let since = *self.period.get_or_insert(now);
        let [current, previous] = self.rates;
        // A burst after a pause uses up the window in a round that also contains the pause.
        let is_full = self.is_used_up && self.was_used_up;
        self.is_measured |= is_full;
        if is_full && now.saturating_duration_since(since) > length {
            self.rates = [rate, current];
            self.period = Some(now);
        } else if is_full || rate > current.max(previous) {
            self.rates = [current.max(rate), previous];
        }
    }

    /// Records a datagram that arrived on the lane.
    pub(in crate::mux) fn on_received(&mut self, now: Instant, bytes: u64) {
        self.received = self.received.saturating_add(bytes);
        let is_time = self
            .last_report
            .is_none_or(|last| now.saturating_duration_since(last) >= REPORT_INTERVAL);
        let unreported = self.received.saturating_sub(self.reported);
        self.is_report_due |= unreported >= REPORT || is_time && unreported >= REPORT_MIN;
    }

    /// Returns whether a report should not wait for another message.
    pub(in crate::mux) fn is_report_due(&self) -> bool {
        self.is_report_due
    }

    /// Returns the bytes to report with a message that is sent now.
    pub(in crate::mux) fn take_report(&mut self, now: Instant) -> Option<u64> {
        let unreported = self.received.saturating_sub(self.reported);
        if !self.is_report_due && unreported < REPORT_MIN {
            return None;
        }
        self.reported = self.received;
        self.last_report = Some(now);
        self.is_report_due = false;
        Some(self.received)
    }

    /// Reports everything again, because a report may have been lost with a lane.
    pub(in crate::mux) fn report_again(&mut self) {
        self.is_report_due = self.received > 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const LIMITS: WindowLimits = WindowLimits {
        min_rtt: Duration::from_millis(100),
        max_delay: Duration::from_millis(200),
        most: u64::MAX,
    };
    const DATAGRAM: u64 = 1200;

    /// A path of [`LIMITS`] with a rate in bytes per second and a buffer without a limit.
    struct Path {
        now: Instant,
        rate: f64,
        lane: LaneWindow,
        peer: LaneWindow,
        /// When the bottleneck is free.
        free: Instant,
        data: VecDeque<Instant>,
        reports: VecDeque<(Instant, u64)>,
        /// TCP loses a segment at this interval. Later data waits until it is repeated.
        losses: Option<Duration>,
        next_loss: Instant,
        waits_until: Instant,
    }

    impl Path {
        fn new(rate: f64) -> Self {
            let now = Instant::now();
            Path {
                now,
                rate,
                lane: LaneWindow::default(),
                peer: LaneWindow::default(),
                free: now,
                data: VecDeque::new(),
                reports: VecDeque::new(),
                losses: None,
                next_loss: now,
                waits_until: now,
            }
        }

        /// Loses a segment, if it is time to. The repetition takes a round trip, with the queue.
        fn lose(&mut self) {
            if let Some(interval) = self.losses
                && self.now >= self.next_loss
            {
                self.next_loss = self.now + interval;
                let queue = self.free.saturating_duration_since(self.now);
                self.waits_until = self.now + LIMITS.min_rtt + queue;
            }
        }

        /// Delivers what arrives now, and sends reports. Returns the delivered bytes.
        fn deliver(&mut self) -> u64 {
            let mut delivered = 0;
            while self.waits_until <= self.now
                && self.data.front().is_some_and(|at| *at <= self.now)
            {
                self.data.pop_front();
                self.peer.on_received(self.now, DATAGRAM);
                delivered += DATAGRAM;
                if self.peer.is_report_due() {
                    let report = self.peer.take_report(self.now).unwrap();
                    let at = self.now + LIMITS.min_rtt / 2;
                    self.reports.push_back((at, report));
                }
            }
            delivered
        }

        /// Sends for some time as much as the window allows, but no more than `offered` bytes per
        /// second. Returns the delivered share of the rate, and the longest queue.
        fn run(&mut self, seconds: u32, offered: f64) -> (f64, Duration) {
            let (mut delivered, mut queue) = (0, Duration::ZERO);
            let mut may = 0.0;
            let end = self.now + Duration::from_secs(seconds.into());
            let measured = self.now + Duration::from_secs((seconds / 2).into());
            while self.now < end {
                self.now += Duration::from_millis(1);
                may = (may + offered / 1000.0).min(offered / 10.0);
                while may >= DATAGRAM as f64 && !self.lane.is_full(LIMITS) {
                    may -= DATAGRAM as f64;
                    self.lane.on_sent(DATAGRAM, LIMITS);
                    let length = Duration::from_secs_f64(DATAGRAM as f64 / self.rate);
                    self.free = self.free.max(self.now) + length;
                    self.data.push_back(self.free + LIMITS.min_rtt / 2);
                }
                self.lose();
                delivered += u64::from(self.now > measured) * self.deliver();
                while let Some((at, report)) = self.reports.front().copied()
                    && at <= self.now
                {
                    self.reports.pop_front();
                    self.lane.on_report(self.now, report, LIMITS.min_rtt);
                }
                if self.now > measured {
                    queue = queue.max(self.free.saturating_duration_since(self.now));
                }
            }
            let capacity = self.rate * f64::from(seconds) / 2.0;
            (delivered as f64 / capacity, queue)
        }
    }

    #[test]
    fn flood_fills_the_path_with_a_queue_of_half_the_delay() {
        for rate in [200_000.0, 1_000_000.0, 12_000_000.0] {
            let (share, queue) = Path::new(rate).run(20, rate * 4.0);
            assert!(share > 0.95, "{rate}: {share}");
            let most = LIMITS.max_delay.mul_f64(QUEUE_SHARE) + Duration::from_millis(40);
            assert!(queue <= most, "{rate}: {queue:?}");
        }
    }

    #[test]
    fn bursts_after_lost_segments_do_not_widen_the_window() {
        for rate in [200_000.0, 1_000_000.0, 12_000_000.0] {
            for interval in [500, 2300] {
                let mut path = Path::new(rate);
                path.losses = Some(Duration::from_millis(interval));
                let (share, queue) = path.run(20, rate * 4.0);
                let case = format!("{rate} every {interval} ms");
                assert!(share > 0.7, "{case}: {share}");
                assert!(queue <= Duration::from_millis(250), "{case}: {queue:?}");
            }
        }
    }

    #[test]
    fn window_follows_a_path_that_becomes_slower_and_faster() {
        let mut path = Path::new(2_000_000.0);
        path.run(10, 8_000_000.0);
        for rate in [500_000.0, 4_000_000.0] {
            path.rate = rate;
            let (share, queue) = path.run(20, rate * 4.0);
            assert!(share > 0.9, "{rate}: {share}");
            assert!(queue <= LIMITS.max_delay, "{rate}: {queue:?}");
        }
    }

    #[test]
    fn sender_with_little_to_send_keeps_the_window() {
        let mut path = Path::new(2_000_000.0);
        path.run(10, 8_000_000.0);
        let before = path.lane.window(LIMITS);
        path.run(60, 20_000.0);
        assert!(path.lane.window(LIMITS) >= before);
    }

    #[test]
    fn burst_after_a_pause_finds_the_window_of_before() {
        let mut path = Path::new(2_000_000.0);
        path.run(2, 20_000.0);
        let unknown = path.lane.window(LIMITS);
        assert_eq!(unknown, WINDOW_FIRST);
        path.run(1, 1_000_000.0);
        path.run(20, 20_000.0);
        assert!(path.lane.window(LIMITS) > unknown);
    }

    #[test]
    fn window_leaves_the_room_of_a_channel_to_streams() {
        let lane = LaneWindow {
            rates: [1e12, 0.0],
            is_measured: true,
            ..LaneWindow::default()
        };
        let window = |streams| {
            lane.window(WindowLimits {
                most: most_beside_streams(streams),
                ..LIMITS
            })
        };
        assert_eq!(window(0), CHANNEL_ROOM);
        // The largest window of a tunnel, with the reserve of interactive streams.
        let streams = (32 << 20) + 4096;
        let room = CHANNEL_ROOM - streams;
        assert!(room > 900 * 1024, "{room}");
        assert_eq!(window(streams), room);
        assert_eq!(window(u64::MAX), WINDOW_FIRST);
    }

    #[test]
    fn bytes_that_are_never_reported_do_not_close_the_window() {
        let now = Instant::now();
        let mut peer = LaneWindow::default();
        let mut lane = LaneWindow {
            is_measured: true,
            ..LaneWindow::default()
        };
        assert_eq!(lane.window(LIMITS), WINDOW_MIN);
        // The interval of reports never passes.
        for _ in 0..100_000 {
            assert!(!lane.is_full(LIMITS));
            lane.on_sent(17, LIMITS);
            peer.on_received(now, 17);
            if peer.is_report_due() {
                let report = peer.take_report(now).unwrap();
                lane.delivered = report.min(lane.sent);
            }
        }
    }

    #[test]
    fn datagram_that_leaves_has_time_for_the_queue_in_front_of_it() {
        let mut lane = LaneWindow::default();
        assert_eq!(lane.age_max(LIMITS, 0), Duration::from_millis(175));
        assert_eq!(lane.age_max(LIMITS, u64::MAX), Duration::from_millis(75));
        lane.on_sent(WINDOW_FIRST / 2, LIMITS);
        assert_eq!(lane.age_max(LIMITS, 0), Duration::from_millis(125));
        let waiting = WINDOW_FIRST / 4;
        assert_eq!(lane.age_max(LIMITS, waiting), Duration::from_millis(100));
        assert!(!lane.is_full(LIMITS));
        lane.on_sent(WINDOW_FIRST / 2, LIMITS);
        assert!(lane.is_full(LIMITS));
    }

    #[test]
    fn false_reports_count_as_no_more_than_was_sent() {
        let now = Instant::now();
        let mut lane = LaneWindow::default();
        lane.on_sent(1000, LIMITS);
        lane.on_report(now, u64::MAX, LIMITS.min_rtt);
        assert_eq!((lane.delivered, lane.sent), (1000, 1000));
        lane.on_report(now, 0, LIMITS.min_rtt);
        assert_eq!(lane.delivered, 1000, "reports only grow");
    }
}
