//! Decides which master to dial next, and when (PROTOCOL 6.4). Pure: the time is an argument.
//!
//! ```text
//!             failed                the rest is over, or it ends first of all rests
//!   ready ─────────────► resting ────────────────────────────────────────────────────► dialled
//!     ▲                                                                                  │
//!     └─────────────────────────── a link that lived has ended ◄─────────────────────────┘
//! ```
//!
//! Each master rests separately: a master that failed is not dialled before its own rest is over,
//! while another one can be dialled. The rest is drawn below a part of the time for which this
//! master has failed. It therefore grows exponentially, up to a maximum.
//!
//! The roles of a master that was down would all be back within the first rests. From the second
//! failure on, a rest is therefore drawn from the range that the master last advised in WELCOME, if
//! that is longer. A master that is full states a minimum: `Retry-After`, or the advice of its
//! ERROR.
//!
//! After the end of a link the next attempt is immediate while the token bucket has tokens. Each
//! second of a link's life adds tokens, up to the size of the bucket. A path that cuts links every
//! second is bridged each time, and a master that ends links directly after the join is not
//! flooded.

#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::time::Instant;

use crate::supervisor::backoff::RetryBackoff;

/// The minimum of the range from which a rest after a failed attempt is drawn. A killed master
/// mostly returns within one or two seconds, and users notice every delay after that.
const INITIAL_REST: Duration = Duration::from_millis(150);

/// The range of a rest is the failure time divided by this. On average the failure time grows by an
/// eighth until the next attempt.
const FAILURE_TIME_DIVISOR: u32 = 4;

/// The longest rest while both ends keep the state of the streams. A long wait would lose it.
const MAX_REST_WHILE_RESUMABLE: Duration = Duration::from_secs(5);

/// How long the ends keep the state (PROTOCOL 12, the resume timeout).
const RESUMABLE: Duration = report_proto::constants::RESUME_TIMEOUT;

/// The longest rest. An operator who repairs the path should not have to restart a role.
pub(super) const MAX_REST: Duration = Duration::from_secs(30);

/// The extra rest after an error that requires a change of the configuration at either end.
const CONFIGURATION_REST: Duration = Duration::from_secs(5);

/// A failure that is older than this is unrelated to the next one, whose rest starts again at the
/// initial range.
const FAILURE_MEMORY: Duration = Duration::from_secs(60);

/// The longest range that a master can advise (PROTOCOL 12, `RETRY_WITHIN_MAX`): half of the time
/// for which the ends keep the state.
const MAX_ADVISED_RANGE: Duration = Duration::from_secs(60);

/// The part of `Retry-After` that is added at random, so that the roles that a full master refused
/// do not return together.
const RETRY_AFTER_JITTER: f64 = 0.5;

/// The immediate attempts that a second of a link's life adds. A path that cuts four times a second
/// is still bridged.
const TOKENS_PER_SECOND: f64 = 4.0;

/// The size of the token bucket of immediate attempts, which is full at the start.
const MAX_TOKENS: f64 = 10.0;

/// The range from which the delay of an immediate attempt is drawn, so that ten thousand clients of
/// a killed master do not return at the same moment.
const IMMEDIATE_DELAY_MAX: Duration = Duration::from_millis(10);

/// The next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NextAttempt {
    /// The index of the master.
    pub(super) master: usize,
    /// The time to wait before it.
    pub(super) wait: Duration,
}

/// A failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AttemptFailure {
    /// Whether another attempt can succeed without a change of the configuration.
    pub(super) is_retryable: bool,
    /// The time for which no attempt at any master has succeeded.
    pub(super) linkless: Duration,
    /// The minimum wait that the master, or a gateway or proxy on the path, asks for. Such a peer
    /// has proven nothing, so the wait is short (`EARLY_RETRY_AFTER_MAX`).
    pub(super) retry_after: Option<Duration>,
}

/// The retry policy of one uplink.
#[derive(Debug)]
pub(super) struct RetryPolicy {
    masters: Vec<MasterRetry>,
    /// The tokens for immediate attempts.
    tokens: f64,
}

/// The retry state of one master.
#[derive(Debug)]
struct MasterRetry {
    /// When its rest is over.
    rests_until: Option<Instant>,
    /// The end of the wait that the master asked for in its latest refusal. The end of a link or a
    /// later failure does not shorten it.
    refuses_until: Option<Instant>,
    /// The range that the master's latest WELCOME advised, or zero.
    advised_range: Duration,
    /// Its first and latest failure since the last link.
    failures: Option<(Instant, Instant)>,
    /// The rests after links that ended directly after the join.
    short_lived: RetryBackoff,
}

impl MasterRetry {
    fn new() -> Self {
        MasterRetry {
            rests_until: None,
            refuses_until: None,
            advised_range: Duration::ZERO,
            failures: None,
            short_lived: RetryBackoff::new(INITIAL_REST, MAX_REST_WHILE_RESUMABLE),
        }
    }

    /// Returns the remaining rest, or zero.
    fn remaining_rest(&self, now: Instant) -> Duration {
        self.rests_until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// Records a failed attempt. Returns the range of the next rest, which is at most `max` or what
    /// the master advised.
    fn record_failure(&mut self, now: Instant, max: Duration) -> Duration {
        let rested_until = self.rests_until;
        let recent = self.failures.filter(|(_, last)| {
            // A long rest must not look like a time without failures.
            let since = rested_until.map_or(*last, |until| until.max(*last));
            now.saturating_duration_since(since) < FAILURE_MEMORY
        });
        let first = recent.map_or(now, |(first, _)| first);
        self.failures = Some((first, now));
        let failing = now.saturating_duration_since(first);
        let range = (failing / FAILURE_TIME_DIVISOR).clamp(INITIAL_REST, max);
        if recent.is_some() {
            range.max(self.advised_range)
        } else {
            range
        }
    }

    /// Records that the master asks for this wait, and adds a random part.
    fn refuse_for(&mut self, now: Instant, wait: Duration) {
        let wait = wait.mul_f64(1.0 + RETRY_AFTER_JITTER * fastrand::f64());
        self.refuses_until = Some(now + wait);
        self.rests_until = self.rests_until.max(self.refuses_until);
    }

    /// Forgets the failures, but not what the master asked for.
    fn reset(&mut self) {
        *self = MasterRetry {
            rests_until: self.refuses_until,
            refuses_until: self.refuses_until,
            advised_range: self.advised_range,
            ..MasterRetry::new()
        };
    }
}

impl RetryPolicy {
    /// Creates the policy of an uplink to `masters` masters, at least one.
    pub(super) fn new(masters: usize) -> Self {
        RetryPolicy {
            masters: (0..masters).map(|_| MasterRetry::new()).collect(),
            tokens: MAX_TOKENS,
        }
    }

    /// Records that the master accepted the role: later failures are unrelated to the earlier ones.
    /// `advised_range` is the range of its WELCOME, or zero.
    pub(super) fn on_joined(&mut self, master: usize, advised_range: Duration) {
        if let Some(master) = self.masters.get_mut(master) {
            (master.rests_until, master.refuses_until) = (None, None);
            master.failures = None;
            master.advised_range = advised_range.min(MAX_ADVISED_RANGE);
        }
    }

    /// Records that `master` asks for this wait at the end of a link.
    pub(super) fn on_refused(&mut self, now: Instant, master: usize, wait: Duration) {
        if let Some(master) = self.masters.get_mut(master) {
            master.refuse_for(now, wait);
        }
    }

    /// Records that a link to `master` has ended after `lived`, or has to be replaced. Returns the
    /// next attempt: at the same master, unless attempts at it have failed in the meantime and
    /// another master is ready, or it asks for a wait that lasts longer than the rest of another
    /// one.
    pub(super) fn on_link_end(
        &mut self,
        now: Instant,
        master: usize,
        lived: Duration,
    ) -> NextAttempt {
        self.tokens = (self.tokens + lived.as_secs_f64() * TOKENS_PER_SECOND).min(MAX_TOKENS);
        let same = NextAttempt {
            master,
            wait: immediate_delay(),
        };
        let has_token = self.tokens >= 1.0;
        let Some(ended) = self.masters.get_mut(master) else {
            return same;
        };
        if !has_token {
            let rests_until = now + ended.short_lived.next_wait();
            ended.rests_until = Some(rests_until).max(ended.refuses_until);
        } else {
            self.tokens -= 1.0;
            if ended.remaining_rest(now).is_zero()
                || self.next_ready(now, master, &|_| false).is_none()
            {
                // The link lived, so the master's earlier failures do not count any more.
                let ended = &mut self.masters[master];
                ended.reset();
                if ended.remaining_rest(now).is_zero() {
                    return same;
                }
                // It asked for a wait, which may be longer than the rest of another master.
            }
        }
        self.next(now, master, &|_| false).unwrap_or(same)
    }

    /// Records a failed attempt at `master`. Returns how long this master rests.
    pub(super) fn on_attempt_failed(
        &mut self,
        now: Instant,
        master: usize,
        failure: AttemptFailure,
    ) -> Duration {
        let Some(master) = self.masters.get_mut(master) else {
            return INITIAL_REST;
        };
        let max = if failure.linkless < RESUMABLE {
            MAX_REST_WHILE_RESUMABLE
        } else {
            MAX_REST
        };
        let drawn = master.record_failure(now, max).mul_f64(fastrand::f64());
        let rest = if failure.is_retryable {
            drawn
        } else {
            MAX_REST.min(drawn + CONFIGURATION_REST)
        };
        // The master may have asked for a wait while this attempt was running.
        master.rests_until = Some(now + rest).max(master.refuses_until);
        if let Some(wait) = failure.retry_after {
            master.refuse_for(now, wait);
        }
        master.remaining_rest(now)
    }

    /// Returns the next attempt after one at `master`, without the `excluded` masters: the next
    /// master of the list that is ready, otherwise the master whose rest ends first. Returns `None`
    /// if all are excluded.
    pub(super) fn next(
        &self,
        now: Instant,
        master: usize,
        excluded: &dyn Fn(usize) -> bool,
    ) -> Option<NextAttempt> {
        self.next_ready(now, master, excluded)
            .map(|master| NextAttempt {
                master,
                wait: immediate_delay(),
            })
            .or_else(|| {
                let resting = self.others(master).filter(|other| !excluded(*other));
                let first = resting.min_by_key(|other| self.remaining_rest(now, *other))?;
                Some(NextAttempt {
                    master: first,
                    wait: self.remaining_rest(now, first),
                })
            })
    }

    /// Whether this master rests.
    pub(super) fn is_resting(&self, now: Instant, master: usize) -> bool {
        !self.remaining_rest(now, master).is_zero()
    }

    /// Returns the first master after this one that is ready and not excluded.
    fn next_ready(
        &self,
        now: Instant,
        master: usize,
        excluded: &dyn Fn(usize) -> bool,
    ) -> Option<usize> {
        self.others(master)
            .find(|other| !excluded(*other) && self.remaining_rest(now, *other).is_zero())
    }

    /// Iterates over all masters, starting after this one. This one comes last.
    fn others(&self, master: usize) -> impl Iterator<Item = usize> + use<> {
        let masters = self.masters.len();
        (1..=masters).map(move |step| (master + step) % masters)
    }

    fn remaining_rest(&self, now: Instant, master: usize) -> Duration {
        self.masters
            .get(master)
            .map_or(Duration::ZERO, |master| master.remaining_rest(now))
    }
}

fn immediate_delay() -> Duration {
    IMMEDIATE_DELAY_MAX.mul_f64(fastrand::f64())
}
