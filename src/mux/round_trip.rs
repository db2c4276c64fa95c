//! The tunnel's round trip, end to end: when a PING leaves, and what its answer tells. What follows from it is the affair of `delivery`.

use std::time::{Duration, Instant};

use super::{delivery::Sample, transmit::INTERACTIVE_RESERVE};

/// While data flows, a PING is sent this often: often enough to follow a path, rare enough to cost nothing.
const PING_INTERVAL: Duration = Duration::from_millis(500);

/// While much arrives, as many bytes bring the next PING forward: it shows whether a queue stands.
const PING_BYTES: u64 = 256 * 1024;
const PING_INTERVAL_MIN: Duration = Duration::from_millis(50);

/// While no more than as many bytes moved either way, an answer waited for nobody.
const QUIET_BYTES: u64 = 16 * 1024;

/// A sender leaves up to this much credit unused, in bytes: it keeps [`INTERACTIVE_RESERVE`], and does not send what would make small messages.
const LEFT_ALONE: u64 = INTERACTIVE_RESERVE + 1024;

/// A PING without an answer for this long was lost with its channel. Until then there is one at a time: a later one would hide the answer to it.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// Measures the round trip.
#[derive(Debug, Default)]
pub struct RoundTrip {
    outstanding: Option<Outstanding>,
    next_token: u64,
    last: Option<Last>,
}

/// A PING that is not answered.
#[derive(Debug)]
struct Outstanding {
    token: u64,
    sent: Instant,
    /// When the peer has sent all that it had been told before that it may, its credit was used up as it answered.
    progress: Progress,
}

/// The last PING.
#[derive(Debug)]
struct Last {
    at: Instant,
    progress: Progress,
}

/// How far the data of all streams has come.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Bytes that have come.
    pub received: u64,
    /// Bytes that the peer was told that it may send.
    pub limit: u64,
    /// Bytes that have left.
    pub sent: u64,
}

impl RoundTrip {
    /// Data or credit is about to be sent: the token of a PING to send along, when one is due. Who waits for the answer to one that leaves after a certain
    /// time gets one in any case.
    pub fn ping_due(
        &mut self,
        now: Instant,
        progress: Progress,
        awaited_since: Option<Instant>,
    ) -> Option<u64> {
        let sent_after = |since| {
            self.outstanding
                .as_ref()
                .is_some_and(|outstanding| outstanding.sent >= since)
        };
        if let Some(since) = awaited_since {
            return if sent_after(since) {
                None
            } else {
                Some(self.start(now, progress))
            };
        }
        let since = |at| now.saturating_duration_since(at);
        let too_early = self.last.as_ref().is_some_and(|last| {
            let much = progress.received.saturating_sub(last.progress.received) >= PING_BYTES;
            since(last.at)
                < if much {
                    PING_INTERVAL_MIN
                } else {
                    PING_INTERVAL
                }
        });
        if too_early
            || self
                .outstanding
                .as_ref()
                .is_some_and(|outstanding| since(outstanding.sent) < LOST_AFTER)
        {
            return None;
        }
        Some(self.start(now, progress))
    }

    /// The token of a PING that is sent in any case. While one is on its way, it is the same, so that the answer to either counts.
    pub fn ping(&mut self, now: Instant, progress: Progress) -> u64 {
        match &self.outstanding {
            Some(outstanding) => outstanding.token,
            None => self.start(now, progress),
        }
    }

    /// The channel that carried the PING is gone: there will be no answer, and the next one need not wait for it.
    pub fn void(&mut self) {
        self.outstanding = None;
        self.last = None;
    }

    fn start(&mut self, now: Instant, progress: Progress) -> u64 {
        let token = self.next_token;
        self.next_token = token.wrapping_add(1) & super::varint::MAX;
        self.last = Some(Last { at: now, progress });
        self.outstanding = Some(Outstanding {
            token,
            sent: now,
            progress,
        });
        token
    }

    /// A PONG arrived; one that nobody asked for is ignored.
    pub fn pong(&mut self, now: Instant, token: u64, progress: Progress) -> Option<Sample> {
        let Outstanding {
            sent,
            progress: before,
            ..
        } = self
            .outstanding
            .take_if(|outstanding| outstanding.token == token)?;
        // What is too little for a message is left alone.
        let used_up = progress.received.saturating_add(LEFT_ALONE) >= before.limit;
        let left = progress.sent.saturating_sub(before.sent);
        let came = progress.received.saturating_sub(before.received);
        let (both_ways, quiet) = (left > came / 4, left.max(came) < QUIET_BYTES);
        Some(Sample {
            sent,
            round_trip: now.saturating_duration_since(sent),
            used_up,
            both_ways,
            quiet,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const NOTHING: Progress = Progress {
        received: 0,
        limit: 0,
        sent: 0,
    };

    #[test]
    fn a_round_trip_longer_than_the_interval_of_pings_is_measured() {
        let start = Instant::now();
        let path = Duration::from_millis(1200);
        let mut round_trip = RoundTrip::default();
        let (mut pongs, mut samples) = (VecDeque::new(), Vec::new());
        for step in 0..100 {
            let now = start + Duration::from_millis(100) * step;
            while let Some((_, token)) = pongs.pop_front_if(|(at, _)| *at <= now) {
                samples.extend(
                    round_trip
                        .pong(now, token, NOTHING)
                        .map(|sample| sample.round_trip),
                );
            }
            pongs.extend(
                round_trip
                    .ping_due(now, NOTHING, None)
                    .map(|token| (now + path, token)),
            );
        }
        assert!(
            samples.len() > 5 && samples.iter().all(|sample| *sample == path),
            "{samples:?}"
        );
    }

    #[test]
    fn a_ping_that_was_lost_with_its_channel_is_sent_again() {
        let start = Instant::now();
        let mut round_trip = RoundTrip::default();
        assert!(round_trip.ping_due(start, NOTHING, None).is_some());
        assert!(
            round_trip
                .ping_due(start + PING_INTERVAL, NOTHING, None)
                .is_none(),
            "one is on its way"
        );
        assert!(
            round_trip
                .ping_due(start + LOST_AFTER, NOTHING, None)
                .is_some()
        );
    }
}
