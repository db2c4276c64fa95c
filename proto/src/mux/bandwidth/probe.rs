//! The round trips of a path: when they show a queue, and the probes that measure the length of the
//! path while its queue is drained.

use std::time::{Duration, Instant};

use super::{
    BandwidthEstimator, RttSample, WindowPhase,
    filters::{JITTER, MaxRateFilter, MinRtt},
    startup::Startup,
};

/// A round trip shows a queue if it exceeds min_rtt by this factor and by [`JITTER`]. The factor is
/// a little more than [`GAIN`](super::GAIN) causes.
const QUEUE_FACTOR: f64 = 1.3;
/// The same factor while the other direction is equally busy. The round trip then contains that
/// direction's queue too, which local credit does not cause.
const QUEUE_FACTOR_BIDIRECTIONAL: f64 = 3.5;
/// The largest growth of min_rtt by a probe in that case, because the probe may have measured the
/// other queue.
const MIN_RTT_GROWTH_BIDIRECTIONAL: f64 = 1.1;

/// The path is probed if no round trip was near min_rtt for this time (as in BBR), and for this
/// many round trips. The latter keeps the share of time for probes constant on very long paths.
const PROBE_AFTER: Duration = Duration::from_secs(10);
const PROBE_AFTER_RTTS: u32 = 60;

/// This many consecutive longer round trips without a queue are the path's new length.
const QUIET_SAMPLES: u8 = 3;

/// An answer did not queue while fewer bytes than this moved in either direction, at less than this
/// share of the path's rate. On a slow path a few bytes already take long.
const QUIET_BYTES: u64 = 16 * 1024;
const QUIET_SHARE: f64 = 0.25;

/// A probe that finds a path longer by this factor restarts startup, because the previous
/// measurements say little about it.
const PATH_CHANGE_FACTOR: f64 = 2.5;

/// The path is probed early if all round trips show a queue for this many round trips and this
/// time, although the window should prevent one. The path may have become longer, and the probe
/// comes before the rate of that time counts. Early probes keep an interval, so that they cost
/// little on an unsteady path.
const EARLY_PROBE_RTTS: u32 = 4;
const EARLY_PROBE_AFTER: Duration = Duration::from_millis(150);
const EARLY_PROBE_INTERVAL_RTTS: u32 = 30;
const EARLY_PROBE_INTERVAL: Duration = Duration::from_secs(2);

/// The gain of a probe on rate × min_rtt. The queue drains at once, and half of the path stays in
/// use.
const PROBE_GAIN: f64 = 0.5;

/// An answer that exceeds min_rtt by this factor and by [`JITTER`] may have waited behind a lost
/// segment of TCP, which takes a round trip at least. A second PING decides: a path that is longer
/// delays it too.
const LATE_FACTOR: f64 = 1.5;

/// A probe without an answer ends after this many round trips plus this time.
const PROBE_TIMEOUT_RTTS: u32 = 8;
const PROBE_TIMEOUT: Duration = Duration::from_millis(100);

/// A probe of the path's length.
#[derive(Debug)]
pub(super) struct RttProbe {
    since: Instant,
    /// The rate of the path, if a queue triggered the probe.
    rate: Option<f64>,
    /// When the outstanding credit fell to what the probe allows, or when a late answer arrived.
    /// PINGs sent after this time count.
    drained: Option<Instant>,
    /// The late answer after which a second PING decides.
    late: Option<Duration>,
}

impl BandwidthEstimator {
    /// Returns the time from which a PING would answer the current probe.
    pub(in crate::mux) fn ping_wanted_since(&self) -> Option<Instant> {
        match self.phase {
            WindowPhase::ProbeRtt(RttProbe { drained, .. }) => drained,
            _ => None,
        }
    }

    /// Processes the arrival of data during a probe.
    pub(super) fn on_received_in_probe(&mut self, now: Instant, received: u64, limit: u64) {
        let late_after = self.late_after();
        if let WindowPhase::ProbeRtt(probe) = &mut self.phase {
            // The path counts as drained when the outstanding credit is within an eighth of what the
            // probe allows.
            let out = limit.saturating_sub(received);
            if probe.drained.is_none() && out <= self.size.saturating_add(self.size / 8) {
                probe.drained = Some(now);
            }
            let timeout = self
                .latest_rtt
                .saturating_mul(PROBE_TIMEOUT_RTTS)
                .saturating_add(PROBE_TIMEOUT);
            let late = probe.late;
            // Data arrives, so nothing stalls, and the second answer is late too.
            let is_late_again = late.is_some()
                && probe
                    .drained
                    .is_some_and(|since| now.saturating_duration_since(since) > late_after);
            if is_late_again || now.saturating_duration_since(probe.since) > timeout {
                self.end_probe(now, late);
            }
        }
    }

    /// Processes the answer to a PING that left on the drained path.
    fn on_probe_answer(&mut self, now: Instant, rtt: Duration) {
        // With the other direction as busy, its queue delays answers, and end_probe bounds them.
        let is_late = rtt > self.late_after() && !self.has_return_queue;
        let WindowPhase::ProbeRtt(probe) = &mut self.phase else {
            return;
        };
        match probe.late {
            None if is_late => {
                probe.late = Some(rtt);
                probe.drained = Some(now);
            }
            late => self.end_probe(now, Some(late.map_or(rtt, |late| late.min(rtt)))),
        }
    }

    /// Returns the round trip beyond which an answer is late.
    fn late_after(&self) -> Duration {
        let min_rtt = self.min_rtt();
        min_rtt
            .mul_f64(LATE_FACTOR)
            .max(min_rtt.saturating_add(JITTER))
    }

    /// Processes the answer to a PING.
    pub(in crate::mux) fn on_rtt_sample(&mut self, now: Instant, sample: RttSample) {
        self.latest_rtt = sample.rtt;
        self.credit_exhausted = sample.credit_exhausted;
        self.bidirectional = sample.bidirectional;
        self.has_return_queue = sample.has_return_queue;
        if let WindowPhase::ProbeRtt(RttProbe { drained, .. }) = self.phase {
            if drained.is_some_and(|drained| sample.sent >= drained) {
                self.on_probe_answer(now, sample.rtt);
            }
            return;
        }
        self.update_quiet_rtt(now, sample);
        let min_rtt = MinRtt::updated(self.min_rtt, now, sample.rtt);
        self.min_rtt = Some(min_rtt);
        let queued = if sample.bidirectional {
            QUEUE_FACTOR_BIDIRECTIONAL
        } else {
            QUEUE_FACTOR
        };
        if sample.rtt > min_rtt.time.mul_f64(queued).saturating_add(JITTER) {
            self.queued_since.get_or_insert(now);
        } else {
            self.queued_since = None;
        }
        match self.phase {
            WindowPhase::Cruise { .. } if self.is_probe_due(now, min_rtt) => self.begin_probe(now),
            // Streams never filled the path, so this sample is its length, except for a queue of
            // datagrams.
            WindowPhase::Startup(_)
                if now.saturating_duration_since(min_rtt.seen) > PROBE_AFTER
                    && !sample.beside_datagrams =>
            {
                self.min_rtt = None
            }
            _ => {}
        }
    }

    /// Adopts a longer min_rtt from quiet samples, because little traffic shows the true length of
    /// the path.
    fn update_quiet_rtt(&mut self, now: Instant, sample: RttSample) {
        let (rtt, quiet) = (sample.rtt, self.is_quiet(&sample));
        let is_longer = rtt > self.min_rtt().mul_f64(QUEUE_FACTOR).saturating_add(JITTER);
        let (count, shortest) = self.longer_samples;
        self.longer_samples = match (quiet, is_longer) {
            (true, true) if count.saturating_add(1) >= QUIET_SAMPLES => {
                self.min_rtt = Some(MinRtt {
                    time: shortest.min(rtt),
                    seen: now,
                });
                (0, Duration::MAX)
            }
            (true, true) => (count.saturating_add(1), shortest.min(rtt)),
            _ => (0, Duration::MAX),
        };
    }

    /// Returns whether the tunnel has moved too little data to cause a queue.
    fn is_quiet(&self, sample: &RttSample) -> bool {
        let rate = self.rate.max();
        let most = rate * QUIET_SHARE * sample.moved_in.as_secs_f64();
        sample.moved < QUIET_BYTES && (rate <= 0.0 || (sample.moved as f64) < most)
    }

    fn is_probe_due(&self, now: Instant, min_rtt: MinRtt) -> bool {
        let since = |at: Instant| now.saturating_duration_since(at);
        let usual = min_rtt
            .time
            .saturating_mul(PROBE_AFTER_RTTS)
            .max(PROBE_AFTER);
        let early = min_rtt
            .time
            .saturating_mul(EARLY_PROBE_RTTS)
            .max(EARLY_PROBE_AFTER);
        let is_early_due = self
            .queued_since
            .is_some_and(|queued| since(queued) > early);
        let is_usual_due = since(min_rtt.seen) > usual;
        let apart = min_rtt
            .time
            .saturating_mul(EARLY_PROBE_INTERVAL_RTTS)
            .max(EARLY_PROBE_INTERVAL);
        (is_early_due || is_usual_due)
            && self
                .last_probe
                .is_none_or(|last_probe| since(last_probe) > apart)
    }

    fn begin_probe(&mut self, now: Instant) {
        let rate = self.queued_since.map(|_| self.latest_rate);
        self.phase = WindowPhase::ProbeRtt(RttProbe {
            since: now,
            rate,
            drained: None,
            late: None,
        });
        // Use the latest rate: a path that became slower would not drain at the maximum rate.
        let rate = self.latest_rate.min(self.rate.max());
        self.set_size(PROBE_GAIN * rate * self.min_rtt().as_secs_f64(), rate);
    }

    fn end_probe(&mut self, now: Instant, found: Option<Duration>) {
        let before = self.min_rtt();
        let most = if self.has_return_queue {
            before.mul_f64(MIN_RTT_GROWTH_BIDIRECTIONAL)
        } else {
            Duration::MAX
        };
        // A slightly later answer comes from ends that wait for a processor, not from a longer
        // path.
        let is_jitter =
            |found: &Duration| *found > before && *found <= before.saturating_add(JITTER);
        let time = found
            .filter(|found| !is_jitter(found))
            .unwrap_or(before)
            .min(most);
        // The window had caused the queue, so the rate in that time was the rate of the path.
        if let WindowPhase::ProbeRtt(RttProbe {
            rate: Some(rate), ..
        }) = self.phase
            && time < before.mul_f64(QUEUE_FACTOR)
        {
            self.rate = MaxRateFilter::new(now, rate);
        }
        self.min_rtt = Some(MinRtt { time, seen: now });
        self.last_probe = Some(now);
        self.queued_since = None;
        self.round = None;
        self.cruise(now);
        if time > before.mul_f64(PATH_CHANGE_FACTOR).saturating_add(JITTER) {
            self.phase = WindowPhase::Startup(Startup::default());
        }
    }
}
