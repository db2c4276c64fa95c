//! Decides how many links a role wants, from what its TCP connections moved and lost. Pure: the time
//! is an argument, and there are no sockets.
//!
//! ```text
//!            losses limit the rate        and still do
//!     1 ──────────────────────────► 4 ───────────────────► 8 ···► max      (a trial)
//!     ▲                             │                      │
//!     │◄── the trial brought nothing ┴──────────────────────┤  then no trial for a while
//!     └◄────────────────────────────── a rest ──────────────┘
//! ```
//!
//! A congestion control that reads losses as congestion limits a connection to a rate that falls with
//! the loss ratio and the round-trip time. N connections reach N times that rate. Where a full queue
//! is the limit, more connections only take the shares of other traffic. Both cases lose segments, so
//! the number of links is found by trial: it stays higher only if the rate grew.

mod direction;
#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use tokio::time::Instant;

use self::direction::Direction;

/// A direction is busy in a sample that moved at least this many bytes. Less is an interactive
/// stream or keep-alive, which losses delay, but do not limit.
pub(super) const BUSY_BYTES: u64 = 8 * 1024;

/// A direction is busy in a sample that moved at least this many segments. Fewer say nothing about a
/// ratio.
const BUSY_SEGMENTS: u64 = 5;

/// The number of links after the first step. Two would hardly be noticed in the noise of a lossy
/// path, and each step costs a trial.
const FIRST_STEP: usize = 4;

/// The ratio of lost segments at which the first step is [`HEAVY_STEP`]. With such losses one link
/// reaches less than a megabit per second over a round trip of 100 ms, and further ones take long to
/// be established.
const HEAVY_LOSS_RATIO: f64 = 0.025;

/// The number of links after the first step with heavy losses.
const HEAVY_STEP: usize = 8;

/// The minimum time between two steps up. New links need some round trips to be established and to
/// speed up.
const STEP_INTERVAL: Duration = Duration::from_millis(1500);

/// The time after the last step at which a trial is judged, if its links were up at once. Slow start
/// on a path of 200 ms is over by then. The time of the links is added twice: once for them, and once
/// for the lanes, which are attached over them, and over the links of the other end.
const TRIAL: Duration = Duration::from_secs(3);

/// The time after the last step at which a trial is judged even if some of its links are not up.
const MAX_TRIAL: Duration = Duration::from_secs(15);

/// The growth of the rate that keeps the links of a trial. Smaller differences are noise, and do not
/// pay for the links.
const REWARD: f64 = 1.2;

/// The time without trials after one that brought nothing. On a path that never rewards them, trials
/// take 7 % of the time at first, and later less than 1 %.
const FIRST_HOLD: Duration = Duration::from_secs(60);

/// The longest time without trials. Paths change within minutes, and a wrong verdict should not last.
const MAX_HOLD: Duration = Duration::from_secs(600);

/// The time without a busy sample after which the number falls back to one link. A person who pauses
/// between two transfers keeps the links.
const REST: Duration = Duration::from_secs(30);

/// Samples are taken by a timer, which may be early or late by this much.
const TIMER_TOLERANCE: Duration = Duration::from_millis(100);

/// What one direction moved, summed over the links of a role.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The delivered bytes.
    pub bytes: u64,
    /// The segments with data.
    pub segments: u64,
    /// The lost segments: those retransmitted, or an estimate by the receiver.
    pub losses: u64,
    /// The segments that arrived behind a loss while the path had no queue.
    pub delayed: u64,
}

impl Traffic {
    fn is_busy(&self) -> bool {
        self.bytes >= BUSY_BYTES && self.segments >= BUSY_SEGMENTS
    }
}

/// What the links of a role moved since the previous sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// From the master to the role.
    pub received: Traffic,
    /// From the role to the master.
    pub sent: Traffic,
    /// The number of links that are up.
    pub links: usize,
}

impl Sample {
    /// Returns whether a direction moved enough to matter.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.received.is_busy() || self.sent.is_busy()
    }
}

/// Why the wanted number of links changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DemandReason {
    /// Losses limit the rate.
    Losses,
    /// The rate did not grow with the number of links.
    NoGain,
    /// Nothing was transferred for a while.
    Rest,
}

impl fmt::Display for DemandReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            DemandReason::Losses => "losses limit the rate",
            DemandReason::NoGain => "more links brought no higher rate",
            DemandReason::Rest => "no transfer",
        })
    }
}

/// A change of the wanted number of links, for the log.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DemandChange {
    /// Why it changed.
    pub reason: DemandReason,
    /// The ratio of lost segments before the change, in the direction with the higher rate.
    pub loss: f64,
    /// The rate of that direction, in bytes per second.
    pub rate: f64,
}

/// Decides how many links a role wants.
#[derive(Debug)]
pub struct LinkDemand {
    min: usize,
    max: usize,
    wanted: usize,
    /// Received data, and sent data.
    directions: [Direction; 2],
    /// The end of the latest sample.
    sampled_at: Option<Instant>,
    /// The latest busy sample.
    busy_at: Option<Instant>,
    /// The latest step up.
    stepped_at: Option<Instant>,
    trial: Option<Trial>,
    hold: Option<Hold>,
    last_change: Option<DemandChange>,
}

/// A row of steps up that has not been judged yet.
#[derive(Debug)]
struct Trial {
    /// The number of links before the first step.
    from: usize,
    /// The rate of each direction before the first step at which losses limited it.
    rates_before: [Option<f64>; 2],
    /// How long some links of the last step were missing, and whether all have been up since.
    missing: Duration,
    is_complete: bool,
}

/// The time after a trial that brought nothing.
#[derive(Debug, Clone, Copy)]
struct Hold {
    /// The number of links not to exceed.
    links: usize,
    until: Instant,
    length: Duration,
}

impl LinkDemand {
    /// Creates the demand of a role that may have up to `max` links, and wants one.
    #[must_use]
    pub fn new(max: usize) -> Self {
        LinkDemand {
            min: 1,
            max: max.max(1),
            wanted: 1,
            directions: [Direction::default(), Direction::default()],
            sampled_at: None,
            busy_at: None,
            stepped_at: None,
            trial: None,
            hold: None,
            last_change: None,
        }
    }

    /// Makes the role always want at least `min` links, or the maximum if that is less.
    #[must_use]
    pub fn with_min(mut self, min: usize) -> Self {
        self.min = min.clamp(1, self.max);
        self.wanted = self.wanted.max(self.min);
        self
    }

    /// Returns whether the number of links cannot change.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        self.min == self.max
    }

    /// Returns the wanted number of links, at least the minimum.
    #[must_use]
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// Returns the latest change.
    #[must_use]
    pub fn last_change(&self) -> Option<&DemandChange> {
        self.last_change.as_ref()
    }

    /// Records what the links moved since the previous call, and returns the wanted number. The first
    /// call only starts the clock.
    pub fn on_sample(&mut self, now: Instant, sample: &Sample) -> usize {
        let last = self.sampled_at.replace(now);
        let length = last.map(|last| now.saturating_duration_since(last));
        let Some(length) = length.filter(|length| !length.is_zero()) else {
            return self.wanted;
        };
        let [received, sent] = &mut self.directions;
        received.record(now, length, &sample.received);
        sent.record(now, length, &sample.sent);
        if sample.is_busy() {
            self.busy_at = Some(now);
        } else if self.busy_at.is_none_or(|busy| has_passed(REST, busy, now))
            && self.wanted > self.min
        {
            self.change(self.min, DemandReason::Rest);
            self.trial = None;
        }
        self.judge(now, sample.links);
        self.step(now);
        self.wanted
    }

    /// Steps up if losses limit a direction.
    fn step(&mut self, now: Instant) {
        let limit = match self.hold {
            Some(hold) if now < hold.until => hold.links,
            _ => self.max,
        };
        let is_recent = self
            .stepped_at
            .is_some_and(|stepped| !has_passed(STEP_INTERVAL, stepped, now));
        let is_first = self.trial.is_none();
        let is_limited = |one: &Direction| one.is_lossy(now) && (!is_first || one.is_full(now));
        if self.wanted >= limit || is_recent || !self.directions.iter().any(is_limited) {
            return;
        }
        let trial = self.trial.get_or_insert(Trial {
            from: self.wanted,
            rates_before: [None, None],
            missing: Duration::ZERO,
            is_complete: false,
        });
        (trial.missing, trial.is_complete) = (Duration::ZERO, false);
        for (direction, rate) in self.directions.iter().zip(&mut trial.rates_before) {
            if is_limited(direction) && rate.is_none() {
                *rate = Some(direction.limited_rate());
            }
        }
        let mut limited = self.directions.iter().filter(|one| is_limited(one));
        let first = if limited.any(|one| one.loss_ratio() >= HEAVY_LOSS_RATIO) {
            HEAVY_STEP
        } else {
            FIRST_STEP
        };
        let next = self.wanted.saturating_mul(2).max(first).min(limit);
        self.stepped_at = Some(now);
        self.change(next, DemandReason::Losses);
    }

    /// Ends a trial after its time, with `links` up. One direction that gained suffices.
    fn judge(&mut self, now: Instant, links: usize) {
        let (Some(trial), Some(stepped)) = (&mut self.trial, self.stepped_at) else {
            return;
        };
        trial.is_complete |= links >= self.wanted;
        if !trial.is_complete {
            trial.missing = now.saturating_duration_since(stepped);
        }
        let time = if trial.is_complete {
            TRIAL + 2 * trial.missing
        } else {
            MAX_TRIAL
        };
        if !has_passed(time.min(MAX_TRIAL), stepped, now) {
            return;
        }
        let rates = self.directions.iter().zip(trial.rates_before);
        let gains: Vec<f64> = rates
            .filter_map(|(direction, before)| Some(direction.judged_rate()? / before?))
            .collect();
        if gains.is_empty() {
            return;
        }
        let from = trial.from;
        self.trial = None;
        if gains.iter().any(|gain| *gain >= REWARD) {
            // A number that is not above the failed one says nothing about that.
            self.hold = self.hold.filter(|hold| self.wanted <= hold.links);
        } else {
            self.hold = Some(self.next_hold(now, from));
            self.change(from, DemandReason::NoGain);
        }
    }

    /// Returns the hold after a trial that brought nothing. It doubles while that repeats.
    fn next_hold(&self, now: Instant, links: usize) -> Hold {
        let recent = self
            .hold
            .filter(|last| now.saturating_duration_since(last.until) <= MAX_HOLD);
        let length = recent.map_or(FIRST_HOLD, |last| (last.length * 2).min(MAX_HOLD));
        Hold {
            links,
            until: now + length,
            length,
        }
    }

    /// Changes the wanted number. Samples of the previous number are no evidence for the next one.
    fn change(&mut self, wanted: usize, reason: DemandReason) {
        let busiest = self
            .directions
            .iter()
            .max_by(|one, other| one.rate().total_cmp(&other.rate()));
        self.last_change = busiest.map(|direction| DemandChange {
            reason,
            loss: direction.loss_ratio(),
            rate: direction.rate(),
        });
        self.wanted = wanted;
        for direction in &mut self.directions {
            direction.clear();
        }
    }
}

/// Returns whether `time` has passed from `since` to `now`, as far as timers are exact.
fn has_passed(time: Duration, since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) + TIMER_TOLERANCE >= time
}
