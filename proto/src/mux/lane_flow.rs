//! How much bulk data may be under way on each of several lanes.
//!
//! A relay between the ends accepts data faster than a slow lane behind it delivers. Equal shares
//! would then make every lane as slow as the slowest. The receiver therefore reports what arrives
//! on each lane, and the sender gives a lane more only while it delivers: a window per lane, which
//! doubles while the lane uses it up within a round trip.

use std::time::{Duration, Instant};

use super::{LaneId, datagrams::LaneWindow};

/// The bytes on a lane that the receiver reports at once (PROTOCOL 12, `LANE_REPORT`).
const LANE_REPORT: u64 = 16 * 1024;

/// The smallest window: some segments in flight, and as much that waits behind them.
const WINDOW_MIN: u64 = 64 * 1024;

/// The largest window.
const WINDOW_MAX: u64 = 16 * 1024 * 1024;

/// The shortest time over which a window is judged.
const ROUND_MIN: Duration = Duration::from_millis(10);

/// A message of a lane is at most this part of its window, so that a slow lane holds little.
const MESSAGE_PART: u64 = 4;

/// The smallest limit of a message.
const MESSAGE_MIN: u64 = 16 * 1024;

/// The limits of the bulk data under way on the control lane. The window grows by a step while the
/// lane delivers it within a round trip, and follows what is delivered otherwise, so that a
/// keystroke hardly waits behind it.
const CONTROL_MIN: u64 = 4 * 1024;
const CONTROL_MAX: u64 = 16 * 1024;
const CONTROL_STEP: u64 = 2 * 1024;

/// The smallest message of bulk data on the control lane.
const CONTROL_MESSAGE_MIN: u64 = 1024;

/// The standby lane usually takes the place of a control lane that stalls. It therefore holds little
/// bulk data: this many times the bytes that it delivers in a round trip, and at least this many
/// bytes, for which the receiver reports in any case.
const STANDBY_ROUND_TRIPS: u64 = 2;
const STANDBY_MIN: u64 = 24 * 1024;

/// The smallest message of bulk data on the standby lane.
const STANDBY_MESSAGE_MIN: u64 = 4 * 1024;

/// The bytes of DATA on one lane, in both directions.
#[derive(Debug)]
struct LaneFlow {
    lane: LaneId,
    /// Sent on the lane, and reported as received by the peer.
    sent: u64,
    delivered: u64,
    window: u64,
    /// The start of the present round, and the bytes that were delivered until then.
    round: Option<(Instant, u64)>,
    /// The bytes that were delivered in the last round trip.
    recent: u64,
    /// The limit of the bulk data under way while this is the control lane.
    control_window: u64,
    /// Whether the window was used up in the present round.
    is_used_up: bool,
    /// Received on the lane, and reported to the peer.
    received: u64,
    reported: u64,
    /// The datagrams on the lane, which count separately.
    datagrams: LaneWindow,
}

impl LaneFlow {
    fn new(lane: LaneId) -> Self {
        LaneFlow {
            lane,
            sent: 0,
            delivered: 0,
            window: WINDOW_MIN,
            round: None,
            recent: 0,
            control_window: CONTROL_MIN,
            is_used_up: false,
            received: 0,
            reported: 0,
            datagrams: LaneWindow::default(),
        }
    }

    fn under_way(&self) -> u64 {
        self.sent.saturating_sub(self.delivered)
    }

    /// Returns the round trips until new data would arrive, in hundredths.
    fn wait(&self) -> u64 {
        let rate = self.recent.saturating_add(CONTROL_MIN);
        self.under_way()
            .saturating_add(self.datagrams.under_way())
            .saturating_mul(100)
            .checked_div(rate)
            .unwrap_or(u64::MAX)
    }

    /// Returns the limit of the bulk data under way while this is the standby lane.
    fn standby_window(&self) -> u64 {
        self.recent
            .saturating_mul(STANDBY_ROUND_TRIPS)
            .max(STANDBY_MIN)
            .min(self.window)
    }

    fn on_report(&mut self, now: Instant, bytes: u64, min_rtt: Duration) {
        self.delivered = self.delivered.max(bytes).min(self.sent);
        let (since, before) = *self.round.get_or_insert((now, self.delivered));
        let elapsed = now.saturating_duration_since(since);
        if elapsed < min_rtt.max(ROUND_MIN) {
            return;
        }
        let delivered = self.delivered.saturating_sub(before);
        let in_round_trip = (delivered as f64 * min_rtt.max(ROUND_MIN).as_secs_f64()
            / elapsed.as_secs_f64()) as u64;
        self.recent = in_round_trip;
        self.control_window =
            if in_round_trip >= self.control_window.saturating_sub(self.control_window / 4) {
                self.control_window.saturating_add(CONTROL_STEP)
            } else {
                in_round_trip
            }
            .clamp(CONTROL_MIN, CONTROL_MAX);
        if self.is_used_up && in_round_trip >= self.window / 2 {
            self.window = self.window.saturating_mul(2).min(WINDOW_MAX);
        } else if in_round_trip < self.window / 8 {
            self.window = (self.window / 2).max(WINDOW_MIN);
        }
        self.round = Some((now, self.delivered));
        self.is_used_up = self.under_way() >= self.window;
    }
}

/// The flows of all lanes.
#[derive(Debug, Default)]
pub(super) struct LaneFlows {
    flows: Vec<LaneFlow>,
    special: SpecialLanes,
}

/// The lanes that carry less bulk data than the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SpecialLanes {
    /// The lane of the small frames, if there are several lanes.
    pub(super) control: Option<LaneId>,
    /// The lane that can best take its place, if there are enough lanes.
    pub(super) standby: Option<LaneId>,
    /// The lane to which control returns, if another one has it. It holds no more bulk data than
    /// the control lane, so that control can return soon.
    pub(super) home: Option<LaneId>,
}

impl SpecialLanes {
    fn contains(&self, lane: LaneId) -> bool {
        [self.control, self.standby, self.home].contains(&Some(lane))
    }
}

impl LaneFlows {
    /// Adds a lane.
    pub(super) fn add(&mut self, lane: LaneId) {
        if self.find(lane).is_none() {
            self.flows.push(LaneFlow::new(lane));
        }
    }

    /// Forgets a lane.
    pub(super) fn remove(&mut self, lane: LaneId) {
        self.flows.retain(|flow| flow.lane != lane);
    }

    /// Forgets all lanes.
    pub(super) fn clear(&mut self) {
        self.flows.clear();
    }

    /// Records DATA that leaves on a lane.
    pub(super) fn on_sent(&mut self, lane: LaneId, bytes: u64) {
        if let Some(flow) = self.find(lane) {
            flow.sent = flow.sent.saturating_add(bytes);
            flow.is_used_up |= flow.under_way() >= flow.window;
        }
    }

    /// Records DATA that arrived on a lane.
    pub(super) fn on_received(&mut self, lane: LaneId, bytes: u64) {
        if let Some(flow) = self.find(lane) {
            flow.received = flow.received.saturating_add(bytes);
        }
    }

    /// Handles the peer's report of what has arrived on a lane.
    pub(super) fn on_report(&mut self, now: Instant, lane: LaneId, bytes: u64, min_rtt: Duration) {
        if let Some(flow) = self.find(lane) {
            flow.on_report(now, bytes, min_rtt);
        }
    }

    /// Returns whether more bulk data may leave on the lane.
    pub(super) fn is_open(&self, lane: LaneId) -> bool {
        self.flows
            .iter()
            .find(|flow| flow.lane == lane)
            .is_none_or(|flow| self.room(flow) > 0)
    }

    /// Returns how many bytes may follow those under way. A special lane waits until it has room
    /// for a message that is worth its overhead.
    fn room(&self, flow: &LaneFlow) -> u64 {
        let is_quiet = [self.special.control, self.special.home].contains(&Some(flow.lane));
        let (limit, message_min) = if is_quiet {
            (flow.control_window, CONTROL_MESSAGE_MIN)
        } else if self.special.standby == Some(flow.lane) {
            (flow.standby_window(), STANDBY_MESSAGE_MIN)
        } else {
            (flow.window, 1)
        };
        let room = limit.saturating_sub(flow.under_way());
        if room < message_min { 0 } else { room }
    }

    /// Returns whether streams leave the lane to datagrams: it is not special, and hardly any DATA is
    /// under way on it. Fewer bytes than a report may never be reported.
    pub(super) fn is_spare(&self, lane: LaneId) -> bool {
        let flow = self.flows.iter().find(|flow| flow.lane == lane);
        !self.special.contains(lane) && flow.is_some_and(|flow| flow.under_way() < LANE_REPORT)
    }

    /// Sets the special lanes. Returns the previous ones.
    pub(super) fn set_special(&mut self, lanes: SpecialLanes) -> SpecialLanes {
        std::mem::replace(&mut self.special, lanes)
    }

    /// Returns the lane on which new data would arrive first, the first of several such.
    pub(super) fn fastest(&self, lanes: &[LaneId]) -> Option<LaneId> {
        let wait = |lane: &LaneId| {
            let flow = self.flows.iter().find(|flow| flow.lane == *lane);
            flow.map_or(0, LaneFlow::wait)
        };
        lanes.iter().copied().min_by_key(wait)
    }

    /// Returns whether no more bulk data is under way on the lane than a control lane has.
    pub(super) fn is_quiet(&self, lane: LaneId) -> bool {
        let flow = self.flows.iter().find(|flow| flow.lane == lane);
        flow.is_none_or(|flow| flow.under_way() <= flow.control_window)
    }

    /// Returns the limit for a message of bulk data on the lane, in bytes.
    pub(super) fn message_limit(&self, lane: LaneId) -> usize {
        let flow = self.flows.iter().find(|flow| flow.lane == lane);
        let limit = flow.map_or(u64::MAX, |flow| {
            if self.special.contains(lane) {
                return self.room(flow);
            }
            (flow.window / MESSAGE_PART).max(MESSAGE_MIN)
        });
        usize::try_from(limit).unwrap_or(usize::MAX)
    }

    /// Returns whether a report should not wait for another message.
    pub(super) fn is_report_due(&self) -> bool {
        self.flows
            .iter()
            .any(|flow| flow.received.saturating_sub(flow.reported) >= LANE_REPORT)
    }

    /// Returns the next report: the lane, and the bytes that have arrived on it.
    pub(super) fn next_report(&mut self) -> Option<(LaneId, u64)> {
        let flow = self
            .flows
            .iter_mut()
            .find(|flow| flow.received > flow.reported)?;
        flow.reported = flow.received;
        Some((flow.lane, flow.received))
    }

    /// Returns the datagrams on a lane.
    pub(super) fn datagrams(&self, lane: LaneId) -> Option<&LaneWindow> {
        let flow = self.flows.iter().find(|flow| flow.lane == lane)?;
        Some(&flow.datagrams)
    }

    /// Returns the datagrams on a lane, to change them.
    pub(super) fn datagrams_mut(&mut self, lane: LaneId) -> Option<&mut LaneWindow> {
        self.find(lane).map(|flow| &mut flow.datagrams)
    }

    /// Returns whether a report about datagrams should not wait for another message.
    pub(super) fn is_datagram_report_due(&self) -> bool {
        self.flows.iter().any(|flow| flow.datagrams.is_report_due())
    }

    /// Returns the next report about datagrams: the lane, and the bytes that have arrived on it.
    pub(super) fn next_datagram_report(&mut self, now: Instant) -> Option<(LaneId, u64)> {
        let mut flows = self.flows.iter_mut();
        flows.find_map(|flow| Some((flow.lane, flow.datagrams.take_report(now)?)))
    }

    /// Reports everything again, because reports may have been lost with a lane.
    pub(super) fn report_again(&mut self) {
        for flow in &mut self.flows {
            flow.datagrams.report_again();
            flow.reported = 0;
        }
    }

    fn find(&mut self, lane: LaneId) -> Option<&mut LaneFlow> {
        self.flows.iter_mut().find(|flow| flow.lane == lane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: LaneId = LaneId(3);
    const RTT: Duration = Duration::from_millis(100);

    /// Keeps the lane full for this long, on a path that delivers `rate` bytes per second. Returns
    /// the bytes delivered and the most bytes under way in the second half.
    fn run(seconds: u32, rate: u64, special: SpecialLanes) -> (u64, u64) {
        let start = Instant::now();
        let (mut flows, mut delivered, mut most) = (LaneFlows::default(), 0, 0);
        flows.add(LANE);
        flows.set_special(special);
        let mut in_flight = std::collections::VecDeque::new();
        let step = Duration::from_millis(5);
        for tick in 0..seconds * 200 {
            let now = start + step * tick;
            while flows.is_open(LANE) {
                let message = flows.message_limit(LANE).min(16 * 1024) as u64;
                flows.on_sent(LANE, message);
                in_flight.push_back((now + RTT, message));
            }
            let mut budget = rate / 200;
            while budget > 0
                && let Some((at, bytes)) = in_flight.front_mut()
                && *at <= now
            {
                let part = budget.min(*bytes);
                (budget, delivered) = (budget - part, delivered + part);
                *bytes -= part;
                if *bytes == 0 {
                    in_flight.pop_front();
                }
            }
            flows.on_report(now, LANE, delivered, RTT);
            if tick > seconds * 100 {
                most = most.max(flows.flows[0].under_way());
            }
        }
        (delivered, most)
    }

    #[test]
    fn the_window_grows_until_the_lane_is_full_and_holds_little_more() {
        for rate in [200_000_u64, 1_000_000, 12_000_000] {
            let (delivered, most) = run(20, rate, SpecialLanes::default());
            let capacity = rate * 20;
            assert!(delivered > capacity * 8 / 10, "{rate}: {delivered}");
            let path = rate / 10;
            assert!(most <= 6 * path + WINDOW_MIN + 16 * 1024, "{rate}: {most}");
        }
    }

    #[test]
    fn the_home_holds_no_more_than_a_control_lane() {
        let special = SpecialLanes {
            home: Some(LANE),
            ..SpecialLanes::default()
        };
        for rate in [150_000_u64, 1_000_000, 12_000_000] {
            let (_, most) = run(20, rate, special);
            assert!(most <= CONTROL_MAX, "{rate}: {most}");
        }
    }

    #[test]
    fn the_standby_lane_is_full_and_holds_two_round_trips_at_most() {
        let special = SpecialLanes {
            control: None,
            standby: Some(LANE),
            home: None,
        };
        for rate in [150_000_u64, 1_000_000, 12_000_000] {
            let (delivered, most) = run(20, rate, special);
            let capacity = rate * 20;
            assert!(delivered > capacity * 8 / 10, "{rate}: {delivered}");
            let path = rate / 10;
            assert!(most <= 2 * path + STANDBY_MIN, "{rate}: {most}");
        }
    }

    #[test]
    fn a_stalled_lane_gets_no_more_than_its_window() {
        let mut flows = LaneFlows::default();
        flows.add(LANE);
        let mut sent = 0;
        while flows.is_open(LANE) {
            flows.on_sent(LANE, 1000);
            sent += 1000;
        }
        assert!((WINDOW_MIN..WINDOW_MIN + 1000).contains(&sent));
        flows.on_report(Instant::now(), LANE, u64::MAX, RTT);
        assert!(flows.is_open(LANE), "a report never exceeds what was sent");
    }

    #[test]
    fn reports_are_due_after_some_bytes_and_are_repeated_after_a_loss() {
        let mut flows = LaneFlows::default();
        flows.add(LANE);
        flows.on_received(LANE, LANE_REPORT - 1);
        assert!(!flows.is_report_due());
        flows.on_received(LANE, 1);
        assert!(flows.is_report_due());
        assert_eq!(flows.next_report(), Some((LANE, LANE_REPORT)));
        assert_eq!(flows.next_report(), None);
        flows.report_again();
        assert_eq!(flows.next_report(), Some((LANE, LANE_REPORT)));
    }
}
