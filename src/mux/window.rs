//! Credit of what is received: how much a stream and the tunnel may take. Owns every number of the receiving ledger; the mux reports what
//! happened through one function for each event. How much the path needs is the affair of `delivery`.

use std::time::{Duration, Instant};

use super::delivery::Delivery;

/// First and largest size of a window, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// What the peer may send before it is given more.
    pub initial: u64,
    /// What it may grow to.
    pub max: u64,
}

/// Less new credit than this many bytes is not told: it would make small messages (the silly window of RFC 1122).
const GAIN_MIN: u64 = 1024;

/// A stream's window that is used up within as many round trips, and what both ends need to wake up on a busy machine, is too small for the path.
const STREAM_ROUND_TRIPS: f64 = 1.25;
const STREAM_SCHEDULING: Duration = Duration::from_millis(4);

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

/// What one stream may receive: it protects the others from an application that is slow, and doubles for one that is not.
#[derive(Debug)]
pub struct StreamWindow {
    size: u64,
    consumed: u64,
    limit: u64,
    /// The consumed total, and the time, at which the present measure began.
    mark: u64,
    since: Option<Instant>,
}

impl StreamWindow {
    /// A window whose first size the peer already knows.
    pub fn new(size: WindowSize) -> Self {
        StreamWindow { size: size.initial, consumed: 0, limit: size.initial, mark: 0, since: None }
    }

    /// Up to which offset the peer has been told that it may send.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// How many bytes went to the application.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// How many of them since it was last seen whether the window is used up.
    pub fn consumed_lately(&self) -> u64 {
        self.consumed.saturating_sub(self.mark)
    }

    /// `bytes` went to the application. Says whether the peer should hear of it at once.
    pub fn consume(&mut self, now: Instant, bytes: u64, growth: &Growth) -> bool {
        self.consumed = self.consumed.saturating_add(bytes);
        self.grow(now, growth);
        self.next_limit().saturating_sub(self.limit) >= self.size / 4
    }

    fn grow(&mut self, now: Instant, growth: &Growth) {
        let since = *self.since.get_or_insert(now);
        let in_time = now.saturating_duration_since(since) < growth.within;
        // A sender leaves the last of its credit alone when it is too little for a message: three quarters count as all.
        let is_used_up = self.consumed_lately() >= self.size.saturating_sub(self.size / 4);
        if is_used_up && in_time {
            self.size = self.size.saturating_mul(2).max(growth.at_least).min(growth.max).max(self.size);
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

    /// The limit to tell the peer now.
    pub fn advance_limit(&mut self) -> u64 {
        self.limit = self.limit.max(self.next_limit());
        self.limit
    }

    fn next_limit(&self) -> u64 {
        self.consumed.saturating_add(self.size)
    }
}

/// What all streams of the tunnel may receive together: what the path needs, counted from what has arrived. Bytes that wait for a slow application do not
/// take the credit of the others, as long as all that waits stays under the largest window: `received <= consumed + max` holds always, and bounds the memory.
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
        TunnelWindow { delivery: Delivery::new(now, size.initial, size.max), received: 0, consumed: 0, limit: size.initial }
    }

    /// Takes `bytes` more from the peer. Says whether they were within the credit.
    pub fn receive(&mut self, now: Instant, bytes: u64) -> bool {
        self.received = self.received.saturating_add(bytes);
        self.delivery.arrived(now, self.received, self.limit);
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
        let within = self.delivery.least_round_trip().mul_f64(STREAM_ROUND_TRIPS).saturating_add(STREAM_SCHEDULING);
        Growth { within, at_least: self.delivery.size().saturating_mul(2), max }
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

    /// The largest that [`TunnelWindow::held`] can become.
    pub fn max(&self) -> u64 {
        self.delivery.max()
    }

    /// Whether the peer should be told of a new limit: a step of the window, or a quarter of the room that slow applications leave when that is
    /// less, so that the others can go on in it.
    pub fn is_update_due(&self) -> bool {
        let gain = self.next_limit().saturating_sub(self.limit);
        gain > 0 && gain >= self.step()
    }

    fn step(&self) -> u64 {
        let (size, room) = (self.delivery.size(), self.room());
        if room < size { (room / 4).max(GAIN_MIN.min(size / 4)) } else { self.delivery.step() }
    }

    /// The limit to tell the peer now.
    pub fn advance_limit(&mut self, now: Instant) -> u64 {
        self.limit = self.limit.max(self.next_limit());
        self.delivery.told(now, self.received, self.limit);
        self.limit
    }

    fn next_limit(&self) -> u64 {
        self.received.saturating_add(self.delivery.size().min(self.room()))
    }

    /// What may be held beside what is held.
    fn room(&self) -> u64 {
        self.delivery.max().saturating_sub(self.held())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: WindowSize = WindowSize { initial: 1000, max: 4000 };
    const ROUND_TRIP: Duration = Duration::from_millis(100);
    const GROWTH: Growth = Growth { within: ROUND_TRIP, at_least: 0, max: SIZE.max };

    #[test]
    fn a_window_grows_only_when_it_is_used_up_within_a_round_trip() {
        let start = Instant::now();
        let mut slow = StreamWindow::new(SIZE);
        let mut fast = StreamWindow::new(SIZE);
        for step in 1..=40_u32 {
            slow.consume(start + ROUND_TRIP * step, 250, &GROWTH);
            fast.consume(start + ROUND_TRIP * step / 32, 250, &GROWTH);
        }
        assert_eq!(slow.advance_limit(), 10_000 + 1000);
        assert_eq!(fast.advance_limit(), 10_000 + 4000);
    }

    #[test]
    fn bytes_that_wait_for_a_slow_application_leave_the_others_their_credit() {
        let now = Instant::now();
        let mut window = TunnelWindow::new(now, SIZE);
        assert!(window.receive(now, 900));
        assert_eq!(window.advance_limit(now), 1900, "what is held does not count while there is room");
        assert!(window.receive(now, 1000));
        assert!(window.receive(now, 0) && window.advance_limit(now) == 2900);
        assert!(window.receive(now, 1000));
        assert_eq!(window.advance_limit(now), 3900);
        assert!(window.receive(now, 1000));
        assert_eq!(window.advance_limit(now), 4000, "never beyond what may be held in all");
        assert!(!window.receive(now, 101));
    }
}
