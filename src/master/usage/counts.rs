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

/// The other masters, and when this one saw their beats.
#[derive(Debug, Default)]
pub(super) struct OtherMasters(HashMap<Id, SeenMaster>);

#[derive(Debug)]
struct SeenMaster {
    beat: i64,
    /// When the beat was seen to differ from the one before.
    moved_at: Instant,
}

impl OtherMasters {
    /// Adopts the rows of all masters.
    pub(super) fn see(&mut self, rows: &[MasterRow], now: Instant) {
        let mut seen = HashMap::with_capacity(rows.len());
        for row in rows {
            let before = self.0.remove(&row.epoch);
            let master = match before {
                Some(before) if before.beat == row.beat => before,
                _ => SeenMaster {
                    beat: row.beat,
                    moved_at: now,
                },
            };
            seen.insert(row.epoch, master);
        }
        self.0 = seen;
    }

    /// Returns the sums of the numbers of the masters that live.
    pub(super) fn sums(
        &self,
        rows: &[(Id, LiveRow)],
        now: Instant,
    ) -> HashMap<LimitSubject, LiveCounts> {
        let mut sums: HashMap<LimitSubject, LiveCounts> = HashMap::new();
        for (epoch, row) in rows {
            let is_fresh = self
                .0
                .get(epoch)
                .is_some_and(|master| now.saturating_duration_since(master.moved_at) < FRESH);
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
pub(super) struct PublishedCounts(HashMap<LimitSubject, LiveRow>);

impl PublishedCounts {
    /// Returns the rows that differ from the published ones. Rows that are not part of `rows` any
    /// more are idle.
    pub(super) fn publish(&mut self, rows: Vec<LiveRow>) -> Vec<LiveRow> {
        let busy = rows.into_iter().filter(|row| !row.is_idle());
        let new: HashMap<LimitSubject, LiveRow> = busy.map(|row| (row.subject, row)).collect();
        let mut changes: Vec<LiveRow> = new
            .values()
            .filter(|row| self.0.get(&row.subject) != Some(*row))
            .copied()
            .collect();
        let gone = self.0.keys().filter(|subject| !new.contains_key(*subject));
        changes.extend(gone.map(|subject| LiveRow {
            subject: *subject,
            links: 0,
            tunnels: 0,
            attachments: 0,
        }));
        self.0 = new;
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
        let rows = [
            (Id([1; 16]), row(KEY, 3)),
            (Id([2; 16]), row(KEY, 4)),
            (Id([9; 16]), row(KEY, 100)),
        ];
        let tunnels = |others: &OtherMasters, seconds| {
            let sums = others.sums(&rows, start + Duration::from_secs(seconds));
            sums.get(&KEY)
                .map(|sum| (sum.tunnels, sum.links, sum.attachments))
        };
        assert_eq!(tunnels(&others, 0), None);
        others.see(&[master(1, 7), master(2, 8)], start);
        assert_eq!(tunnels(&others, 14), Some((7, 2, 4)));
        // The clock of the second master may be wrong: it only has to move.
        others.see(
            &[master(1, 7), master(2, 1)],
            start + Duration::from_secs(14),
        );
        assert_eq!(tunnels(&others, 15), Some((4, 1, 2)));
        others.see(&[master(1, 7)], start + Duration::from_secs(16));
        assert_eq!(tunnels(&others, 16), None);
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
}
