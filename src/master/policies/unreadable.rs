//! The records of the database that cannot be read, and so are denied. Pure: the time is an argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use crate::{
    policy::Changes,
    store::{RecordKind, UnreadableRecord},
};

/// The most records that one round reads again.
const MAX_READS: usize = 100;

/// The name of a record.
type RecordName = (RecordKind, String);

/// The records that cannot be read.
#[derive(Debug, Default)]
pub(super) struct UnreadableRecords {
    records: BTreeMap<RecordName, UnreadableRecord>,
    /// The time since which there are such records, in Unix seconds.
    since: i64,
    /// The record that was read again last.
    last_read: Option<RecordName>,
}

impl UnreadableRecords {
    /// Whether all records can be read.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns the time since which there are such records, in Unix seconds.
    pub(super) fn since(&self) -> i64 {
        self.since
    }

    /// Adopts a complete load. Returns the records that were readable, or had another problem.
    pub(super) fn adopt_load(
        &mut self,
        found: &[UnreadableRecord],
        now: i64,
    ) -> Vec<UnreadableRecord> {
        self.adopt(|_| true, found, now)
    }

    /// The same for the records that have changed.
    pub(super) fn adopt_changes(
        &mut self,
        changes: &Changes,
        found: &[UnreadableRecord],
        now: i64,
    ) -> Vec<UnreadableRecord> {
        let readable = if self.is_empty() {
            BTreeSet::new()
        } else {
            names_of(changes)
        };
        self.adopt(|name| readable.contains(name), found, now)
    }

    /// The same for records that were read again.
    pub(super) fn adopt_again(
        &mut self,
        asked: &[UnreadableRecord],
        found: &[UnreadableRecord],
        now: i64,
    ) -> Vec<UnreadableRecord> {
        let asked: BTreeSet<RecordName> = asked.iter().map(name_of).collect();
        self.adopt(|name| asked.contains(name), found, now)
    }

    /// Forgets the records that were read, except those found, and adds these.
    fn adopt(
        &mut self,
        is_read: impl Fn(&RecordName) -> bool,
        found: &[UnreadableRecord],
        now: i64,
    ) -> Vec<UnreadableRecord> {
        let found: BTreeMap<RecordName, &UnreadableRecord> = found
            .iter()
            .map(|record| (name_of(record), record))
            .collect();
        self.records
            .retain(|name, _| found.contains_key(name) || !is_read(name));
        if self.records.is_empty() {
            self.since = now;
        }
        let mut news = Vec::new();
        for (name, record) in found {
            let former = self.records.insert(name, record.clone());
            if former.as_ref() != Some(record) {
                news.push(record.clone());
            }
        }
        news
    }

    /// Returns the records to read again in this round, each in turn.
    pub(super) fn next_reads(&mut self) -> Vec<UnreadableRecord> {
        let start = self.last_read.take();
        let start: Bound<RecordName> = start.map_or(Bound::Unbounded, Bound::Excluded);
        let rest: (Bound<RecordName>, Bound<RecordName>) = (start, Bound::Unbounded);
        let due = self.records.range(rest);
        let due: Vec<_> = due
            .take(MAX_READS)
            .map(|(_, record)| record.clone())
            .collect();
        // The next round begins at the start again.
        let is_full = due.len() >= MAX_READS;
        self.last_read = due.last().filter(|_| is_full).map(name_of);
        due
    }

    /// Describes the first record, and how many others there are.
    pub(super) fn summary(&self) -> Option<String> {
        let first = self.records.values().next()?;
        let effect = match first.kind {
            RecordKind::Relay => "the former one applies",
            _ => "it is denied until then",
        };
        let others = self.records.len().saturating_sub(1);
        Some(match others {
            0 => format!("{first}; {effect}"),
            1 => format!("{first}; {effect}, and so is another record"),
            _ => format!("{first}; {effect}, and so are {others} other records"),
        })
    }
}

fn name_of(record: &UnreadableRecord) -> RecordName {
    (record.kind, record.id.clone())
}

/// Returns the names of the records that changes contain, or remove.
fn names_of(changes: &Changes) -> BTreeSet<RecordName> {
    let account = |id: String| (RecordKind::Account, id);
    let credential = |id: String| (RecordKind::Credential, id);
    let key = |id: String| (RecordKind::Key, id);
    let mut names = BTreeSet::new();
    let accounts = changes.accounts.iter().map(|record| record.id);
    let accounts = accounts.chain(changes.removed_accounts.iter().copied());
    names.extend(accounts.map(|id| account(id.to_string())));
    let credentials = changes.credentials.iter();
    let credentials = credentials.map(|record| record.credential.id);
    let credentials = credentials.chain(changes.removed_credentials.iter().copied());
    names.extend(credentials.map(|id| credential(id.to_string())));
    let keys = changes.keys.iter().map(|record| record.id);
    let keys = keys.chain(changes.removed_keys.iter().copied());
    names.extend(keys.map(|id| key(id.to_string())));
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Account, AccountId};

    fn record(id: i64) -> UnreadableRecord {
        UnreadableRecord {
            kind: RecordKind::Account,
            id: id.to_string(),
            column: "limits",
            problem: "weight is no number".to_owned(),
        }
    }

    fn readable(id: i64) -> Changes {
        Changes {
            accounts: vec![Account::new(AccountId(id), "ann")],
            ..Changes::default()
        }
    }

    #[test]
    fn records_are_news_once_until_they_can_be_read() {
        let mut records = UnreadableRecords::default();
        let nothing = Changes::default();
        let news = records.adopt_changes(&nothing, &[record(2), record(3)], 10);
        assert_eq!(news, [record(2), record(3)]);
        assert_eq!(records.adopt_changes(&nothing, &[record(2)], 11), []);
        assert_eq!(records.adopt_changes(&readable(2), &[], 12), []);
        assert_eq!(records.next_reads(), [record(3)]);
        assert_eq!(records.since(), 10);
        let other = UnreadableRecord {
            column: "networks",
            ..record(3)
        };
        let found = std::slice::from_ref(&other);
        assert_eq!(
            records.adopt_again(&[record(3)], found, 13),
            std::slice::from_ref(&other)
        );
        assert_eq!(records.adopt_again(found, found, 14), []);
        assert_eq!(records.adopt_again(found, &[], 15), []);
        assert!(records.is_empty());
        assert_eq!(records.adopt_load(&[record(2)], 16), [record(2)]);
        assert_eq!(records.since(), 16);
        assert_eq!(records.adopt_load(&[], 17), []);
        assert!(records.is_empty());
    }

    #[test]
    fn summary_names_a_record_and_counts_the_others() {
        let mut records = UnreadableRecords::default();
        assert_eq!(records.summary(), None);
        records.adopt_load(&[record(2)], 0);
        let text = records.summary().unwrap();
        let first =
            "store: limits of the account \"2\" is invalid: weight is no number (correct it)";
        assert_eq!(text, format!("{first}; it is denied until then"));
        records.adopt_load(&[record(2), record(3), record(4)], 0);
        let text = records.summary().unwrap();
        assert!(text.ends_with("and so are 2 other records"), "{text}");
        let relay = UnreadableRecord {
            kind: RecordKind::Relay,
            ..record(1)
        };
        records.adopt_load(&[relay], 0);
        let text = records.summary().unwrap();
        assert!(text.ends_with("the former one applies"), "{text}");
    }

    #[test]
    fn records_are_read_again_in_turn() {
        let mut records = UnreadableRecords::default();
        let all: Vec<_> = (1..=150).map(record).collect();
        records.adopt_load(&all, 0);
        let mut read = records.next_reads();
        assert_eq!(read.len(), MAX_READS);
        read.extend(records.next_reads());
        read.sort_by_key(|record| record.id.parse::<i64>().unwrap());
        assert_eq!(read, all);
        assert_eq!(records.next_reads().len(), MAX_READS);
    }
}
