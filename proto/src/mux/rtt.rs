//! Measures the end-to-end round trip of the tunnel: decides when to send a PING, and evaluates its
//! answer. `bandwidth` acts on the samples.

use std::time::{Duration, Instant};

use super::{bandwidth::RttSample, window::INTERACTIVE_RESERVE};

/// The interval of PINGs while data flows: short enough to follow a path, long enough to cost
/// nothing.
const PING_INTERVAL: Duration = Duration::from_millis(500);

/// While much data arrives, this many bytes trigger the next PING early, after
/// [`PING_INTERVAL_MIN`] at the soonest. It shows whether the path has a queue.
const PING_BYTES: u64 = 256 * 1024;
const PING_INTERVAL_MIN: Duration = Duration::from_millis(50);

/// Fewer bytes than this cause no queue in the direction in which this end sends.
const RETURN_QUEUE_MIN: u64 = 2 * 1024;

/// While fewer bytes of datagrams moved in both directions, they caused no queue either. The smallest
/// window of datagrams is below it.
const QUIET_DATAGRAM_BYTES: u64 = 32 * 1024;

/// The credit that a sender may leave unused, in bytes: [`INTERACTIVE_RESERVE`], and what would
/// only make small messages.
const UNUSED_CREDIT_MAX: u64 = INTERACTIVE_RESERVE + 1024;

/// A PING without an answer for this long was lost with its channel. Until then only one PING is
/// outstanding, because a later one would hide the answer to the earlier one.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Schedules PINGs and measures the round trip.
#[derive(Debug, Default)]
pub(super) struct RttProber {
    outstanding: Option<OutstandingPing>,
    next_token: u64,
    /// The last PING.
    last: Option<ProgressMark>,
    /// The last answer.
    answered: Option<ProgressMark>,
}

/// A PING without an answer.
#[derive(Debug)]
struct OutstandingPing {
    token: u64,
    sent: Instant,
    /// The progress at the time of the PING. If the peer has sent everything up to this limit when
    /// it answers, its credit was used up.
    progress: FlowProgress,
}

/// The progress at a time.
#[derive(Debug, Clone, Copy)]
struct ProgressMark {
    at: Instant,
    progress: FlowProgress,
}

/// The progress of the data of all streams.
#[derive(Debug, Clone, Copy)]
pub(super) struct FlowProgress {
    /// The number of received bytes.
    pub received: u64,
    /// The number of bytes that the peer may send.
    pub limit: u64,
    /// The number of sent bytes.
    pub sent: u64,
    /// The number of bytes of datagrams, sent and received.
    pub datagrams: u64,
}

impl FlowProgress {
    /// Returns the bytes of streams that moved since then in the busier direction, and those of
    /// datagrams in both.
    fn most_since(&self, before: &FlowProgress) -> u64 {
        let sent = self.sent.saturating_sub(before.sent);
        let streams = sent.max(self.received.saturating_sub(before.received));
        streams.saturating_add(self.datagrams.saturating_sub(before.datagrams))
    }
}

impl RttProber {
    /// Returns the token of a PING to send along with data or credit, if one is due. With
    /// `awaited_since`, the caller waits for the answer to a PING sent at that time or later. That
    /// PING is always due, unless one is outstanding already.
    pub(super) fn ping_due(
        &mut self,
        now: Instant,
        progress: FlowProgress,
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
                .is_some_and(|outstanding| since(outstanding.sent) < PING_TIMEOUT)
        {
            return None;
        }
        Some(self.start(now, progress))
    }

    /// Returns the token of a PING that is sent in any case. An outstanding PING keeps its token,
    /// so that the answer to either counts.
    pub(super) fn ping(&mut self, now: Instant, progress: FlowProgress) -> u64 {
        match &self.outstanding {
            Some(outstanding) => outstanding.token,
            None => self.start(now, progress),
        }
    }

    /// Returns the token of a PING that probes a lane. It also measures the round trip, unless an
    /// earlier PING does.
    pub(super) fn probe(&mut self, now: Instant, progress: FlowProgress) -> u64 {
        if self.outstanding.is_none() {
            return self.start(now, progress);
        }
        let token = self.next_token;
        self.next_token = token.wrapping_add(1) & super::varint::MAX;
        token
    }

    /// Returns how long the outstanding PING waits for its answer.
    pub(super) fn waited(&self, now: Instant) -> Duration {
        self.outstanding.as_ref().map_or(Duration::ZERO, |ping| {
            now.saturating_duration_since(ping.sent)
        })
    }

    /// Forgets the outstanding PING, because its channel ended. There will be no answer, and the
    /// next PING need not wait for one.
    pub(super) fn reset(&mut self) {
        (self.outstanding, self.last, self.answered) = (None, None, None);
    }

    fn start(&mut self, now: Instant, progress: FlowProgress) -> u64 {
        let token = self.next_token;
        self.next_token = token.wrapping_add(1) & super::varint::MAX;
        self.last = Some(ProgressMark { at: now, progress });
        self.outstanding = Some(OutstandingPing {
            token,
            sent: now,
            progress,
        });
        token
    }

    /// Evaluates a PONG. An unexpected one is ignored. The peer answers only the last of several
    /// PINGs, so an answer to a later one ends the wait for an earlier one.
    pub(super) fn on_pong(
        &mut self,
        now: Instant,
        token: u64,
        progress: FlowProgress,
    ) -> Option<RttSample> {
        let OutstandingPing {
            token: awaited,
            sent,
            progress: before,
        } = self
            .outstanding
            .take_if(|outstanding| outstanding.token <= token)?;
        if awaited != token {
            return None;
        }
        // The sender leaves credit unused if it is too small for a message.
        let credit_exhausted = progress.received.saturating_add(UNUSED_CREDIT_MAX) >= before.limit;
        let bytes_sent = progress.sent.saturating_sub(before.sent);
        let bytes_received = progress.received.saturating_sub(before.received);
        let datagrams = progress.datagrams.saturating_sub(before.datagrams);
        let bidirectional = bytes_sent > bytes_received / 4;
        let answer = ProgressMark { at: now, progress };
        let since = self.answered.replace(answer).unwrap_or(ProgressMark {
            at: sent,
            progress: before,
        });
        Some(RttSample {
            sent,
            rtt: now.saturating_duration_since(sent),
            credit_exhausted,
            bidirectional,
            beside_datagrams: datagrams >= QUIET_DATAGRAM_BYTES,
            has_return_queue: bidirectional && bytes_sent >= RETURN_QUEUE_MIN,
            moved: progress.most_since(&since.progress),
            moved_in: now.saturating_duration_since(since.at),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const NOTHING: FlowProgress = FlowProgress {
        received: 0,
        limit: 0,
        sent: 0,
        datagrams: 0,
    };

    #[test]
    fn round_trip_longer_than_the_ping_interval_is_measured() {
        let start = Instant::now();
        let path = Duration::from_millis(1200);
        let mut rtt = RttProber::default();
        let mut pongs: VecDeque<(Instant, u64)> = VecDeque::new();
        let mut samples = Vec::new();
        for step in 0..100 {
            let now = start + Duration::from_millis(100) * step;
            while pongs.front().is_some_and(|(at, _)| *at <= now) {
                let (_, token) = pongs.pop_front().unwrap();
                samples.extend(rtt.on_pong(now, token, NOTHING).map(|sample| sample.rtt));
            }
            pongs.extend(
                rtt.ping_due(now, NOTHING, None)
                    .map(|token| (now + path, token)),
            );
        }
        assert!(
            samples.len() > 5 && samples.iter().all(|sample| *sample == path),
            "{samples:?}"
        );
    }

    #[test]
    fn data_behind_an_answer_counts_for_the_next_one() {
        let start = Instant::now();
        let round_trip = Duration::from_millis(500);
        let mut rtt = RttProber::default();
        let mut progress = NOTHING;
        let mut samples = Vec::new();
        for round in 0..3 {
            let now = start + round_trip * round;
            let token = rtt.ping_due(now, progress, None).unwrap();
            samples.extend(rtt.on_pong(now + round_trip, token, progress));
            // The rest of the message with the answer.
            progress.received += 32 * 1024;
        }
        let moved: Vec<_> = samples
            .iter()
            .map(|sample| (sample.moved, sample.moved_in))
            .collect();
        let full = (32 * 1024, round_trip);
        assert_eq!(moved, [(0, round_trip), full, full]);
    }

    #[test]
    fn few_sent_bytes_cause_no_return_queue() {
        let start = Instant::now();
        for (sent, expected) in [(64, false), (64 * 1024, true)] {
            let mut rtt = RttProber::default();
            let token = rtt.ping_due(start, NOTHING, None).unwrap();
            let progress = FlowProgress { sent, ..NOTHING };
            let sample = rtt.on_pong(start + PING_INTERVAL, token, progress);
            let sample = sample.unwrap();
            assert!(sample.bidirectional, "nothing was received");
            assert_eq!(sample.has_return_queue, expected);
        }
    }

    #[test]
    fn lost_ping_is_sent_again_after_the_timeout() {
        let start = Instant::now();
        let mut rtt = RttProber::default();
        assert!(rtt.ping_due(start, NOTHING, None).is_some());
        assert!(
            rtt.ping_due(start + PING_INTERVAL, NOTHING, None).is_none(),
            "a PING is outstanding"
        );
        assert!(rtt.ping_due(start + PING_TIMEOUT, NOTHING, None).is_some());
    }
}
