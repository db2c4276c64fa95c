//! Receive windows: how much a stream and the tunnel may receive. This module owns all numbers of
//! the receiving ledger; the mux reports each event through one function. `bandwidth` decides how
//! much the path needs.

use std::time::{Duration, Instant};

use super::bandwidth::BandwidthEstimator;

/// The tunnel credit that a sender reserves for interactive streams, in bytes: those with at most
/// half of it unacknowledged. The receiver grants it in addition to what the path needs.
pub(super) const INTERACTIVE_RESERVE: u64 = 4 * 1024;

/// A sender holds too much credit if it is this many times what the path needs. The sender got it
/// when the path was faster, or before its rate was known.
const EXCESS_CREDIT: u64 = 4;

/// The credit for each of several lanes, in bytes: what a slow one holds in its sockets and at the
/// relay while it waits for a segment to be sent again.
const LANE_CREDIT: u64 = 512 * 1024;

/// The largest loan of an unproven stream, in bytes. With its floor this is 256 KiB.
pub(super) const UNPROVEN_LOAN_MAX: u64 = 240 * 1024;

/// The initial and the largest size of a window, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// The credit that the peer has at first.
    pub initial: u64,
    /// The limit of the window's growth.
    pub max: u64,
}

/// A stream's window is too small for the path if it is used up within this many round trips, plus
/// the time that both ends need to be scheduled on a busy machine.
const STREAM_RTTS: f64 = 1.25;
const STREAM_SCHEDULING: Duration = Duration::from_millis(4);

/// With several lanes, the bytes of a stream wait for the lane that repeats a lost segment: for a
/// few round trips, or for a timeout of TCP. The data of the other lanes is in the
/// window too, so a window that is used up within this time is too small.
const LANES_RTTS: f64 = 4.0;
const LANES_TIMEOUT: Duration = Duration::from_millis(200);

/// A stream is proven when its application has consumed more than local sockets hold without a
/// reader. The threshold is this many bytes (Linux holds 170 to 180 KiB with `TCP_NOTSENT_LOWAT` at
/// 16 KiB, measured) plus 1½ times the largest credit granted at a time.
const PROVEN_BYTES: u64 = 192 * 1024;

/// A window halves if less than a quarter of it is used in this time. Credit that returns is then
/// not granted again.
const UNUSED_AFTER: Duration = Duration::from_secs(1);

/// On a path with a shorter round trip, the credit that any stream may borrow is sufficient.
const SHORT_PATH: Duration = Duration::from_millis(2);

/// The rule by which the windows of streams grow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Growth {
    /// A window that is used up within this time is too small for the path.
    pub within: Duration,
    /// The minimum size after growth. One stream alone must be able to use the tunnel window.
    pub at_least: u64,
    /// The maximum size after growth.
    pub max: u64,
}

/// The receive window of one stream. It protects the other streams from a slow application, and
/// grows for a fast one.
#[derive(Debug)]
pub(super) struct StreamWindow {
    /// The initial window, which the stream always has.
    floor: u64,
    size: u64,
    consumed: u64,
    limit: u64,
    /// The largest credit that the stream ever had beyond the consumed bytes.
    granted: u64,
    /// Whether the application has proved that it reads.
    is_proven: bool,
    /// The consumed total and the time at the start of the current measurement.
    mark: u64,
    since: Option<Instant>,
}

impl StreamWindow {
    /// Creates a window whose initial size the peer already knows.
    pub(super) fn new(size: WindowSize) -> Self {
        let unproven = size
            .initial
            .saturating_add(UNPROVEN_LOAN_MAX)
            .min(size.max)
            .max(size.initial);
        StreamWindow {
            floor: size.initial,
            size: unproven,
            consumed: 0,
            limit: size.initial,
            granted: size.initial,
            is_proven: false,
            mark: 0,
            since: None,
        }
    }

    /// Returns the offset up to which the peer may send.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Returns how many bytes the application has consumed.
    pub(super) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Returns whether the application has consumed more than local sockets hold without a reader.
    pub(super) fn is_proven(&self) -> bool {
        self.is_proven
    }

    /// Returns how many of `exposed` bytes, which the stream holds or may come to hold, exceed its
    /// floor.
    pub(super) fn loan(&self, exposed: u64) -> u64 {
        exposed.saturating_sub(self.floor)
    }

    /// Returns how many bytes the application has consumed since the current measurement began.
    pub(super) fn consumed_since_mark(&self) -> u64 {
        self.consumed.saturating_sub(self.mark)
    }

    /// Records that the application consumed `bytes`.
    pub(super) fn consume(&mut self, now: Instant, bytes: u64, growth: &Growth) {
        self.consumed = self.consumed.saturating_add(bytes);
        self.is_proven |= self.consumed
            >= self
                .granted
                .saturating_add(self.granted / 2)
                .saturating_add(PROVEN_BYTES);
        self.grow(now, growth);
    }

    /// Returns whether to send the limit that `allowance` permits at once. A stream that has used
    /// little of its floor can wait.
    pub(super) fn is_update_due(&self, allowance: u64) -> bool {
        let gain = self.next_limit(allowance).saturating_sub(self.limit);
        gain > 0 && gain >= self.permitted(allowance) / 4 && self.consumed >= self.floor / 4
    }

    fn grow(&mut self, now: Instant, growth: &Growth) {
        let elapsed = now.saturating_duration_since(*self.since.get_or_insert(now));
        let in_time = elapsed < growth.within;
        // A sender leaves the last credit unused if it is too small for a message. Three quarters
        // therefore count as all.
        let is_exhausted = self.consumed_since_mark() >= self.size.saturating_sub(self.size / 4);
        if is_exhausted && in_time && self.is_proven() {
            self.size = self
                .size
                .saturating_mul(2)
                .max(growth.at_least)
                .min(growth.max)
                .max(self.size);
        }
        if elapsed >= UNUSED_AFTER && self.consumed_since_mark() < self.size / 4 {
            self.size = (self.size / 2).max(self.floor);
        }
        if is_exhausted || !in_time {
            self.mark = self.consumed;
            self.since = Some(now);
        }
    }

    /// Returns whether `unacknowledged` bytes justify an immediate acknowledgement.
    pub(super) fn is_acknowledgement_due(&self, unacknowledged: u64) -> bool {
        unacknowledged >= self.size / 4
    }

    /// Advances the limit and returns it, for a loan of at most `allowance` bytes. The caller sends
    /// it.
    pub(super) fn advance_limit(&mut self, allowance: u64) -> u64 {
        self.limit = self.limit.max(self.next_limit(allowance));
        self.granted = self.granted.max(self.limit.saturating_sub(self.consumed));
        self.limit
    }

    fn next_limit(&self, allowance: u64) -> u64 {
        self.consumed.saturating_add(self.permitted(allowance))
    }

    /// The window that the stream needs, as far as its allowance permits.
    fn permitted(&self, allowance: u64) -> u64 {
        self.size.min(self.floor.saturating_add(allowance))
    }
}

/// The receive window of all streams of the tunnel: what the path needs, counted from the received
/// bytes. Bytes that wait for a slow application do not reduce it. Memory is bounded by the windows
/// of the streams, together with the loans of [`CreditPool`](super::credit::CreditPool).
#[derive(Debug)]
pub(super) struct TunnelWindow {
    bandwidth: BandwidthEstimator,
    received: u64,
    consumed: u64,
    limit: u64,
    /// Whether the limit may have been lost with its lane.
    is_limit_lost: bool,
    /// The window that several lanes need, whatever the path as a whole delivers.
    lanes_need: u64,
    max: u64,
}

impl TunnelWindow {
    /// Creates a window whose initial size the peer already knows.
    pub(super) fn new(now: Instant, size: WindowSize) -> Self {
        TunnelWindow {
            bandwidth: BandwidthEstimator::new(now, size.initial, size.max),
            received: 0,
            consumed: 0,
            limit: size.initial,
            is_limit_lost: false,
            lanes_need: 0,
            max: size.max,
        }
    }

    /// Sets the number of lanes. A slow one among several must not take the credit of the others.
    pub(super) fn set_lanes(&mut self, lanes: usize) {
        self.lanes_need = if lanes > 1 {
            LANE_CREDIT.saturating_mul(lanes as u64).min(self.max)
        } else {
            0
        };
    }

    /// Returns the window, in bytes.
    fn size(&self) -> u64 {
        self.bandwidth.size().max(self.lanes_need)
    }

    /// Records `bytes` from the peer. Returns whether they were within the credit.
    pub(super) fn receive(&mut self, now: Instant, bytes: u64) -> bool {
        self.received = self.received.saturating_add(bytes);
        self.bandwidth.on_received(
            now,
            self.received,
            self.limit.saturating_sub(INTERACTIVE_RESERVE),
        );
        self.received <= self.limit
    }

    /// Records `bytes` that count as received and will not arrive, because a RESET overtook them.
    /// They say nothing about the path. Returns whether they were within the credit.
    pub(super) fn skip(&mut self, bytes: u64) -> bool {
        self.received = self.received.saturating_add(bytes);
        self.bandwidth.on_skipped(bytes);
        self.received <= self.limit
    }

    /// Records that `bytes` are not held any more, because they were consumed or dropped.
    pub(super) fn release(&mut self, bytes: u64) {
        self.consumed = self.consumed.saturating_add(bytes);
    }

    /// Returns the estimator of what the path needs.
    pub(super) fn bandwidth(&mut self) -> &mut BandwidthEstimator {
        &mut self.bandwidth
    }

    /// Returns the recent minimum round trip of the path.
    pub(super) fn min_rtt(&self) -> Duration {
        self.bandwidth.min_rtt()
    }

    /// Returns the growth rule for the windows of streams, which `max` bounds. The tunnel's window
    /// must limit before they do, even after it has doubled.
    pub(super) fn growth(&self, max: u64) -> Growth {
        let (round_trips, extra) = if self.lanes_need > 0 {
            (LANES_RTTS, LANES_TIMEOUT)
        } else {
            (STREAM_RTTS, STREAM_SCHEDULING)
        };
        let within = self
            .bandwidth
            .min_rtt()
            .mul_f64(round_trips)
            .saturating_add(extra);
        Growth {
            within,
            at_least: self.size().saturating_mul(2),
            max,
        }
    }

    /// Returns what one stream needs to fill the path, in bytes, or 0 if a share of the pool is
    /// enough for a short path. Three quarters of it are granted at any time, which still exceeds
    /// the tunnel's window. A reader that stops denies the part that it holds to the others.
    pub(super) fn path_need(&self) -> u64 {
        let size = self.size();
        if self.bandwidth.min_rtt() < SHORT_PATH {
            0
        } else {
            size.saturating_add(size / 2)
        }
    }

    /// Returns the largest loan of a stream. Credit of the tunnel cannot be revoked. While the sender
    /// holds too much of it, the windows of the streams limit what a slow path queues.
    pub(super) fn loan_max(&self) -> u64 {
        let size = self.size();
        let needed = size.saturating_add(INTERACTIVE_RESERVE);
        let credit = self.limit.saturating_sub(self.received);
        if self.bandwidth.is_starting() || credit <= needed.saturating_mul(EXCESS_CREDIT) {
            u64::MAX
        } else {
            size.saturating_add(size / 2)
        }
    }

    /// Returns how many bytes the tunnel has received in its life.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Returns how many bytes are held for applications.
    pub(super) fn held(&self) -> u64 {
        self.received.saturating_sub(self.consumed)
    }

    /// Returns the sum up to which the peer may send.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Sends the limit again, because it may have been lost with its lane.
    pub(super) fn send_limit_again(&mut self) {
        self.is_limit_lost = true;
    }

    /// Returns whether the limit has advanced by a step, so that the peer needs it.
    pub(super) fn is_update_due(&self) -> bool {
        if self.is_limit_lost {
            return true;
        }
        let gain = self.next_limit().saturating_sub(self.limit);
        gain > 0 && gain >= self.bandwidth.step()
    }

    /// Advances the limit and returns it. The caller sends it.
    pub(super) fn advance_limit(&mut self, now: Instant) -> u64 {
        self.is_limit_lost = false;
        self.limit = self.limit.max(self.next_limit());
        self.bandwidth.on_limit_sent(
            now,
            self.received,
            self.limit.saturating_sub(INTERACTIVE_RESERVE),
        );
        self.limit
    }

    fn next_limit(&self) -> u64 {
        self.received
            .saturating_add(self.size())
            .saturating_add(INTERACTIVE_RESERVE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: WindowSize = WindowSize {
        initial: 16 << 10,
        max: 1 << 20,
    };
    const RTT: Duration = Duration::from_millis(100);
    const GROWTH: Growth = Growth {
        within: RTT,
        at_least: 0,
        max: SIZE.max,
    };

    #[test]
    fn window_grows_only_for_a_proven_reader_within_a_round_trip() {
        let start = Instant::now();
        let mut slow = StreamWindow::new(SIZE);
        let mut fast = StreamWindow::new(SIZE);
        let unproven = fast.size;
        for step in 1..=64_u32 {
            slow.consume(start + RTT * step, 32 * 1024, &GROWTH);
            fast.consume(start + RTT * step / 32, 32 * 1024, &GROWTH);
            fast.advance_limit(u64::MAX);
            assert!(
                fast.is_proven() || fast.size == unproven,
                "no growth without proof"
            );
        }
        assert_eq!(slow.advance_limit(u64::MAX), (2 << 20) + unproven);
        assert_eq!(fast.advance_limit(u64::MAX), (2 << 20) + SIZE.max);
    }

    #[test]
    fn unused_window_shrinks_to_its_floor() {
        let start = Instant::now();
        let mut window = StreamWindow::new(SIZE);
        let before = window.advance_limit(u64::MAX);
        for second in 0..20_u32 {
            window.consume(start + Duration::from_secs(2) * second, 1000, &GROWTH);
        }
        assert_eq!(window.size, SIZE.initial);
        assert_eq!(
            window.advance_limit(u64::MAX),
            before,
            "granted credit stays"
        );
    }

    #[test]
    fn limit_advances_by_at_most_floor_and_allowance() {
        let mut window = StreamWindow::new(SIZE);
        assert_eq!(window.advance_limit(0), SIZE.initial);
        assert_eq!(window.advance_limit(1000), SIZE.initial + 1000);
        assert_eq!(
            window.advance_limit(0),
            SIZE.initial + 1000,
            "credit is never revoked"
        );
    }

    #[test]
    fn unread_bytes_do_not_reduce_the_tunnel_window() {
        let now = Instant::now();
        let mut window = TunnelWindow::new(now, SIZE);
        for round in 1..=100 {
            assert!(window.receive(now, SIZE.initial));
            assert_eq!(
                window.advance_limit(now),
                (round + 1) * SIZE.initial + INTERACTIVE_RESERVE
            );
        }
        assert!(!window.receive(now, SIZE.initial + INTERACTIVE_RESERVE + 1));
    }
}
