//! Credit of what is received: how much a stream and the tunnel may take. Owns every number of the receiving ledger; the mux reports what
//! happened through one function for each event. How much the path needs is the affair of `delivery`.

use std::time::{Duration, Instant};

use super::{credit::UNPROVEN_LOAN_MAX, delivery::Delivery, transmit::INTERACTIVE_RESERVE};

/// First and largest size of a window, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// What the peer may send before it is given more.
    pub initial: u64,
    /// What it may grow to.
    pub max: u64,
}

/// A stream's window that is used up within as many round trips, and what both ends need to wake up on a busy machine, is too small for the path.
const STREAM_ROUND_TRIPS: f64 = 1.25;
const STREAM_SCHEDULING: Duration = Duration::from_millis(4);

/// A stream has shown that its application reads when that has consumed more than local sockets take without a reader: as many bytes (Linux takes
/// 170 to 180 KiB with `TCP_NOTSENT_LOWAT` at 16 KiB, measured), and half more than was ever granted at a time until then.
const PROOF: u64 = 192 * 1024;

/// A window of which less than a quarter is used in this time halves: credit that returns is not granted again.
const UNUSED_AFTER: Duration = Duration::from_secs(1);

/// A path with a shorter round trip is full with what any stream may borrow.
const SHORT_PATH: Duration = Duration::from_millis(2);

/// How the windows of streams grow.
#[derive(Debug, Clone, Copy)]
pub struct Growth {
    /// A window that is used up within this time is too small for the path.
    pub within: Duration,
    /// It becomes at least as large at once: what the tunnel grants must be of use to one stream.
    pub at_least: u64,
    /// And never larger.
    pub max: u64,
}

/// What one stream may receive: it protects the others from an application that is slow, and grows for one that is not.
#[derive(Debug)]
pub struct StreamWindow {
    /// The first window: what the stream has in any case.
    floor: u64,
    size: u64,
    consumed: u64,
    limit: u64,
    /// The most that the stream was ever granted beyond what was consumed.
    granted: u64,
    /// The application has shown that it reads.
    is_proven: bool,
    /// The consumed total, and the time, at which the present measure began.
    mark: u64,
    since: Option<Instant>,
}

impl StreamWindow {
    /// A window whose first size the peer already knows.
    pub fn new(size: WindowSize) -> Self {
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

    /// Up to which offset the peer has been told that it may send.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// How many bytes went to the application.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Whether the application has consumed more than its surroundings hold without it.
    pub fn is_proven(&self) -> bool {
        self.is_proven
    }

    /// How many of `exposed` bytes, which the stream holds or may come to hold, are beyond its floor.
    pub fn loan(&self, exposed: u64) -> u64 {
        exposed.saturating_sub(self.floor)
    }

    /// How many of them since it was last seen whether the window is used up.
    pub fn consumed_lately(&self) -> u64 {
        self.consumed.saturating_sub(self.mark)
    }

    /// `bytes` went to the application.
    pub fn consume(&mut self, now: Instant, bytes: u64, growth: &Growth) {
        self.consumed = self.consumed.saturating_add(bytes);
        self.is_proven |= self.consumed
            >= self
                .granted
                .saturating_add(self.granted / 2)
                .saturating_add(PROOF);
        self.grow(now, growth);
    }

    /// Whether the peer should hear at once of the limit that `allowance` permits. A stream that has used little of its floor can wait.
    pub fn is_update_due(&self, allowance: u64) -> bool {
        let gain = self.next_limit(allowance).saturating_sub(self.limit);
        gain > 0 && gain >= self.permitted(allowance) / 4 && self.consumed >= self.floor / 4
    }

    fn grow(&mut self, now: Instant, growth: &Growth) {
        let elapsed = now.saturating_duration_since(*self.since.get_or_insert(now));
        let in_time = elapsed < growth.within;
        // A sender leaves the last of its credit alone when it is too little for a message: three quarters count as all.
        let is_used_up = self.consumed_lately() >= self.size.saturating_sub(self.size / 4);
        if is_used_up && in_time && self.is_proven() {
            self.size = self
                .size
                .saturating_mul(2)
                .max(growth.at_least)
                .min(growth.max)
                .max(self.size);
        }
        if elapsed >= UNUSED_AFTER && self.consumed_lately() < self.size / 4 {
            self.size = (self.size / 2).max(self.floor);
        }
        if is_used_up || !in_time {
            self.mark = self.consumed;
            self.since = Some(now);
        }
    }

    /// Whether `unacknowledged` bytes are enough to tell the peer at once.
    pub fn is_acknowledgement_due(&self, unacknowledged: u64) -> bool {
        unacknowledged >= self.size / 4
    }

    /// The limit to tell the peer now, with a loan of at most `allowance` bytes.
    pub fn advance_limit(&mut self, allowance: u64) -> u64 {
        self.limit = self.limit.max(self.next_limit(allowance));
        self.granted = self.granted.max(self.limit.saturating_sub(self.consumed));
        self.limit
    }

    fn next_limit(&self, allowance: u64) -> u64 {
        self.consumed.saturating_add(self.permitted(allowance))
    }

    /// The window that the stream needs, as far as it may borrow.
    fn permitted(&self, allowance: u64) -> u64 {
        self.size.min(self.floor.saturating_add(allowance))
    }
}

/// What all streams of the tunnel may receive together: what the path needs, counted from what has arrived. Bytes that wait for a slow application take
/// nothing of it. The windows of the streams bound the memory, with the loans of [`CreditPool`](super::credit::CreditPool).
#[derive(Debug)]
pub struct TunnelWindow {
    delivery: Delivery,
    received: u64,
    consumed: u64,
    limit: u64,
}

impl TunnelWindow {
    /// A window whose first size the peer already knows.
    pub fn new(now: Instant, size: WindowSize) -> Self {
        TunnelWindow {
            delivery: Delivery::new(now, size.initial, size.max),
            received: 0,
            consumed: 0,
            limit: size.initial,
        }
    }

    /// Takes `bytes` more from the peer. Says whether they were within the credit.
    pub fn receive(&mut self, now: Instant, bytes: u64) -> bool {
        self.received = self.received.saturating_add(bytes);
        self.delivery.arrived(
            now,
            self.received,
            self.limit.saturating_sub(INTERACTIVE_RESERVE),
        );
        self.received <= self.limit
    }

    /// `bytes` are held no more, because the application took them or nobody will.
    pub fn release(&mut self, bytes: u64) {
        self.consumed = self.consumed.saturating_add(bytes);
    }

    /// What the path needs.
    pub fn delivery(&mut self) -> &mut Delivery {
        &mut self.delivery
    }

    /// How the windows of streams grow, which `max` bounds. That of the tunnel must limit before they do, also after it has doubled.
    pub fn growth(&self, max: u64) -> Growth {
        let within = self
            .delivery
            .least_round_trip()
            .mul_f64(STREAM_ROUND_TRIPS)
            .saturating_add(STREAM_SCHEDULING);
        Growth {
            within,
            at_least: self.delivery.size().saturating_mul(2),
            max,
        }
    }

    /// What one stream needs to fill the path, in bytes: 0 for a path so short that a share of the pool fills it. Three quarters of that are granted at
    /// any time, which is still more than the tunnel grants. What a reader that stops holds of it is lost to the others.
    pub fn path_need(&self) -> u64 {
        let size = self.delivery.size();
        if self.delivery.least_round_trip() < SHORT_PATH {
            0
        } else {
            size.saturating_add(size / 2)
        }
    }

    /// How many bytes have come over the tunnel's life.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// How many bytes are held for the applications.
    pub fn held(&self) -> u64 {
        self.received.saturating_sub(self.consumed)
    }

    /// Up to where the peer has been told that it may send.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether the peer should be told of a new limit: it has advanced by a step.
    pub fn is_update_due(&self) -> bool {
        let gain = self.next_limit().saturating_sub(self.limit);
        gain > 0 && gain >= self.delivery.step()
    }

    /// The limit to tell the peer now.
    pub fn advance_limit(&mut self, now: Instant) -> u64 {
        self.limit = self.limit.max(self.next_limit());
        self.delivery.told(
            now,
            self.received,
            self.limit.saturating_sub(INTERACTIVE_RESERVE),
        );
        self.limit
    }

    fn next_limit(&self) -> u64 {
        self.received
            .saturating_add(self.delivery.size())
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
    const ROUND_TRIP: Duration = Duration::from_millis(100);
    const GROWTH: Growth = Growth {
        within: ROUND_TRIP,
        at_least: 0,
        max: SIZE.max,
    };

    #[test]
    fn a_window_grows_only_when_a_proven_reader_uses_it_up_within_a_round_trip() {
        let start = Instant::now();
        let mut slow = StreamWindow::new(SIZE);
        let mut fast = StreamWindow::new(SIZE);
        let unproven = fast.size;
        for step in 1..=64_u32 {
            slow.consume(start + ROUND_TRIP * step, 32 * 1024, &GROWTH);
            fast.consume(start + ROUND_TRIP * step / 32, 32 * 1024, &GROWTH);
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
    fn a_window_that_is_not_used_shrinks_to_its_floor() {
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
            "what was granted stays granted"
        );
    }

    #[test]
    fn a_limit_advances_by_no_more_than_the_floor_and_the_allowance() {
        let mut window = StreamWindow::new(SIZE);
        assert_eq!(window.advance_limit(0), SIZE.initial);
        assert_eq!(window.advance_limit(1000), SIZE.initial + 1000);
        assert_eq!(
            window.advance_limit(0),
            SIZE.initial + 1000,
            "credit is never taken back"
        );
    }

    #[test]
    fn bytes_that_wait_for_slow_applications_take_nothing_of_the_tunnels_window() {
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
