//! Estimates how much credit a path needs: what it delivers in the minimum round trip, plus a
//! quarter (the idea of BBR, draft-cardwell-iccrg-bbr). This module owns the measurements and their
//! constants; it knows neither frames nor streams. The receiver of data measures, because it grants
//! the credit. `filters` remembers rates and round trips, `delivery` measures the floor, `startup`
//! finds the rate of a new path, `probe` decides when to measure the length of the path, and
//! `interactive` detects a stream that a queue would delay.
//!
//! ```text
//!   startup ──no growth──► cruise ──no sample near min_rtt for long, or lasting queue──► probe
//!      ▲                    │   ▲                                                         │
//!      └─growth, no queue───┘   └────── answer on the drained path, or a timeout ─────────┘
//! ```
//! A new attachment begins with startup again, and keeps the window.
//!
//! - *Startup* doubles the window each round trip while it is used up. It ends early on a slow path,
//!   where the first window alone is a queue of seconds.
//! - *Cruise* grants [`GAIN`] × rate × min_rtt. The excess forms a queue at the bottleneck. A path
//!   that becomes faster therefore delivers more, and the window follows.
//! - *Probe* lets the queue drain, so that the queue is not taken for the path's length.
//!
//! Measurements of a path that was not full never reduce the window: the sender had little to send,
//! or its application was slow. Only a rate that was measured with a queue is the rate of the path;
//! the round trip shows the queue.
//!
//! A pause behind a lost segment of TCP looks like a queue, and the rounds that contain it look like
//! a slower path. Therefore the window has a *floor*: what the path delivered in the best of the
//! last ten round trips. The length of a round trip is min_rtt, less the discount of a short path
//! beside an interactive stream. A burst after a pause is not the delivery of one round trip. A path
//! that really became slower keeps a queue for that time. A probe ignores the floor, because it has
//! to drain the queue, and its time does not count. A probe whose answer waited behind a lost
//! segment asks a second time. Two stalls in sequence still yield too long a min_rtt; until a
//! shorter sample follows, the round trips that are measured are that long.

mod delivery;
mod filters;
mod interactive;
mod probe;
mod startup;

use std::time::{Duration, Instant};

use self::{
    delivery::BestDeliveryRate,
    filters::{JITTER, MaxRateFilter, MinRtt},
    interactive::InteractiveDetector,
    probe::RttProbe,
    startup::Startup,
};

/// The gain of cruise on rate × min_rtt. A higher gain fills a path that became faster sooner, but
/// the excess is a standing queue in the meantime.
const GAIN: f64 = 1.25;
/// The gain while the other direction is equally busy. Credit then queues on its way, and
/// arrives in bursts.
const GAIN_BIDIRECTIONAL: f64 = 1.75;

/// The minimum duration of a window at the measured rate, up to [`SCHEDULED_MAX`]. Both ends need
/// this time to be scheduled on a busy machine.
const SCHEDULING: Duration = Duration::from_millis(10);

/// The size up to which [`SCHEDULING`] counts, in bytes. It is the window of a path without length.
/// Eight streams that share one processor need it on loopback (measured), where it lasts two
/// milliseconds.
const SCHEDULED_MAX: f64 = 2.0 * 1024.0 * 1024.0;

/// The same size while an interactive stream is active beside bulk streams, because a larger window
/// would queue in front of its answer. Such a path still carries most of its throughput.
const SCHEDULED_MAX_INTERACTIVE: f64 = 32.0 * 1024.0;

/// The part of a short min_rtt that may not be path, but the wait of both ends and of the relay for
/// a processor. Credit for this part would also queue in front of the answer of an interactive
/// stream. The discount shrinks by a share of min_rtt: where that is ten times as long, there is
/// none.
const WAIT_FOR_PROCESSORS: Duration = Duration::from_micros(400);
const WAIT_DISCOUNT: f64 = 0.1;

/// A constant addition to the window, in bytes. Of several tunnels on a path it favours the one
/// with the smaller share, so that the shares converge.
const FAIRNESS_BYTES: f64 = 16.0 * 1024.0;

/// On a slow path the addition is what arrives in this time, and at least this many bytes: a small
/// message. The addition is a standing queue, which a probe does not drain.
const FAIRNESS_TIME: Duration = Duration::from_millis(50);
const FAIRNESS_MIN: f64 = 4.0 * 1024.0;

/// A new limit is sent after as much data as arrives in this time. A shorter step would cost
/// messages; a longer one would leave a part of the path empty. The step is at least a sixteenth of
/// the window, which is a small part of the path, and at most a quarter of it.
const STEP: Duration = Duration::from_millis(2);
const STEP_MIN_DIVISOR: u64 = 16;
const STEP_MAX_DIVISOR: u64 = 4;
/// The minimum step, and the step before a rate is known, in bytes.
const STEP_MIN: u64 = 16 * 1024;
const STEP_FIRST: u64 = 128 * 1024;
/// A step below this size, in bytes, may be half of the window. Each step is a message in both
/// directions, and the overhead of smaller ones would count.
const STEP_SMALL: u64 = 4 * 1024;
const STEP_SMALL_DIVISOR: u64 = 2;

/// The minimum duration of a round. On a short path data arrives in bursts, and a burst is not a
/// rate.
const ROUND_MIN: Duration = Duration::from_millis(5);

/// A round that did not use up the window ends after this many round trips. A long queue makes a
/// round trip long. Such a round ends after this many times min_rtt, and no earlier than this time.
const ROUND_TIMEOUT_RTTS: u32 = 2;
const ROUND_TIMEOUT: Duration = Duration::from_millis(500);

/// Cruise returns to startup after this many consecutive full rounds that each exceeded the maximum
/// rate by this factor without a queue. The path then has spare capacity, and something else ended
/// the growth, such as an end without a processor. A round can gain [`GAIN`] at most.
const REGROWTH_FACTOR: f64 = 1.1;
const REGROWTH_ROUNDS: u8 = 2;

/// The round trip before the first measurement: a path across a continent. A value that is too long
/// only lets a window grow a little early.
const INITIAL_RTT: Duration = Duration::from_millis(50);

/// The measurement from the answer to a PING.
#[derive(Debug, Clone, Copy)]
pub(super) struct RttSample {
    /// When the PING was sent.
    pub sent: Instant,
    /// How long the answer took.
    pub rtt: Duration,
    /// Whether the sender had used up all the credit that it knew when it answered.
    pub credit_exhausted: bool,
    /// Whether this end sent the same order of magnitude in that time as it received.
    pub bidirectional: bool,
    /// Whether the tunnel moved enough datagrams to cause a queue, whatever the window is.
    pub beside_datagrams: bool,
    /// Whether that was enough for a queue in the other direction, too.
    pub has_return_queue: bool,
    /// The bytes that the tunnel has moved in its busier direction since the answer before, and the
    /// time since then. The data of a message follows an answer in it, so the time of one round trip
    /// would omit data.
    pub moved: u64,
    pub moved_in: Duration,
}

/// The estimator of the window that a path needs.
#[derive(Debug)]
pub(super) struct BandwidthEstimator {
    /// The window that the phase determines, in bytes.
    size: u64,
    max: u64,
    /// The minimum of the window outside probes, in bytes.
    floor: u64,
    delivery: BestDeliveryRate,
    phase: WindowPhase,
    round: Option<Round>,
    rate: MaxRateFilter,
    /// The rate of the last round, in bytes per second.
    latest_rate: f64,
    min_rtt: Option<MinRtt>,
    latest_rtt: Duration,
    /// The start of the current period in which all round trips show a queue.
    queued_since: Option<Instant>,
    credit_exhausted: bool,
    bidirectional: bool,
    has_return_queue: bool,
    /// The number of consecutive quiet round trips that exceeded min_rtt, and the shortest of them.
    longer_samples: (u8, Duration),
    last_probe: Option<Instant>,
    interactive: InteractiveDetector,
}

#[derive(Debug)]
enum WindowPhase {
    Startup(Startup),
    Cruise { grown_rounds: u8 },
    ProbeRtt(RttProbe),
}

/// A measured round: from sending a limit until it is reached, which takes at least a round trip.
#[derive(Debug)]
struct Round {
    since: Instant,
    received: u64,
    limit: u64,
}

impl BandwidthEstimator {
    /// Creates an estimator whose initial window the peer already knows.
    pub(super) fn new(now: Instant, initial: u64, max: u64) -> Self {
        BandwidthEstimator {
            size: initial,
            max: max.max(initial),
            floor: 0,
            delivery: BestDeliveryRate::new(now),
            phase: WindowPhase::Startup(Startup::default()),
            round: None,
            rate: MaxRateFilter::new(now, 0.0),
            latest_rate: 0.0,
            min_rtt: None,
            latest_rtt: INITIAL_RTT,
            queued_since: None,
            credit_exhausted: false,
            bidirectional: false,
            has_return_queue: false,
            longer_samples: (0, Duration::MAX),
            last_probe: None,
            interactive: InteractiveDetector::default(),
        }
    }

    /// Restarts all measurements and keeps the window, because another attachment carries the
    /// tunnel, perhaps on another path.
    pub(super) fn restart(&mut self, now: Instant) {
        // A probe withheld credit from the path before, not from this one.
        let window = self.size.max(self.floor);
        *self = BandwidthEstimator::new(now, window, self.max);
    }

    /// Returns the window, in bytes. It is at least the floor, except during a probe.
    pub(super) fn size(&self) -> u64 {
        if self.is_probing() {
            self.size
        } else {
            self.size.max(self.floor)
        }
    }

    /// Returns whether a probe withholds credit.
    pub(super) fn is_probing(&self) -> bool {
        matches!(self.phase, WindowPhase::ProbeRtt(_))
    }

    /// Returns the recent minimum round trip.
    pub(super) fn min_rtt(&self) -> Duration {
        self.min_rtt.map_or(INITIAL_RTT, |min_rtt| min_rtt.time)
    }

    /// Returns the latest round trip.
    pub(super) fn latest_rtt(&self) -> Duration {
        self.latest_rtt
    }

    /// Returns how far the limit must advance before it is sent again, in bytes.
    pub(super) fn step(&self) -> u64 {
        let (rate, size) = (self.rate.max(), self.size());
        let small = (size / STEP_SMALL_DIVISOR).min(STEP_SMALL);
        let in_time = if rate > 0.0 {
            (rate * STEP.as_secs_f64()) as u64
        } else {
            STEP_FIRST
        };
        in_time
            .max(STEP_MIN)
            .min((size / STEP_MAX_DIVISOR).max(small))
            .max(size / STEP_MIN_DIVISOR)
    }

    /// Starts a round when a limit is sent to the peer.
    pub(super) fn on_limit_sent(&mut self, now: Instant, received: u64, limit: u64) {
        if self.round.is_none() {
            self.round = Some(Round {
                since: now,
                received,
                limit,
            });
        }
    }

    /// Returns the detector of interactive streams.
    pub(super) fn interactive(&mut self) -> &mut InteractiveDetector {
        &mut self.interactive
    }

    /// Processes the arrival of data: `received` bytes in total, of the `limit` that may arrive.
    pub(super) fn on_received(&mut self, now: Instant, received: u64, limit: u64) {
        self.on_received_in_probe(now, received, limit);
        self.update_floor(now, received);
        let Some(round) = &self.round else { return };
        let elapsed = now.saturating_duration_since(round.since);
        let is_exhausted = received >= round.limit;
        let timeout = if is_exhausted {
            ROUND_MIN
        } else {
            self.round_timeout()
        };
        if elapsed >= timeout {
            let bytes = received.saturating_sub(round.received);
            let granted = round.limit.saturating_sub(round.received);
            self.round = None;
            self.end_round(
                now,
                bytes as f64 / elapsed.as_secs_f64(),
                is_exhausted.then_some(granted),
            );
        }
    }

    /// Returns after which time a round ends that has not used up the window.
    fn round_timeout(&self) -> Duration {
        let with_queue = self.latest_rtt.saturating_mul(ROUND_TIMEOUT_RTTS);
        let without = self.min_rtt().saturating_mul(ROUND_TIMEOUT_RTTS);
        with_queue.min(without.max(ROUND_TIMEOUT)).max(ROUND_MIN)
    }

    /// Leaves out `bytes` that count as received and did not arrive. The present round lasts as if
    /// nothing had asked for them.
    pub(super) fn on_skipped(&mut self, bytes: u64) {
        self.delivery.skip(bytes);
        if let Some(round) = &mut self.round {
            round.received = round.received.saturating_add(bytes);
            round.limit = round.limit.saturating_add(bytes);
        }
    }

    /// Measures the floor. Before the first round trip the length of the path is unknown, and what
    /// arrives during a probe is no measure of the path.
    fn update_floor(&mut self, now: Instant, received: u64) {
        let Some(MinRtt { time: min_rtt, .. }) = self.min_rtt else {
            return;
        };
        if !self.is_probing() {
            self.delivery
                .on_received(now, received, min_rtt.max(ROUND_MIN));
            let bytes = self.delivery.max() * self.path_length(now).as_secs_f64();
            self.floor = (bytes as u64).min(self.max);
        }
    }

    /// Ends a round with its rate, and with the credit granted at its beginning if that was used
    /// up.
    fn end_round(&mut self, now: Instant, rate: f64, granted: Option<u64>) {
        self.latest_rate = rate;
        let grows_again = rate >= self.rate.max() * REGROWTH_FACTOR
            && granted.is_some()
            && self.has_spare_capacity(now, rate);
        let is_queued = self.queued_since.is_some() && !self.is_probing();
        self.rate.add(now, rate, is_queued, self.min_rtt());
        match self.phase {
            WindowPhase::Startup(startup) => {
                let is_too_small =
                    granted.is_some_and(|granted| self.is_too_small(now, rate, granted));
                self.startup(now, rate, startup, is_too_small);
            }
            WindowPhase::Cruise { grown_rounds }
                if !grows_again || grown_rounds.saturating_add(1) < REGROWTH_ROUNDS =>
            {
                self.cruise(now);
                self.phase = WindowPhase::Cruise {
                    grown_rounds: if grows_again {
                        grown_rounds.saturating_add(1)
                    } else {
                        0
                    },
                };
            }
            WindowPhase::Cruise { .. } => self.startup(now, rate, Startup::default(), true),
            WindowPhase::ProbeRtt(_) => {}
        }
    }

    /// Returns whether the path has no queue and its length, rather than the scheduling of the
    /// ends, determines the window.
    fn has_spare_capacity(&self, now: Instant, rate: f64) -> bool {
        let length = self.min_rtt();
        let is_long =
            length > JITTER && rate * length.as_secs_f64() > self.scheduling_bytes(now, rate);
        is_long && !self.bidirectional && self.queued_since.is_none()
    }

    fn cruise(&mut self, now: Instant) {
        self.phase = WindowPhase::Cruise { grown_rounds: 0 };
        let rate = self.rate.max();
        let gain = if self.bidirectional {
            GAIN_BIDIRECTIONAL
        } else {
            GAIN
        };
        let length = self.path_length(now);
        let bytes = (gain * rate * length.as_secs_f64()).max(self.scheduling_bytes(now, rate));
        self.set_size(bytes, rate);
    }

    /// Returns the part of min_rtt that is path.
    fn path_length(&self, now: Instant) -> Duration {
        let min_rtt = self.min_rtt();
        let waited = if self.interactive.is_active(now) {
            WAIT_FOR_PROCESSORS.saturating_sub(min_rtt.mul_f64(WAIT_DISCOUNT))
        } else {
            Duration::ZERO
        };
        min_rtt.saturating_sub(waited)
    }

    /// Returns the window that the ends need at this rate on a path of any length, in bytes.
    fn scheduling_bytes(&self, now: Instant, rate: f64) -> f64 {
        (rate * SCHEDULING.as_secs_f64()).min(if self.interactive.is_active(now) {
            SCHEDULED_MAX_INTERACTIVE
        } else {
            SCHEDULED_MAX
        })
    }

    /// Sets the window for a path with this rate, in bytes per second.
    fn set_size(&mut self, bytes: f64, rate: f64) {
        let fairness = (rate * FAIRNESS_TIME.as_secs_f64()).clamp(FAIRNESS_MIN, FAIRNESS_BYTES);
        // A cast of a float saturates.
        self.size = ((bytes + fairness) as u64).min(self.max);
    }
}
