//! The increments that wait for the database. Pure: the time is an argument.
//!
//! ```text
//!  add ──► [waiting] ──next──► [in flight] ──written──► gone
//!              │                  └─ failed: the same flush again, with the same number
//!              └─ too many: minutes become hours, then days
//! ```

use std::collections::BTreeMap;

use super::meter::add;
use crate::{
    policy::{LimitSubject, Moved},
    store::{LiveRow, MinuteUsage, QuotaCounter, QuotaUsage, UsageFlush},
};

/// The most increments of minutes that wait: 20 MB. While the database is away for long, the time of
/// the oldest ones gets coarser, but no byte is lost. With more subjects than that, one and a half
/// increments of each subject wait.
pub(super) const MAX_WAITING: usize = 200_000;

/// The most rows of a flush, so that others wait for its transaction for about a second at most.
pub(super) const MAX_ROWS: usize = 10_000;

/// An hour and a day, to which the times of increments are rounded when there are too many.
const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;

/// The increments that wait for the database.
#[derive(Debug)]
pub(super) struct PendingUsage {
    minutes: BTreeMap<(i64, LimitSubject), Moved>,
    quotas: BTreeMap<QuotaCounter, Moved>,
    in_flight: Option<UsageFlush>,
    /// The number of the latest flush.
    sequence: i64,
    max_waiting: usize,
    /// The most increments of minutes that wait at present. More than `max_waiting` only if there
    /// are so many subjects.
    max_minutes: usize,
    /// The most increments of quotas that wait with those of past periods.
    max_quotas: usize,
    /// How many increments all walks have visited.
    #[cfg(test)]
    walked: usize,
}

impl PendingUsage {
    /// Creates the increments of a new epoch. `max_waiting` is [`MAX_WAITING`], or less in tests.
    pub(super) fn new(max_waiting: usize) -> Self {
        PendingUsage {
            minutes: BTreeMap::new(),
            quotas: BTreeMap::new(),
            in_flight: None,
            sequence: 0,
            max_waiting,
            max_minutes: max_waiting,
            max_quotas: max_waiting,
            #[cfg(test)]
            walked: 0,
        }
    }

    /// Adds bytes that a subject has moved at a time.
    pub(super) fn add_usage(&mut self, subject: LimitSubject, moved: Moved, now: i64) {
        let minute = start_of(now, 60);
        add(self.minutes.entry((minute, subject)).or_default(), moved);
        if self.minutes.len() > self.max_minutes {
            self.make_room(now);
        }
    }

    /// Makes the times coarser until a tenth of the room is free, so that the walks over all
    /// increments cost an increment little on average. With more subjects than room, half of their
    /// number is added before the next walk.
    fn make_room(&mut self, now: i64) {
        let enough = self.max_waiting.saturating_sub(self.max_waiting / 10);
        // The last resort counts the past as of today. Only the number of subjects remains then.
        let today = start_of(now, DAY);
        let coarser: [&dyn Fn(i64) -> i64; 3] = [
            &|minute| start_of(minute, HOUR),
            &|minute| start_of(minute, DAY),
            &|minute| today.max(start_of(minute, DAY)),
        ];
        for time_of in coarser {
            self.change_times(time_of);
            if self.minutes.len() <= enough {
                break;
            }
        }
        let left = self.minutes.len();
        self.max_minutes = if left <= enough {
            self.max_waiting
        } else {
            left.saturating_add(left / 2)
        };
    }

    /// Adds bytes of a quota. If too many wait, those of past periods are dropped: they decide
    /// nothing any more, and the increments of minutes have their bytes.
    pub(super) fn add_quota(&mut self, counter: QuotaCounter, moved: Moved) {
        add(self.quotas.entry(counter).or_default(), moved);
        if self.quotas.len() > self.max_quotas {
            keep_latest_periods(&mut self.quotas);
            // The number of quotas bounds what is left.
            let twice = self.quotas.len().saturating_mul(2);
            self.max_quotas = self.max_waiting.max(twice);
        }
    }

    /// Returns the number of waiting increments of minutes, without those in flight.
    pub(super) fn waiting(&self) -> usize {
        self.minutes.len()
    }

    /// Whether it is unknown if the latest flush is committed.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Whether everything is written.
    pub(super) fn is_empty(&self) -> bool {
        self.minutes.is_empty() && self.quotas.is_empty() && self.in_flight.is_none()
    }

    /// Returns the flush to write now: the one that has failed before, otherwise the oldest
    /// increments, with these live numbers. A failed flush keeps its live numbers.
    pub(super) fn next(&mut self, now: i64, live: impl FnOnce() -> Vec<LiveRow>) -> &UsageFlush {
        let PendingUsage {
            minutes,
            quotas,
            in_flight,
            sequence,
            ..
        } = self;
        let flush = in_flight.get_or_insert_with(|| {
            *sequence = sequence.saturating_add(1);
            UsageFlush {
                sequence: *sequence,
                beat: now,
                minutes: first_minutes(minutes),
                quotas: first_quotas(quotas),
                live: live(),
            }
        });
        flush.beat = now;
        flush
    }

    /// Forgets the flush in flight, which is committed. Returns it.
    pub(super) fn written(&mut self) -> Option<UsageFlush> {
        self.in_flight.take()
    }

    /// Changes the times of the waiting increments.
    fn change_times(&mut self, time_of: &dyn Fn(i64) -> i64) {
        #[cfg(test)]
        {
            self.walked = self.walked.saturating_add(self.minutes.len());
        }
        for ((minute, subject), moved) in std::mem::take(&mut self.minutes) {
            let minute = time_of(minute);
            add(self.minutes.entry((minute, subject)).or_default(), moved);
        }
    }
}

/// Keeps the latest period of each quota.
fn keep_latest_periods(quotas: &mut BTreeMap<QuotaCounter, Moved>) {
    let mut latest: Vec<(QuotaCounter, Moved)> = Vec::new();
    // The periods of a quota follow one another.
    for (counter, moved) in std::mem::take(quotas) {
        match latest.last_mut() {
            Some((last, sum)) if last.subject == counter.subject && last.quota == counter.quota => {
                (*last, *sum) = (counter, moved);
            }
            _ => latest.push((counter, moved)),
        }
    }
    quotas.extend(latest);
}

/// Returns the start of the interval of this length that contains a time.
fn start_of(time: i64, length: i64) -> i64 {
    time.saturating_sub(time.checked_rem_euclid(length).unwrap_or_default())
}

/// Takes the oldest increments of minutes.
fn first_minutes(minutes: &mut BTreeMap<(i64, LimitSubject), Moved>) -> Vec<MinuteUsage> {
    let first = std::iter::from_fn(|| minutes.pop_first());
    first
        .take(MAX_ROWS)
        .map(|((minute, subject), moved)| MinuteUsage {
            subject,
            minute,
            moved,
        })
        .collect()
}

/// Takes increments of quotas.
fn first_quotas(quotas: &mut BTreeMap<QuotaCounter, Moved>) -> Vec<QuotaUsage> {
    let first = std::iter::from_fn(|| quotas.pop_first());
    first
        .take(MAX_ROWS)
        .map(|(counter, moved)| QuotaUsage { counter, moved })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::AccountId;

    const NOW: i64 = 1_800_000_000;

    fn account(id: i64) -> LimitSubject {
        LimitSubject::Account(AccountId(id))
    }

    fn moved(up: u64) -> Moved {
        Moved { up, down: 0 }
    }

    fn next(pending: &mut PendingUsage) -> UsageFlush {
        pending.next(NOW, Vec::new).clone()
    }

    fn total(flushes: &[UsageFlush]) -> u64 {
        let minutes = flushes.iter().flat_map(|flush| &flush.minutes);
        minutes.map(|row| row.moved.up).sum()
    }

    #[test]
    fn a_failed_flush_is_repeated_unchanged() {
        let mut pending = PendingUsage::new(MAX_WAITING);
        pending.add_usage(account(1), moved(5), NOW);
        let first = next(&mut pending);
        pending.add_usage(account(1), moved(6), NOW);
        assert_eq!(next(&mut pending), first);
        let later = pending.next(NOW + 5, || panic!("the live numbers of the first attempt"));
        assert_eq!((later.sequence, later.beat), (first.sequence, NOW + 5));
        assert_eq!(pending.written().map(|flush| flush.sequence), Some(1));
        let second = next(&mut pending);
        assert_eq!(
            (second.sequence, total(std::slice::from_ref(&second))),
            (2, 6)
        );
        pending.written();
        assert!(pending.is_empty());
        assert_eq!(next(&mut pending).sequence, 3, "an empty flush is a beat");
    }

    #[test]
    fn increments_of_a_minute_are_one_row() {
        let mut pending = PendingUsage::new(MAX_WAITING);
        for (subject, time) in [(1, 0), (1, 59), (1, 60), (2, 0)] {
            pending.add_usage(account(subject), moved(1), NOW + time);
        }
        assert_eq!(pending.waiting(), 3);
        let counter = QuotaCounter {
            subject: account(1),
            quota: "total".to_owned(),
            period_start: 0,
        };
        pending.add_quota(counter.clone(), moved(2));
        pending.add_quota(counter.clone(), moved(3));
        let flush = next(&mut pending);
        assert_eq!(flush.minutes.len(), 3);
        let minutes: Vec<_> = flush.minutes.iter().map(|row| row.minute).collect();
        assert_eq!(minutes, [NOW, NOW, NOW + 60]);
        let moved = moved(5);
        assert_eq!(flush.quotas, [QuotaUsage { counter, moved }]);
    }

    #[test]
    fn a_flush_has_a_bound() {
        let mut pending = PendingUsage::new(MAX_WAITING);
        let rows = i64::try_from(MAX_ROWS).unwrap() + 1;
        for id in 0..rows {
            pending.add_usage(account(id), moved(1), NOW);
        }
        assert_eq!(next(&mut pending).minutes.len(), MAX_ROWS);
        pending.written();
        assert_eq!(next(&mut pending).minutes.len(), 1);
    }

    #[test]
    fn a_long_outage_makes_the_times_coarser() {
        let mut pending = PendingUsage::new(100);
        for minute in 0..3 * 24 * 60 {
            pending.add_usage(account(1), moved(1), NOW + minute * 60);
            assert!(pending.waiting() <= 100);
        }
        let flush = next(&mut pending);
        assert_eq!(total(std::slice::from_ref(&flush)), 3 * 24 * 60);
        let times = flush.minutes.iter().map(|row| row.minute);
        let (oldest, newest) = (times.clone().min().unwrap(), times.max().unwrap());
        assert!(oldest >= start_of(NOW, HOUR), "{oldest}");
        assert!(newest > NOW + 3 * DAY - 2 * HOUR, "{newest}");
    }

    #[test]
    fn more_subjects_than_room_cost_a_bounded_walk() {
        const SUBJECTS: i64 = 5_000;
        let mut pending = PendingUsage::new(100);
        for minute in 0..10 {
            for id in 0..SUBJECTS {
                pending.add_usage(account(id), moved(1), NOW + minute * 60);
            }
        }
        let added = usize::try_from(10 * SUBJECTS).unwrap();
        // Three walks for each half that is added.
        assert!(pending.walked <= 10 * added, "{}", pending.walked);
        let most = usize::try_from(SUBJECTS).unwrap() * 3 / 2;
        assert!(pending.waiting() <= most, "{}", pending.waiting());
        let mut written = 0;
        while !pending.is_empty() {
            next(&mut pending);
            let flush = pending.written().unwrap();
            written += total(std::slice::from_ref(&flush));
        }
        assert_eq!(written, 10 * u64::try_from(SUBJECTS).unwrap());
    }

    #[test]
    fn subjects_that_fill_the_room_exactly_cost_a_bounded_walk() {
        let mut pending = PendingUsage::new(300);
        // Two hours of 150 subjects would be as many increments as there is room.
        for minute in 0..60 {
            for id in 0..150 {
                pending.add_usage(account(id), moved(1), NOW + 1_800 + minute * 60);
            }
        }
        assert!(pending.walked <= 10 * 60 * 150, "{}", pending.walked);
        assert!(pending.waiting() <= 300);
    }

    #[test]
    fn a_long_outage_drops_quotas_of_past_periods() {
        let mut pending = PendingUsage::new(10);
        let counter = |id, period_start| QuotaCounter {
            subject: account(id),
            quota: "day 00:00 UTC".to_owned(),
            period_start,
        };
        for day in 0..100 {
            for id in 1..=3 {
                pending.add_quota(counter(id, NOW + day * DAY), moved(1));
                assert!(pending.quotas.len() <= 10);
            }
        }
        let quotas = next(&mut pending).quotas;
        let latest = quotas
            .iter()
            .filter(|row| row.counter.period_start == NOW + 99 * DAY);
        assert_eq!(latest.count(), 3);
        // More quotas than the bound are kept.
        pending.written();
        for id in 0..50 {
            pending.add_quota(counter(id, NOW), moved(1));
        }
        assert_eq!(next(&mut pending).quotas.len(), 50);
    }

    proptest! {
        #[test]
        fn no_byte_is_lost(
            increments in prop::collection::vec((0_i64..20, 0_i64..1_000_000, 1_u64..1_000), 1..300),
            failures in prop::collection::vec(any::<bool>(), 300),
        ) {
            let mut pending = PendingUsage::new(30);
            let mut flushes = Vec::new();
            let mut expected = 0;
            for ((subject, time, bytes), fails) in increments.into_iter().zip(failures) {
                pending.add_usage(account(subject), moved(bytes), NOW + time);
                expected += bytes;
                prop_assert!(pending.waiting() <= 30);
                next(&mut pending);
                if !fails {
                    flushes.extend(pending.written());
                }
            }
            while !pending.is_empty() {
                next(&mut pending);
                flushes.extend(pending.written());
            }
            prop_assert_eq!(total(&flushes), expected);
            let sequences: Vec<_> = flushes.iter().map(|flush| flush.sequence).collect();
            let in_order: Vec<_> = (1..).take(sequences.len()).collect();
            prop_assert_eq!(sequences, in_order);
        }
    }
}
