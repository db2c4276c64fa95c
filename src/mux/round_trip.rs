//! The tunnel's round trip, end to end, measured with PING while data flows.

use std::time::{Duration, Instant};

/// While data flows, a PING is sent this often: often enough to follow a path, rare enough to cost nothing.
const PING_INTERVAL: Duration = Duration::from_millis(500);

/// Before the first measurement: a path across a continent. Too long only lets a window grow a little early.
const INITIAL: Duration = Duration::from_millis(50);

/// What both ends need to wake up and answer on a busy machine, on top of the path. Without it the windows of a very short path would
/// be too small for the tasks that fill them to be scheduled in time.
const SCHEDULING: Duration = Duration::from_millis(4);

/// The least round trip is forgotten after one to two of these, so that a path that became longer is noticed.
const LEAST_LIFETIME: Duration = Duration::from_secs(10);

/// A PING without an answer for this long was lost with its channel. Until then there is one at a time: a later one would hide the answer to it.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// Measures the round trip.
#[derive(Debug)]
pub struct RoundTrip {
    outstanding: Option<(u64, Instant)>,
    next_token: u64,
    last_ping: Option<Instant>,
    least: Option<Duration>,
    least_before: Option<Duration>,
    bucket_since: Instant,
}

impl RoundTrip {
    /// Nothing measured yet.
    pub fn new(now: Instant) -> Self {
        RoundTrip { outstanding: None, next_token: 0, last_ping: None, least: None, least_before: None, bucket_since: now }
    }

    /// Data is about to be sent: the token of a PING to send along, when one is due.
    pub fn ping_due(&mut self, now: Instant) -> Option<u64> {
        let since = |at| now.saturating_duration_since(at);
        let too_early = self.last_ping.is_some_and(|at| since(at) < PING_INTERVAL);
        if too_early || self.outstanding.is_some_and(|(_, at)| since(at) < LOST_AFTER) {
            return None;
        }
        Some(self.start(now))
    }

    /// The token of a PING that is sent in any case. While one is on its way, it is the same, so that the answer to either counts.
    pub fn ping(&mut self, now: Instant) -> u64 {
        match self.outstanding {
            Some((token, _)) => token,
            None => self.start(now),
        }
    }

    /// The channel that carried the PING is gone: there will be no answer, and the next one need not wait for it.
    pub fn void(&mut self) {
        self.outstanding = None;
        self.last_ping = None;
    }

    fn start(&mut self, now: Instant) -> u64 {
        let token = self.next_token;
        self.next_token = token.wrapping_add(1) & super::varint::MAX;
        self.last_ping = Some(now);
        self.outstanding = Some((token, now));
        token
    }

    /// A PONG arrived; one that nobody asked for is ignored.
    pub fn pong(&mut self, now: Instant, token: u64) {
        let Some((_, at)) = self.outstanding.take_if(|(expected, _)| *expected == token) else { return };
        let sample = now.saturating_duration_since(at);
        if now.saturating_duration_since(self.bucket_since) > LEAST_LIFETIME {
            self.least_before = self.least.take();
            self.bucket_since = now;
        }
        self.least = Some(self.least.map_or(sample, |least| least.min(sample)));
    }

    /// The least round trip of late, if any was measured.
    fn least(&self) -> Option<Duration> {
        match (self.least, self.least_before) {
            (Some(now), Some(before)) => Some(now.min(before)),
            (now, before) => now.or(before),
        }
    }

    /// A window that is used up within this time is too small for the path: one and a quarter round trips, and what the ends need.
    pub fn window_time(&self) -> Duration {
        let round_trip = self.least().unwrap_or(INITIAL);
        round_trip.saturating_mul(5).checked_div(4).unwrap_or(round_trip).saturating_add(SCHEDULING)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn a_round_trip_longer_than_the_interval_of_pings_is_measured() {
        let start = Instant::now();
        let path = Duration::from_millis(1200);
        let mut round_trip = RoundTrip::new(start);
        let mut pongs = VecDeque::new();
        for step in 0..100 {
            let now = start + Duration::from_millis(100) * step;
            while let Some((_, token)) = pongs.pop_front_if(|(at, _)| *at <= now) {
                round_trip.pong(now, token);
            }
            pongs.extend(round_trip.ping_due(now).map(|token| (now + path, token)));
        }
        assert_eq!(round_trip.least(), Some(path));
    }

    #[test]
    fn a_ping_that_was_lost_with_its_channel_is_sent_again() {
        let start = Instant::now();
        let mut round_trip = RoundTrip::new(start);
        assert!(round_trip.ping_due(start).is_some());
        assert!(round_trip.ping_due(start + PING_INTERVAL).is_none(), "one is on its way");
        assert!(round_trip.ping_due(start + LOST_AFTER).is_some());
    }
}
