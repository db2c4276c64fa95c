//! How much credit a path needs: what it delivers in the least round trip, and a quarter more (the idea of BBR, draft-cardwell-iccrg-bbr). Owns
//! the measurements that lead there and the constants of it; knows neither frames nor streams. The receiver of data measures, since it grants. What it
//! remembers of rates is `best_rate`'s, and of streams that move little `company`'s.
//!
//! ```text
//!   start-up ──the rate stops growing────► cruise ──no round trip as short as the least for long, or a lasting queue──► probe
//!      ▲                                   │    ▲                                                                         │
//!      └──it grows again, without a queue──┘    └───────an answer on the drained path, or none for too long───────────────┘
//! ```
//! A new attachment begins with start-up again, and keeps the window.
//!
//! *Start-up* doubles the window each round trip, as long as it is used up. *Cruise* gives [`GAIN`] × rate × least round trip: what is more than the path
//! holds stands before its narrowest place, so that a path that became faster shows it by delivering more, and the window follows. What was measured
//! while the path was not full (the sender had little to send, or its application was slow) never makes the window smaller: only a rate that was measured
//! while a queue stood, which the round trip shows, is the rate of the path. *Probe* lets the queue drain, so that it is not taken for the path's length.

use std::time::{Duration, Instant};

use super::{best_rate::BestRate, company::Company};

/// What cruise grants of rate × least round trip. More fills a path that became faster sooner, and is the queue that stands meanwhile.
const GAIN: f64 = 1.25;
/// The same while the other direction is as busy: credit then waits in a queue on its way, and comes in bursts.
const GAIN_BOTH_WAYS: f64 = 1.75;

/// A window is that long at least in time, at the measured rate and up to [`SCHEDULED_MAX`]: what both ends need to be scheduled on a busy machine.
const SCHEDULING: Duration = Duration::from_millis(10);

/// Where [`SCHEDULING`] stops to count, in bytes. It is the window of a path without length: eight streams that share one processor need it on loopback
/// (measured), and it is two milliseconds there.
const SCHEDULED_MAX: f64 = 2.0 * 1024.0 * 1024.0;

/// The same while a stream that moves little waits beside those that move much: what is more stands before its answer. Such a path still carries most of
/// its throughput.
const SCHEDULED_MAX_BESIDE: f64 = 32.0 * 1024.0;

/// So much of a least round trip that is short may be no path but the wait of both ends and the relay for a processor. What would be granted for it would
/// stand before the answer of a stream that moves little, too. It counts less by a share of the round trip: where that is ten times as long, not at all.
const WAIT_FOR_PROCESSORS: Duration = Duration::from_micros(400);
const LESS_WAIT: f64 = 0.1;

/// Beside all that, in bytes. Of tunnels that share a path the one with the smaller share gains by it, so that shares become equal.
const EVEN_SHARE: f64 = 16.0 * 1024.0;

/// A limit is told when it has advanced by what arrives in this time: more often would cost messages, more seldom leaves a part of the path empty. It is
/// never less than a share of the window, which is little of the path already, and never more than a quarter of it.
const STEP: Duration = Duration::from_millis(2);
const STEP_LEAST_SHARE: u64 = 16;
const STEP_MOST_SHARE: u64 = 4;
/// In bytes, and before there is a rate.
const STEP_LEAST: u64 = 16 * 1024;
const STEP_FIRST: u64 = 128 * 1024;

/// A round is at least that long: on a short path arrivals come in bursts, and a burst is no rate.
const ROUND_MIN: Duration = Duration::from_millis(5);

/// A round that did not use up the window ends after as many round trips.
const ROUND_PATIENCE: u32 = 2;

/// Start-up doubles a window that was used up within as many round trips; it ends between one and two times what the path holds.
const USED_UP_WITHIN: f64 = 1.5;

/// Start-up goes on while the rate grows by this factor in a round (as BBR), and ends after as many full rounds in which it did not.
const STILL_GROWS: f64 = 1.25;
const FLAT_ROUNDS: u8 = 3;

/// Cruise goes back to start-up when so many full rounds in a row were each better than all before by this factor, without a queue: there is room, and what
/// was taken for the end of growth was something else, as an end that got no processor. [`GAIN`] is the most that a round can gain.
const GROWS_AGAIN: f64 = 1.1;
const GROWN_ROUNDS: u8 = 2;

/// A round trip shows a queue when it is longer than the least one by this factor, a little more than [`GAIN`] brings about, and by [`JITTER`].
const QUEUED: f64 = 1.3;
/// The same while the other direction is as busy: its queue is in the round trip too, and is none of ours.
const QUEUED_BOTH_WAYS: f64 = 3.5;
/// And what a probe finds then may be that queue: the least round trip becomes longer by this factor at most.
const LONGER_BOTH_WAYS: f64 = 1.1;
const JITTER: Duration = Duration::from_millis(2);

/// When no round trip was as short as the least one for as long, the path is probed (as BBR); the share of time that a probe costs stays the same on
/// paths that are very long.
const PROBE_AFTER: Duration = Duration::from_secs(10);
const PROBE_AFTER_ROUND_TRIPS: u32 = 60;

/// A round trip counts as short as the least one when it is longer by less than a share of it, and by less than a little time.
const AS_SHORT: f64 = 1.05;
const AS_SHORT_WITHIN: Duration = Duration::from_micros(200);

/// As many round trips in a row that are longer though there is no queue are the path's new length.
const QUIET_LONGER: u8 = 3;

/// A probe that finds a path this much longer begins start-up again: what is known of it says little.
const ANOTHER_PATH: f64 = 2.5;

/// When all round trips show a queue for as many round trips and as much time, although the window was to prevent it, the path is probed early: it may have
/// become longer. It is so before the rate of that time counts. On a path that is never steady such probes are rare enough to cost little.
const EARLY_PROBE_ROUND_TRIPS: u32 = 4;
const EARLY_PROBE_AFTER: Duration = Duration::from_millis(150);
const EARLY_PROBES_APART_ROUND_TRIPS: u32 = 30;
const EARLY_PROBES_APART: Duration = Duration::from_secs(2);

/// What a probe leaves of rate × least round trip: the queue drains at once, and half of the path is still used.
const PROBE_GAIN: f64 = 0.5;

/// A probe without an answer ends after as many round trips, and this time.
const PROBE_PATIENCE_ROUND_TRIPS: u32 = 8;
const PROBE_PATIENCE: Duration = Duration::from_millis(100);

/// Before anything is measured: a path across a continent. Too long only lets a window grow a little early.
const INITIAL_ROUND_TRIP: Duration = Duration::from_millis(50);

/// What an answer to a PING tells.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// When the PING left.
    pub sent: Instant,
    /// How long the answer took.
    pub round_trip: Duration,
    /// Whether the sender had used up all the credit that it knew of when it answered.
    pub used_up: bool,
    /// Whether as much went to the sender meanwhile as came from it, in the order of magnitude.
    pub both_ways: bool,
    /// Whether so little moved either way that there was no queue of ours.
    pub quiet: bool,
}

/// The window that a path needs.
#[derive(Debug)]
pub struct Delivery {
    size: u64,
    max: u64,
    phase: Phase,
    round: Option<Round>,
    rate: BestRate,
    /// Of the last round, in bytes a second.
    latest_rate: f64,
    least: Option<Least>,
    latest_round_trip: Duration,
    /// Since when all round trips have shown a queue.
    queued_since: Option<Instant>,
    used_up: bool,
    both_ways: bool,
    /// Quiet round trips in a row that were longer than the least one, and the shortest of them.
    longer: (u8, Duration),
    probed: Option<Instant>,
    company: Company,
}

#[derive(Debug)]
enum Phase {
    StartUp { best_rate: f64, flat_rounds: u8 },
    Cruise { grown_rounds: u8 },
    Probe(Probe),
}

#[derive(Debug)]
struct Probe {
    since: Instant,
    /// What the path delivers, when it was a queue that began the probe.
    rate: Option<f64>,
    /// No more credit is out than the probe leaves: PINGs from then on count.
    drained: Option<Instant>,
}

/// From the telling of a limit until it is reached: at least a round trip.
#[derive(Debug)]
struct Round {
    since: Instant,
    received: u64,
    limit: u64,
}

/// The shortest round trip, and when one as short was last seen.
#[derive(Debug, Clone, Copy)]
struct Least {
    time: Duration,
    seen: Instant,
}

impl Delivery {
    /// A window whose first size the peer already knows.
    pub fn new(now: Instant, initial: u64, max: u64) -> Self {
        Delivery {
            size: initial,
            max: max.max(initial),
            phase: Phase::START,
            round: None,
            rate: BestRate::new(now, 0.0),
            latest_rate: 0.0,
            least: None,
            latest_round_trip: INITIAL_ROUND_TRIP,
            queued_since: None,
            used_up: false,
            both_ways: false,
            longer: (0, Duration::MAX),
            probed: None,
            company: Company::default(),
        }
    }

    /// Another attachment carries the tunnel, perhaps on another path: everything but the window itself is measured anew.
    pub fn restart(&mut self, now: Instant) {
        *self = Delivery::new(now, self.size, self.max);
    }

    /// The window, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The shortest round trip of late.
    pub fn least_round_trip(&self) -> Duration {
        self.least.map_or(INITIAL_ROUND_TRIP, |least| least.time)
    }

    /// What the limit is to advance by before it is told again, in bytes.
    pub fn step(&self) -> u64 {
        let rate = self.rate.best();
        let in_time = if rate > 0.0 {
            (rate * STEP.as_secs_f64()) as u64
        } else {
            STEP_FIRST
        };
        in_time
            .max(STEP_LEAST)
            .min(self.size / STEP_MOST_SHARE)
            .max(self.size / STEP_LEAST_SHARE)
    }

    /// Since when a PING that leaves would tell what a probe waits for.
    pub fn wants_ping_since(&self) -> Option<Instant> {
        match self.phase {
            Phase::Probe(Probe { drained, .. }) => drained,
            _ => None,
        }
    }

    /// The peer is told that it may send up to `limit`.
    pub fn told(&mut self, now: Instant, received: u64, limit: u64) {
        if self.round.is_none() {
            self.round = Some(Round {
                since: now,
                received,
                limit,
            });
        }
    }

    /// The stream that moves little beside those that move much.
    pub fn company(&mut self) -> &mut Company {
        &mut self.company
    }

    /// `received` bytes have come in all, and `limit` may.
    pub fn arrived(&mut self, now: Instant, received: u64, limit: u64) {
        if let Phase::Probe(probe) = &mut self.phase {
            let out = limit.saturating_sub(received);
            if probe.drained.is_none() && out <= self.size.saturating_add(self.size / 8) {
                probe.drained = Some(now);
            }
            let patience = self
                .latest_round_trip
                .saturating_mul(PROBE_PATIENCE_ROUND_TRIPS)
                .saturating_add(PROBE_PATIENCE);
            if now.saturating_duration_since(probe.since) > patience {
                self.end_probe(now, None);
            }
        }
        let Some(round) = &self.round else { return };
        let elapsed = now.saturating_duration_since(round.since);
        let is_used_up = received >= round.limit;
        let patience =
            self.latest_round_trip
                .saturating_mul(if is_used_up { 0 } else { ROUND_PATIENCE });
        if elapsed >= patience.max(ROUND_MIN) {
            let bytes = received.saturating_sub(round.received);
            let granted = round.limit.saturating_sub(round.received);
            self.round = None;
            self.end_round(
                now,
                bytes as f64 / elapsed.as_secs_f64(),
                is_used_up.then_some(granted),
            );
        }
    }

    /// A round delivered at this rate, and perhaps all of what was granted at its beginning.
    fn end_round(&mut self, now: Instant, rate: f64, granted: Option<u64>) {
        self.latest_rate = rate;
        let grows_again =
            rate >= self.rate.best() * GROWS_AGAIN && granted.is_some() && self.is_free(now, rate);
        let is_queued = self.queued_since.is_some() && !matches!(self.phase, Phase::Probe(_));
        self.rate.add(now, rate, is_queued, self.least_round_trip());
        match self.phase {
            Phase::StartUp {
                best_rate,
                flat_rounds,
            } => {
                let is_too_small =
                    granted.is_some_and(|granted| self.is_too_small(now, rate, granted));
                self.start_up(now, rate, best_rate, flat_rounds, is_too_small);
            }
            Phase::Cruise { grown_rounds }
                if !grows_again || grown_rounds.saturating_add(1) < GROWN_ROUNDS =>
            {
                self.cruise(now);
                self.phase = Phase::Cruise {
                    grown_rounds: if grows_again {
                        grown_rounds.saturating_add(1)
                    } else {
                        0
                    },
                };
            }
            Phase::Cruise { .. } => self.start_up(now, rate, 0.0, 0, true),
            Phase::Probe(_) => {}
        }
    }

    /// A round of start-up, whose rounds before had this best rate, and whose last ones none that was better.
    fn start_up(
        &mut self,
        now: Instant,
        rate: f64,
        best_rate: f64,
        flat_rounds: u8,
        is_too_small: bool,
    ) {
        let is_queued = self.queued_since.is_some();
        let grows = rate >= best_rate * STILL_GROWS;
        let flat_rounds = if grows {
            0
        } else {
            flat_rounds.saturating_add(u8::from(is_queued || self.used_up))
        };
        self.phase = Phase::StartUp {
            best_rate: if grows { rate } else { best_rate },
            flat_rounds,
        };
        if flat_rounds >= FLAT_ROUNDS {
            // The queue of start-up is no reason for a probe.
            self.probed = Some(now);
            self.cruise(now);
        } else if is_too_small && (grows || !is_queued) {
            self.size = self.size.saturating_mul(2).min(self.max);
        }
    }

    /// Whether a window of as much, which was used up at this rate, limits what the path delivers or what the ends could.
    fn is_too_small(&self, now: Instant, rate: f64, granted: u64) -> bool {
        rate * self.least_round_trip().as_secs_f64() * USED_UP_WITHIN >= granted as f64
            || self.scheduled(now, rate) > self.size as f64
    }

    /// Whether the path shows no queue, and is so long that its length and not the ends' pace decides about the window.
    fn is_free(&self, now: Instant, rate: f64) -> bool {
        let length = self.least_round_trip();
        let is_long = length > JITTER && rate * length.as_secs_f64() > self.scheduled(now, rate);
        is_long && !self.both_ways && self.queued_since.is_none()
    }

    fn cruise(&mut self, now: Instant) {
        self.phase = Phase::Cruise { grown_rounds: 0 };
        let rate = self.rate.best();
        let gain = if self.both_ways { GAIN_BOTH_WAYS } else { GAIN };
        let least = self.least_round_trip();
        let waited = if self.company.is_there(now) {
            WAIT_FOR_PROCESSORS.saturating_sub(least.mul_f64(LESS_WAIT))
        } else {
            Duration::ZERO
        };
        let length = least.saturating_sub(waited);
        self.set_size((gain * rate * length.as_secs_f64()).max(self.scheduled(now, rate)));
    }

    /// What the ends need at this rate, however short the path, in bytes.
    fn scheduled(&self, now: Instant, rate: f64) -> f64 {
        (rate * SCHEDULING.as_secs_f64()).min(if self.company.is_there(now) {
            SCHEDULED_MAX_BESIDE
        } else {
            SCHEDULED_MAX
        })
    }

    fn set_size(&mut self, bytes: f64) {
        // A cast of a float saturates.
        self.size = ((bytes + EVEN_SHARE) as u64).min(self.max);
    }

    /// An answer came.
    pub fn answered(&mut self, now: Instant, sample: Sample) {
        self.latest_round_trip = sample.round_trip;
        self.used_up = sample.used_up;
        self.both_ways = sample.both_ways;
        if let Phase::Probe(Probe { drained, .. }) = self.phase {
            if drained.is_some_and(|drained| sample.sent >= drained) {
                self.end_probe(now, Some(sample.round_trip));
            }
            return;
        }
        self.note_quiet(now, sample);
        let least = self.note_least(now, sample.round_trip);
        let queued = if sample.both_ways {
            QUEUED_BOTH_WAYS
        } else {
            QUEUED
        };
        if sample.round_trip > least.time.mul_f64(queued).saturating_add(JITTER) {
            self.queued_since.get_or_insert(now);
        } else {
            self.queued_since = None;
        }
        match self.phase {
            Phase::Cruise { .. } if self.is_probe_due(now, least) => self.begin_probe(now),
            // Nothing has filled the path yet: what it takes now is its length.
            Phase::StartUp { .. } if now.saturating_duration_since(least.seen) > PROBE_AFTER => {
                self.least = None
            }
            _ => {}
        }
    }

    /// Little traffic shows the path's length as it is.
    fn note_quiet(
        &mut self,
        now: Instant,
        Sample {
            round_trip, quiet, ..
        }: Sample,
    ) {
        let is_longer = round_trip
            > self
                .least_round_trip()
                .mul_f64(QUEUED)
                .saturating_add(JITTER);
        let (count, shortest) = self.longer;
        self.longer = match (quiet, is_longer) {
            (true, true) if count.saturating_add(1) >= QUIET_LONGER => {
                self.least = Some(Least {
                    time: shortest.min(round_trip),
                    seen: now,
                });
                (0, Duration::MAX)
            }
            (true, true) => (count.saturating_add(1), shortest.min(round_trip)),
            _ => (0, Duration::MAX),
        };
    }

    fn note_least(&mut self, now: Instant, time: Duration) -> Least {
        let least = match self.least {
            Some(least) if time > least.time => {
                let as_short = least
                    .time
                    .mul_f64(AS_SHORT)
                    .max(least.time.saturating_add(AS_SHORT_WITHIN));
                if time > as_short {
                    least
                } else {
                    Least { seen: now, ..least }
                }
            }
            _ => Least { time, seen: now },
        };
        self.least = Some(least);
        least
    }

    fn is_probe_due(&self, now: Instant, least: Least) -> bool {
        let since = |at: Instant| now.saturating_duration_since(at);
        let usual = least
            .time
            .saturating_mul(PROBE_AFTER_ROUND_TRIPS)
            .max(PROBE_AFTER);
        let early = least
            .time
            .saturating_mul(EARLY_PROBE_ROUND_TRIPS)
            .max(EARLY_PROBE_AFTER);
        let is_early_due = self
            .queued_since
            .is_some_and(|queued| since(queued) > early);
        let is_usual_due = since(least.seen) > usual;
        let apart = least
            .time
            .saturating_mul(EARLY_PROBES_APART_ROUND_TRIPS)
            .max(EARLY_PROBES_APART);
        (is_early_due || is_usual_due) && self.probed.is_none_or(|probed| since(probed) > apart)
    }

    fn begin_probe(&mut self, now: Instant) {
        let rate = self.queued_since.map(|_| self.latest_rate);
        self.phase = Phase::Probe(Probe {
            since: now,
            rate,
            drained: None,
        });
        // The rate of now: a path that became slower would not drain at the best one.
        self.set_size(
            PROBE_GAIN
                * self.latest_rate.min(self.rate.best())
                * self.least_round_trip().as_secs_f64(),
        );
    }

    fn end_probe(&mut self, now: Instant, found: Option<Duration>) {
        let before = self.least_round_trip();
        let most = if self.both_ways {
            before.mul_f64(LONGER_BOTH_WAYS)
        } else {
            Duration::MAX
        };
        // Ends that wait for a processor answer a little later: the path is not longer for it.
        let is_jitter =
            |found: &Duration| *found > before && *found <= before.saturating_add(JITTER);
        let time = found
            .filter(|found| !is_jitter(found))
            .unwrap_or(before)
            .min(most);
        // The queue that stood was ours, so that the rate meanwhile was that of the path.
        if let Phase::Probe(Probe {
            rate: Some(rate), ..
        }) = self.phase
            && time < before.mul_f64(QUEUED)
        {
            self.rate = BestRate::new(now, rate);
        }
        self.least = Some(Least { time, seen: now });
        self.probed = Some(now);
        self.queued_since = None;
        self.round = None;
        self.cruise(now);
        if time > before.mul_f64(ANOTHER_PATH).saturating_add(JITTER) {
            self.phase = Phase::START;
        }
    }
}

impl Phase {
    const START: Phase = Phase::StartUp {
        best_rate: 0.0,
        flat_rounds: 0,
    };
}
