//! The live numbers that masters exchange through the database, of the subjects whose limits need
//! them. Pure: the time is an argument.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::{
    policy::{LimitSubject, LiveCounts},
    store::{LiveRow, MasterRow},
};
use report_proto::id::Id;

/// The numbers of another master count for this time after its latest beat, by the clock of this
/// master. No master decides on numbers that are older.
const FRESH: Duration = Duration::from_secs(15);

/// The number of flushes after which all numbers are published again. The maintenance of another
/// master removes those of a master that was away from the database for an hour, or whose clock is
/// wrong.
const FLUSHES_PER_REPETITION: u32 = 15;

/// The other masters with their numbers, and when this one saw their beats.
#[derive(Debug, Default)]
pub(super) struct OtherMasters {
    masters: HashMap<Id, SeenMaster>,
    rows: Vec<(Id, LiveRow)>,
    /// Whether the masters were read before.
    has_read: bool,
}

#[derive(Debug)]
struct SeenMaster {
    beat: i64,
    /// When the beat was seen to move. One that was there at the first read may have ended before.
    moved_at: Option<Instant>,
}

impl OtherMasters {
    /// Adopts the rows of all masters, and their numbers.
    pub(super) fn see(&mut self, masters: &[MasterRow], rows: Vec<(Id, LiveRow)>, now: Instant) {
        let mut seen = HashMap::with_capacity(masters.len());
        for row in masters {
            let before = self.masters.remove(&row.epoch);
            let master = match before {
                Some(before) if before.beat == row.beat => before,
                _ => SeenMaster {
                    beat: row.beat,
                    moved_at: self.has_read.then_some(now),
                },
            };
            seen.insert(row.epoch, master);
        }
        (self.masters, self.rows, self.has_read) = (seen, rows, true);
    }

    /// Returns the sums of the numbers of the masters that live. They expire without a further read,
    /// as while the database is away.
    pub(super) fn sums(&self, now: Instant) -> HashMap<LimitSubject, LiveCounts> {
        let mut sums: HashMap<LimitSubject, LiveCounts> = HashMap::new();
        for (epoch, row) in &self.rows {
            let master = self.masters.get(epoch);
            let is_fresh = master
                .and_then(|master| master.moved_at)
                .is_some_and(|moved_at| now.saturating_duration_since(moved_at) < FRESH);
            if is_fresh {
                let sum = sums.entry(row.subject).or_default();
                sum.links = sum.links.saturating_add(row.links);
                sum.tunnels = sum.tunnels.saturating_add(row.tunnels);
                sum.attachments = sum.attachments.saturating_add(row.attachments);
            }
        }
        sums
    }
}

/// The live numbers that this master has published.
#[derive(Debug, Default)]
pub(super) struct PublishedCounts {
    rows: HashMap<LimitSubject, LiveRow>,
    flushes: u32,
}

impl PublishedCounts {
    /// Returns the rows that differ from the published ones, and at times all. Rows that are not
    /// part of `rows` any more are idle.
    pub(super) fn publish(&mut self, rows: Vec<LiveRow>) -> Vec<LiveRow> {
        let busy = rows.into_iter().filter(|row| !row.is_idle());
        let new: HashMap<LimitSubject, LiveRow> = busy.map(|row| (row.subject, row)).collect();
        self.flushes = self.flushes.wrapping_add(1);
        let is_repetition = self.flushes.is_multiple_of(FLUSHES_PER_REPETITION);
        let mut changes: Vec<LiveRow> = new
            .values()
            .filter(|row| is_repetition || self.rows.get(&row.subject) != Some(*row))
            .copied()
            .collect();
        let published = self.rows.keys();
        let gone = published.filter(|subject| !new.contains_key(*subject));
        changes.extend(gone.map(|subject| LiveRow {
            subject: *subject,
            links: 0,
            tunnels: 0,
            attachments: 0,
        }));
        self.rows = new;
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn master(epoch: u8, beat: i64) -> MasterRow {
        MasterRow {
            epoch: Id([epoch; 16]),
            name: String::new(),
            beat,
            sequence: 0,
        }
    }

    fn row(subject: LimitSubject, tunnels: u32) -> LiveRow {
        LiveRow {
            subject,
            links: 1,
            tunnels,
            attachments: 2,
        }
    }

    const KEY: LimitSubject = LimitSubject::Key(Id([1; 16]));

    #[test]
    fn numbers_count_while_the_beat_of_their_master_moves() {
        let (mut others, start) = (OtherMasters::default(), Instant::now());
        let rows = || {
            vec![
                (Id([1; 16]), row(KEY, 3)),
                (Id([2; 16]), row(KEY, 4)),
                (Id([9; 16]), row(KEY, 100)),
            ]
        };
        let at = |seconds| start + Duration::from_secs(seconds);
        let tunnels = |others: &OtherMasters, seconds| {
            let sums = others.sums(at(seconds));
            sums.get(&KEY)
                .map(|sum| (sum.tunnels, sum.links, sum.attachments))
        };
        assert_eq!(tunnels(&others, 0), None);
        others.see(&[master(1, 6), master(2, 8)], rows(), start);
        assert_eq!(tunnels(&others, 0), None, "both may have ended");
        others.see(&[master(1, 7), master(2, 9)], rows(), start);
        assert_eq!(tunnels(&others, 14), Some((7, 2, 4)));
        // The clock of the second master may be wrong: it only has to move.
        others.see(&[master(1, 7), master(2, 1)], rows(), at(14));
        assert_eq!(tunnels(&others, 15), Some((4, 1, 2)));
        // No read succeeds any more.
        assert_eq!(tunnels(&others, 28), Some((4, 1, 2)));
        assert_eq!(tunnels(&others, 29), None);
        others.see(&[master(1, 7)], rows(), at(30));
        assert_eq!(tunnels(&others, 30), None);
        others.see(&[master(1, 7), master(9, 1)], rows(), at(31));
        assert_eq!(
            tunnels(&others, 31),
            Some((100, 1, 2)),
            "it has just started"
        );
    }

    #[test]
    fn only_changes_are_published() {
        let mut published = PublishedCounts::default();
        let relay = row(LimitSubject::Relay, 5);
        let mut first = published.publish(vec![relay, row(KEY, 1)]);
        first.sort_by_key(|row| row.subject);
        assert_eq!(first, [relay, row(KEY, 1)]);
        assert_eq!(published.publish(vec![relay, row(KEY, 1)]), []);
        assert_eq!(published.publish(vec![relay, row(KEY, 2)]), [row(KEY, 2)]);
        let idle = LiveRow {
            subject: KEY,
            links: 0,
            tunnels: 0,
            attachments: 0,
        };
        assert_eq!(published.publish(vec![relay]), [idle]);
        assert_eq!(published.publish(vec![relay, idle]), []);
    }

    #[test]
    fn all_numbers_are_published_again_at_times() {
        let mut published = PublishedCounts::default();
        let relay = row(LimitSubject::Relay, 5);
        let published: Vec<usize> = (0..FLUSHES_PER_REPETITION * 2)
            .map(|_| published.publish(vec![relay]).len())
            .collect();
        let again = usize::try_from(FLUSHES_PER_REPETITION).unwrap();
        let flushes = published.iter().enumerate();
        let with_rows = flushes.filter(|(_, rows)| **rows == 1);
        let with_rows: Vec<usize> = with_rows.map(|(flush, _)| flush + 1).collect();
        assert_eq!(with_rows, [1, again, 2 * again]);
    }
}
