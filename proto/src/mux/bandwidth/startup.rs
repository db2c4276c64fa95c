//! Startup: finds the rate of a path that is not known yet.

use std::time::{Duration, Instant};

use super::{BandwidthEstimator, WindowPhase};

/// Startup doubles a window that was used up within this many round trips. It ends between one and
/// two times the capacity of the path.
const EXHAUSTED_WITHIN_RTTS: f64 = 1.5;

/// Startup continues while the rate grows by this factor per round (as in BBR). It ends after this
/// many full rounds without such growth.
const GROWTH_FACTOR: f64 = 1.25;
const FLAT_ROUNDS: u8 = 3;

/// A PING that waits for this many times min_rtt, and for this much longer than it, waits in a
/// queue that the first window has caused. Losses rarely stall TCP for that long.
const LONG_QUEUE_RTTS: u32 = 4;
const LONG_QUEUE: Duration = Duration::from_millis(500);

/// The progress of startup.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Startup {
    /// The best rate of the rounds before, in bytes per second.
    best_rate: f64,
    /// The number of the last rounds without growth.
    flat_rounds: u8,
    /// Whether the path has a long queue, so that the next round is the last one.
    has_long_queue: bool,
}

impl BandwidthEstimator {
    /// Returns whether the rate of the path is not known yet.
    pub(in crate::mux) fn is_starting(&self) -> bool {
        matches!(self.phase, WindowPhase::Startup(_))
    }

    /// Notes when data arrives that the answer to a PING has been awaited for this time. On a slow
    /// path the answer shows the queue only after all of the queue has passed.
    pub(in crate::mux) fn on_ping_wait(&mut self, now: Instant, waited: Duration) {
        let Some(min_rtt) = self.min_rtt else { return };
        let long = min_rtt
            .time
            .saturating_mul(LONG_QUEUE_RTTS)
            .max(min_rtt.time.saturating_add(LONG_QUEUE));
        if waited <= long {
            return;
        }
        match &mut self.phase {
            WindowPhase::Startup(startup) => startup.has_long_queue = true,
            WindowPhase::Cruise { .. } => {}
            // A probe compares its answers itself.
            WindowPhase::ProbeRtt(_) => return,
        }
        self.queued_since.get_or_insert(now);
    }

    /// Processes a round of startup.
    pub(super) fn startup(&mut self, now: Instant, rate: f64, before: Startup, is_too_small: bool) {
        let is_queued = self.queued_since.is_some();
        let grows = rate >= before.best_rate * GROWTH_FACTOR;
        let flat_rounds = if grows {
            0
        } else {
            let is_full = is_queued || self.credit_exhausted;
            before.flat_rounds.saturating_add(u8::from(is_full))
        };
        self.phase = WindowPhase::Startup(Startup {
            best_rate: if grows { rate } else { before.best_rate },
            flat_rounds,
            has_long_queue: false,
        });
        if flat_rounds >= FLAT_ROUNDS || before.has_long_queue {
            // The queue that startup caused is no reason for a probe.
            self.last_probe = Some(now);
            self.cruise(now);
        } else if is_too_small && (grows || !is_queued) {
            self.size = self.size().saturating_mul(2).min(self.max);
        }
    }

    /// Returns whether a window of `granted` bytes, used up at this rate, limits the path or the
    /// ends.
    pub(super) fn is_too_small(&self, now: Instant, rate: f64, granted: u64) -> bool {
        rate * self.min_rtt().as_secs_f64() * EXHAUSTED_WITHIN_RTTS >= granted as f64
            || self.scheduling_bytes(now, rate) > self.size() as f64
    }
}
