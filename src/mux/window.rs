//! Credit of what is received: how much a stream and the tunnel may take, and how that grows. Owns every number of the receiving
//! ledger; the mux reports what happened through one function for each event.

use std::time::{Duration, Instant};

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

/// A window that doubles while it is used up faster than the path's round trip.
#[derive(Debug)]
struct Growth {
    size: u64,
    max: u64,
    /// The consumed total, and the time, at which the present measure began.
    mark: u64,
    since: Option<Instant>,
}

impl Growth {
    fn new(size: WindowSize) -> Self {
        Growth { size: size.initial, max: size.max.max(size.initial), mark: 0, since: None }
    }

    /// `consumed` bytes in all are gone to the application by `now`.
    fn consumed(&mut self, now: Instant, consumed: u64, window_time: Duration) {
        let since = *self.since.get_or_insert(now);
        let elapsed = now.saturating_duration_since(since);
        // A sender leaves the last of its credit alone when it is too little for a message: three quarters count as all.
        if consumed.saturating_sub(self.mark) >= self.size.saturating_sub(self.size / 4) {
            if elapsed < window_time {
                self.size = self.size.saturating_mul(2).min(self.max);
            }
            self.mark = consumed;
            self.since = Some(now);
        } else if elapsed > window_time {
            self.mark = consumed;
            self.since = Some(now);
        }
    }
}

/// What one stream may receive.
#[derive(Debug)]
pub struct StreamWindow {
    growth: Growth,
    consumed: u64,
    limit: u64,
}

impl StreamWindow {
    /// A window whose first size the peer already knows.
    pub fn new(size: WindowSize) -> Self {
        StreamWindow { growth: Growth::new(size), consumed: 0, limit: size.initial }
    }

    /// Up to which offset the peer has been told that it may send.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// How many bytes went to the application.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// `bytes` went to the application. Says whether the peer should hear of it at once.
    pub fn consume(&mut self, now: Instant, bytes: u64, window_time: Duration) -> bool {
        self.consumed = self.consumed.saturating_add(bytes);
        self.growth.consumed(now, self.consumed, window_time);
        self.next_limit().saturating_sub(self.limit) >= self.growth.size / 4
    }

    /// Whether `unacknowledged` bytes are enough to tell the peer at once.
    pub fn is_acknowledgement_due(&self, unacknowledged: u64) -> bool {
        unacknowledged >= self.growth.size / 4
    }

    /// The limit to tell the peer now.
    pub fn advance_limit(&mut self) -> u64 {
        self.limit = self.limit.max(self.next_limit());
        self.limit
    }

    fn next_limit(&self) -> u64 {
        self.consumed.saturating_add(self.growth.size)
    }
}

/// What all streams of the tunnel may receive together. Bytes that wait for a slow application do not take the credit of the others, as long as
/// all that waits stays under the largest window: `received <= consumed + max` holds always, and bounds the memory.
#[derive(Debug)]
pub struct TunnelWindow {
    growth: Growth,
    received: u64,
    consumed: u64,
    limit: u64,
}

impl TunnelWindow {
    /// A window whose first size the peer already knows.
    pub fn new(size: WindowSize) -> Self {
        TunnelWindow { growth: Growth::new(size), received: 0, consumed: 0, limit: size.initial }
    }

    /// Takes `bytes` more from the peer. Says whether they were within the credit.
    pub fn receive(&mut self, bytes: u64) -> bool {
        self.received = self.received.saturating_add(bytes);
        self.received <= self.limit
    }

    /// `bytes` are held no more, because the application took them or nobody will.
    pub fn release(&mut self, now: Instant, bytes: u64, window_time: Duration) {
        self.consumed = self.consumed.saturating_add(bytes);
        self.growth.consumed(now, self.consumed, window_time);
    }

    /// How many bytes have come over the tunnel's life.
    #[cfg(test)]
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
        self.growth.max
    }

    /// Whether the peer should be told of a new limit: a quarter of the window, or of the room that slow applications leave when that is
    /// less, so that the others can go on in it.
    pub fn is_update_due(&self) -> bool {
        let size = self.growth.size;
        let gain = self.next_limit().saturating_sub(self.limit);
        gain > 0 && gain >= (size.min(self.room()) / 4).max(GAIN_MIN.min(size / 4))
    }

    /// The limit to tell the peer now.
    pub fn advance_limit(&mut self) -> u64 {
        self.limit = self.limit.max(self.next_limit());
        self.limit
    }

    fn next_limit(&self) -> u64 {
        self.received.saturating_add(self.growth.size.min(self.room()))
    }

    /// What may be held beside what is held.
    fn room(&self) -> u64 {
        self.growth.max.saturating_sub(self.held())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: WindowSize = WindowSize { initial: 1000, max: 4000 };
    const ROUND_TRIP: Duration = Duration::from_millis(100);

    #[test]
    fn a_window_grows_only_when_it_is_used_up_within_a_round_trip() {
        let start = Instant::now();
        let mut slow = StreamWindow::new(SIZE);
        let mut fast = StreamWindow::new(SIZE);
        for step in 1..=40_u32 {
            slow.consume(start + ROUND_TRIP * step, 250, ROUND_TRIP);
            fast.consume(start + ROUND_TRIP * step / 32, 250, ROUND_TRIP);
        }
        assert_eq!(slow.advance_limit(), 10_000 + 1000);
        assert_eq!(fast.advance_limit(), 10_000 + 4000);
    }

    #[test]
    fn bytes_that_wait_for_a_slow_application_leave_the_others_their_credit() {
        let mut window = TunnelWindow::new(SIZE);
        assert!(window.receive(900));
        assert_eq!(window.advance_limit(), 1900, "what is held does not count while there is room");
        assert!(window.receive(1000));
        assert!(window.receive(0) && window.advance_limit() == 2900);
        assert!(window.receive(1000));
        assert_eq!(window.advance_limit(), 3900);
        assert!(window.receive(1000));
        assert_eq!(window.advance_limit(), 4000, "never beyond what may be held in all");
        assert!(!window.receive(101));
    }
}
