//! When a link must say something, and when its peer has been silent for too long (PROTOCOL 6.1).
//!
//! Time is an argument; nothing here waits.

use std::time::Duration;

use tokio::time::Instant;

/// The two durations of a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// After this long without having sent anything, a PING goes out.
    pub interval: Duration,
    /// After this long without having received anything, the link ends.
    pub timeout: Duration,
}

impl Default for Timing {
    /// A PING each 20 s, under every idle limit in use; 45 s of silence, two heartbeats and a slow path (PROTOCOL 12).
    fn default() -> Self {
        Timing { interval: Duration::from_secs(20), timeout: Duration::from_secs(45) }
    }
}

impl Timing {
    /// What a role does when the master asks for a heartbeat each `seconds`: never less often than it would by itself.
    #[must_use]
    pub fn asked(self, seconds: u32) -> Self {
        let asked = Duration::from_secs(u64::from(seconds.max(1)));
        Timing { interval: self.interval.min(asked), timeout: self.timeout }
    }
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beat {
    /// Nothing before this instant.
    Wait(Instant),
    /// A PING is to be sent; ask again.
    Ping,
    /// The peer has been silent for too long.
    Silent,
}

/// The heartbeat of one link.
#[derive(Debug)]
pub(super) struct Heartbeat {
    timing: Timing,
    sent: Instant,
    received: Instant,
}

impl Heartbeat {
    pub(super) fn new(timing: Timing, now: Instant) -> Self {
        Heartbeat { timing, sent: now, received: now }
    }

    pub(super) fn sent(&mut self, now: Instant) {
        self.sent = now;
    }

    pub(super) fn received(&mut self, now: Instant) {
        self.received = now;
    }

    /// For how long nothing has been sent or received.
    pub(super) fn idle(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.sent.max(self.received))
    }

    /// What is due now. A [`Beat::Ping`] counts as sent.
    pub(super) fn due(&mut self, now: Instant) -> Beat {
        let silent = self.received + self.timing.timeout;
        let quiet = self.sent + self.timing.interval;
        if now >= silent {
            Beat::Silent
        } else if now >= quiet {
            self.sent = now;
            Beat::Ping
        } else {
            Beat::Wait(silent.min(quiet))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing { interval: Duration::from_secs(20), timeout: Duration::from_secs(45) };

    #[test]
    fn a_quiet_end_pings_once_in_each_interval() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(TIMING, start);
        assert_eq!(heartbeat.due(start), Beat::Wait(start + TIMING.interval));
        let later = start + TIMING.interval;
        assert_eq!(heartbeat.due(later), Beat::Ping);
        assert_eq!(heartbeat.due(later), Beat::Wait(later + TIMING.interval));
    }

    #[test]
    fn an_end_that_sends_does_not_ping() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(TIMING, start);
        heartbeat.sent(start + Duration::from_secs(15));
        assert_eq!(heartbeat.due(start + Duration::from_secs(21)), Beat::Wait(start + Duration::from_secs(35)));
    }

    #[test]
    fn silence_ends_the_link_however_much_was_sent() {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(TIMING, start);
        heartbeat.sent(start + Duration::from_secs(44));
        assert_eq!(heartbeat.due(start + Duration::from_secs(44)), Beat::Wait(start + TIMING.timeout));
        assert_eq!(heartbeat.due(start + TIMING.timeout), Beat::Silent);
        heartbeat.received(start + TIMING.timeout);
        assert_eq!(heartbeat.due(start + TIMING.timeout), Beat::Wait(start + Duration::from_secs(64)));
    }

    #[test]
    fn the_master_can_ask_for_more_heartbeats_but_not_for_fewer() {
        assert_eq!(TIMING.asked(5).interval, Duration::from_secs(5));
        assert_eq!(TIMING.asked(0).interval, Duration::from_secs(1));
        assert_eq!(TIMING.asked(3600), TIMING);
    }
}
