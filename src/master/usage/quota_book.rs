//! The quotas of the subjects that are in use: the bytes of all masters in the database, the own bytes
//! that are not written yet, and the thresholds that are reached. Pure: the time is an argument.
//!
//! The sum of a counter is the value that was read from the database, and the own increments since.
//! Other masters' bytes appear with the next read.

use std::collections::{BTreeSet, HashMap};

use super::{meter::add, pending::PendingUsage};
use crate::{
    master::policies::QuotaState,
    policy::{
        ByteSize, Direction, LimitSubject, Moved, Period, PeriodBounds, PolicyTable, Quota,
        RateLimit, Rates, RelayPolicy, Threshold, ThresholdAction,
    },
    store::{QuotaCounter, QuotaUsage},
};

/// The quotas of the subjects that are in use.
#[derive(Debug, Default)]
pub(super) struct QuotaBook {
    subjects: HashMap<LimitSubject, SubjectQuotas>,
    /// The subject that was read last.
    next_read: Option<LimitSubject>,
}

/// The quotas of one subject.
#[derive(Debug)]
struct SubjectQuotas {
    quotas: Vec<QuotaProgress>,
    counters: Vec<PeriodCounter>,
    /// Whether its bytes have changed since the last read.
    is_busy: bool,
    /// The state that was reported last.
    state: QuotaState,
}

/// A quota and the threshold that is reached.
#[derive(Debug)]
struct QuotaProgress {
    quota: Quota,
    /// The place in `counters`.
    counter: usize,
    /// The percentage of the highest threshold that was reported in this period.
    reported: u16,
}

/// The bytes of the present period. Quotas with the same period share it.
#[derive(Debug)]
struct PeriodCounter {
    period: Period,
    name: String,
    bounds: PeriodBounds,
    /// The bytes of all masters in the database.
    stored: Moved,
    /// The own bytes that are not in the database.
    unwritten: Moved,
    /// Whether `stored` was read.
    is_read: bool,
}

/// A threshold that has just been reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::master) struct ReachedThreshold {
    /// The subject.
    pub(in crate::master) subject: LimitSubject,
    /// The text of the period.
    pub(in crate::master) period: String,
    /// The percentage.
    pub(in crate::master) percent: u16,
    /// The action.
    pub(in crate::master) action: ThresholdAction,
    /// The bytes of the quota.
    pub(in crate::master) bytes: ByteSize,
}

/// The result of a check.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct QuotaCheck {
    /// The states that have changed.
    pub(super) changed: Vec<(LimitSubject, QuotaState)>,
    /// The thresholds that were reached.
    pub(super) reached: Vec<ReachedThreshold>,
}

/// The bytes left of a quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QuotaLeft {
    /// The subject.
    pub(super) subject: LimitSubject,
    /// The text of the period.
    pub(super) period: String,
    /// The direction of the counted bytes.
    pub(super) direction: Direction,
    /// The bytes.
    pub(super) left: u64,
}

impl PeriodCounter {
    fn new(period: &Period, now: i64) -> Self {
        PeriodCounter {
            name: period.to_string(),
            bounds: period.current(now),
            period: period.clone(),
            stored: Moved::default(),
            unwritten: Moved::default(),
            is_read: false,
        }
    }

    /// Begins the next period if it is time, also after a clock that was set back.
    fn update(&mut self, now: i64) -> bool {
        let PeriodBounds { start, end } = self.bounds;
        if now >= start && end.is_none_or(|end| now < end) {
            return false;
        }
        *self = PeriodCounter::new(&self.period, now);
        true
    }

    fn moved(&self) -> Moved {
        let mut moved = self.stored;
        add(&mut moved, self.unwritten);
        moved
    }

    fn counter(&self, subject: LimitSubject) -> QuotaCounter {
        QuotaCounter {
            subject,
            quota: self.name.clone(),
            period_start: self.bounds.start,
        }
    }

    fn is(&self, counter: &QuotaCounter) -> bool {
        self.bounds.start == counter.period_start && self.name == counter.quota
    }
}

impl SubjectQuotas {
    fn new() -> Self {
        SubjectQuotas {
            quotas: Vec::new(),
            counters: Vec::new(),
            is_busy: true,
            state: QuotaState::default(),
        }
    }

    /// Adopts changed quotas. Counters of the same period keep their bytes.
    fn set(&mut self, quotas: &[Quota], now: i64) {
        let mut before = std::mem::take(&mut self.counters);
        let former = std::mem::take(&mut self.quotas);
        for quota in quotas {
            let name = quota.period.to_string();
            let known = self.counters.iter().position(|known| known.name == name);
            let counter = known.unwrap_or_else(|| {
                let kept = before.iter().position(|before| before.name == name);
                let counter = match kept {
                    Some(kept) => before.swap_remove(kept),
                    None => PeriodCounter::new(&quota.period, now),
                };
                self.counters.push(counter);
                self.counters.len().saturating_sub(1)
            });
            self.quotas.push(QuotaProgress {
                quota: quota.clone(),
                counter,
                reported: former
                    .iter()
                    .find(|former| former.quota == *quota)
                    .map_or(0, |former| former.reported),
            });
        }
        self.is_busy = true;
    }

    fn is_current(&self, quotas: &[Quota]) -> bool {
        let known = self.quotas.iter().map(|progress| &progress.quota);
        known.eq(quotas)
    }

    /// Begins the periods that are due.
    fn update(&mut self, now: i64) {
        for (index, counter) in self.counters.iter_mut().enumerate() {
            if counter.update(now) {
                let ended = self.quotas.iter_mut();
                let ended = ended.filter(|progress| progress.counter == index);
                ended.for_each(|progress| progress.reported = 0);
                self.is_busy = true;
            }
        }
    }

    /// Returns the state, and adds the thresholds that are reached for the first time.
    fn check(
        &mut self,
        subject: LimitSubject,
        relay: &RelayPolicy,
        reached: &mut Vec<ReachedThreshold>,
    ) -> QuotaState {
        let mut state = QuotaState::default();
        let SubjectQuotas {
            quotas, counters, ..
        } = self;
        for progress in quotas {
            let Some(counter) = counters.get(progress.counter) else {
                continue;
            };
            let (quota, moved) = (&progress.quota, counter.moved());
            let all = quota.reached(quota.bytes, moved);
            let part = match subject {
                LimitSubject::Relay => quota.reached(relay.bytes_for(None, quota.bytes), moved),
                LimitSubject::Account(_) | LimitSubject::Key(_) => all,
            };
            if let Some(threshold) = part {
                state.is_stopped |= threshold.action == ThresholdAction::Stop;
                slow_down(&mut state.slow_others, quota, threshold);
            }
            if let Some(threshold) = all {
                state.is_reserve_stopped |= threshold.action == ThresholdAction::Stop;
                slow_down(&mut state.slow, quota, threshold);
            }
            // A counter that was reset, or a changed reserve, reaches its thresholds again.
            let percent = part.map_or(0, |threshold| threshold.percent);
            progress.reported = progress.reported.min(percent);
            let Some(threshold) = part else {
                continue;
            };
            if threshold.percent > progress.reported {
                progress.reported = threshold.percent;
                reached.push(ReachedThreshold {
                    subject,
                    period: counter.name.clone(),
                    percent: threshold.percent,
                    action: threshold.action,
                    bytes: quota.bytes,
                });
            }
        }
        if state.slow_others == state.slow {
            // The rate of the subject itself is enough.
            state.slow_others = Rates::default();
        } else {
            state.reserve = relay.reserve.map(|reserve| reserve.account);
        }
        state
    }
}

/// Adds the rate of a threshold that slows down, unless a lower one applies.
fn slow_down(rates: &mut Rates, quota: &Quota, threshold: &Threshold) {
    let Some(rate) = threshold.slow_rate() else {
        return;
    };
    let limit = match quota.direction {
        Direction::Up => &mut rates.up,
        Direction::Down => &mut rates.down,
        Direction::Both => &mut rates.both,
    };
    *limit = Some(lower(limit.as_ref(), RateLimit { rate, burst: None }));
}

/// Returns the lower one of two limits.
fn lower(limit: Option<&RateLimit>, other: RateLimit) -> RateLimit {
    match limit {
        Some(limit) if limit.rate <= other.rate => *limit,
        _ => other,
    }
}

/// Returns the quotas of a subject.
fn quotas_of(table: &PolicyTable, subject: LimitSubject) -> &[Quota] {
    let limits = match subject {
        LimitSubject::Relay => Some(&table.relay().limits),
        LimitSubject::Account(id) => table.account(id).map(|account| &account.limits),
        LimitSubject::Key(id) => table.key(id).and_then(|key| key.limits.as_deref()),
    };
    limits
        .map(|limits| limits.quotas.as_slice())
        .unwrap_or_default()
}

impl QuotaBook {
    /// Follows the quotas of a subject, which is in use from now on.
    pub(super) fn track(&mut self, table: &PolicyTable, subject: LimitSubject, now: i64) {
        let quotas = quotas_of(table, subject);
        if !quotas.is_empty() && !self.subjects.contains_key(&subject) {
            let mut tracked = SubjectQuotas::new();
            tracked.set(quotas, now);
            self.subjects.insert(subject, tracked);
        }
    }

    /// Adopts the present policies of all tracked subjects.
    pub(super) fn adopt(&mut self, table: &PolicyTable, now: i64) {
        for (subject, tracked) in &mut self.subjects {
            let quotas = quotas_of(table, *subject);
            if !tracked.is_current(quotas) {
                tracked.set(quotas, now);
            }
        }
    }

    /// Forgets the subjects that are neither in use nor have unwritten bytes, nor a threshold that
    /// was reported in this period and would be reported again. A subject without quotas is forgotten
    /// once its last state was reported.
    pub(super) fn forget(&mut self, is_in_use: impl Fn(LimitSubject) -> bool) {
        self.subjects.retain(|subject, tracked| {
            let is_written = |counter: &PeriodCounter| counter.unwritten == Moved::default();
            let is_pending = !tracked.counters.iter().all(is_written);
            let is_in_force = tracked.state != QuotaState::default();
            let is_noted = tracked.quotas.iter().any(|quota| quota.reported > 0);
            let has_quotas = !tracked.quotas.is_empty();
            is_pending || is_in_force || is_noted || (has_quotas && is_in_use(*subject))
        });
    }

    /// Adds bytes of a subject to its quotas, and to the increments that wait for the database.
    pub(super) fn charge(
        &mut self,
        subject: LimitSubject,
        moved: Moved,
        now: i64,
        pending: &mut PendingUsage,
    ) {
        let Some(tracked) = self.subjects.get_mut(&subject) else {
            return;
        };
        tracked.update(now);
        tracked.is_busy = true;
        for counter in &mut tracked.counters {
            add(&mut counter.unwritten, moved);
            pending.add_quota(counter.counter(subject), moved);
        }
    }

    /// Moves the bytes of a committed flush from the unwritten ones to those in the database.
    pub(super) fn written(&mut self, quotas: &[QuotaUsage]) {
        for QuotaUsage { counter, moved } in quotas {
            let Some(known) = self.counter_mut(counter) else {
                continue;
            };
            known.unwritten = Moved {
                up: known.unwritten.up.saturating_sub(moved.up),
                down: known.unwritten.down.saturating_sub(moved.down),
            };
            add(&mut known.stored, *moved);
        }
    }

    /// Returns at most about `most` counters to read: those that have not been read, those of busy
    /// subjects, and then others, each in turn.
    pub(super) fn counters_to_read(&mut self, most: usize) -> Vec<QuotaCounter> {
        let mut all: Vec<LimitSubject> = self.subjects.keys().copied().collect();
        all.sort_unstable();
        let after = all.partition_point(|subject| Some(*subject) <= self.next_read);
        all.rotate_left(after);
        let classes: [fn(&SubjectQuotas) -> bool; 3] = [
            |tracked| tracked.counters.iter().any(|counter| !counter.is_read),
            |tracked| tracked.is_busy,
            |_| true,
        ];
        let mut wanted = BTreeSet::new();
        for is_due in classes {
            for subject in &all {
                if wanted.len() >= most {
                    break;
                }
                if self.subjects.get(subject).is_some_and(is_due) && wanted.insert(*subject) {
                    self.next_read = Some(*subject);
                }
            }
        }
        for subject in &wanted {
            if let Some(tracked) = self.subjects.get_mut(subject) {
                tracked.is_busy = false;
            }
        }
        let counters = wanted.into_iter().filter_map(|subject| {
            let tracked = self.subjects.get(&subject)?;
            let counters = tracked.counters.iter();
            Some(counters.map(move |counter| counter.counter(subject)))
        });
        counters.flatten().collect()
    }

    /// Adopts the values of the counters that were asked for. A counter without a row
    /// has no bytes.
    pub(super) fn adopt_read(&mut self, asked: &[QuotaCounter], found: Vec<QuotaUsage>) {
        let found = found.into_iter().map(|usage| (usage.counter, usage.moved));
        let found: HashMap<QuotaCounter, Moved> = found.collect();
        for counter in asked {
            if let Some(known) = self.counter_mut(counter) {
                known.stored = found.get(counter).copied().unwrap_or_default();
                known.is_read = true;
            }
        }
    }

    /// Begins the periods that are due, and returns the changes of all states.
    pub(super) fn check(&mut self, relay: &RelayPolicy, now: i64) -> QuotaCheck {
        let mut found = QuotaCheck::default();
        for (subject, tracked) in &mut self.subjects {
            tracked.update(now);
            let state = tracked.check(*subject, relay, &mut found.reached);
            if state != tracked.state {
                tracked.state.clone_from(&state);
                found.changed.push((*subject, state));
            }
        }
        found
    }

    /// Returns the bytes left of all quotas.
    pub(super) fn left(&self) -> Vec<QuotaLeft> {
        let subjects = self.subjects.iter();
        let left = subjects.flat_map(|(subject, tracked)| {
            tracked.quotas.iter().filter_map(|progress| {
                let counter = tracked.counters.get(progress.counter)?;
                Some(QuotaLeft {
                    subject: *subject,
                    period: counter.name.clone(),
                    direction: progress.quota.direction,
                    left: progress.quota.left(counter.moved()),
                })
            })
        });
        left.collect()
    }

    /// Whether no subject in use has a quota.
    pub(super) fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// Whether a counter has not been read from the database yet.
    pub(super) fn has_unread(&self) -> bool {
        let mut counters = self.subjects.values().flat_map(|tracked| &tracked.counters);
        counters.any(|counter| !counter.is_read)
    }

    fn counter_mut(&mut self, counter: &QuotaCounter) -> Option<&mut PeriodCounter> {
        let tracked = self.subjects.get_mut(&counter.subject)?;
        let mut counters = tracked.counters.iter_mut();
        counters.find(|known| known.is(counter))
    }
}
