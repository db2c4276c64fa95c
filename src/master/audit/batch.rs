//! The events that wait for the audit log. Each class and each source has a share of the room, so
//! that one noisy peer does not push out what others have done. Pure: the time is an argument.
//!
//! ```text
//!  refusal ──► its row ──full──► a sum for its reason and network ──full──► a sum for its reason
//!  other   ──► its row ──full──► dropped
//! ```

use std::collections::HashMap;

use super::entries::{AuditClass, SourcedEntry};
use crate::store::{AuditEntry, AuditRow};

/// The time within which equal events are counted instead of repeated, in seconds.
const REPEAT_TIME: i64 = 60;

/// The part of a class that one source may fill.
const SOURCE_SHARE: usize = 8;

/// The most sums of refusals without a network: more than there are reasons.
const MAX_REASONS: usize = 256;

impl AuditClass {
    /// Returns the most events of the class that wait for the database, and the most different ones
    /// whose repetitions are counted. Together: 4,096.
    fn room(self) -> usize {
        match self {
            AuditClass::Use => 2_048,
            AuditClass::Quota => 512,
            AuditClass::Refusal => 1_536,
        }
    }
}

/// The events that wait for the database, and the repetitions of recent ones.
#[derive(Debug, Default)]
pub(super) struct AuditBatch {
    waiting: Vec<AuditRow>,
    uses: ClassShare,
    quotas: ClassShare,
    refusals: ClassShare,
}

/// The events of one class.
#[derive(Debug, Default)]
struct ClassShare {
    /// How many wait.
    waiting: usize,
    /// How many of each source wait.
    sources: HashMap<String, usize>,
    /// Recent events without their times, with the time of the first one and the number of others.
    recent: HashMap<AuditEntry, (i64, u32)>,
}

impl ClassShare {
    /// Counts an event as a repetition. Returns `false` if there was no equal one recently.
    fn repeat(&mut self, timeless: &AuditEntry) -> bool {
        let Some((_, repeats)) = self.recent.get_mut(timeless) else {
            return false;
        };
        *repeats = repeats.saturating_add(1);
        true
    }

    /// Whether an event of a source fits.
    fn has_room_for(&self, source: &str, class: AuditClass) -> bool {
        let room = class.room();
        let of_source = self.sources.get(source).copied().unwrap_or(0);
        // Further different refusals of the same minute are summed up.
        let is_counted = class != AuditClass::Refusal || self.recent.len() < room;
        self.waiting < room && of_source < room / SOURCE_SHARE && is_counted
    }
}

impl AuditBatch {
    /// Adds an event. Returns `false` if it is dropped, because too many wait.
    pub(super) fn add(&mut self, event: SourcedEntry) -> bool {
        let SourcedEntry {
            class,
            source,
            entry,
        } = event;
        let happened = entry.happened;
        let share = self.share(class);
        let entry = timeless(entry);
        if share.repeat(&entry) {
            return true;
        }
        if share.has_room_for(&source, class) {
            let of_source = share.sources.entry(source).or_default();
            *of_source = of_source.saturating_add(1);
            self.push(class, entry, happened, class.room());
            return true;
        }
        class == AuditClass::Refusal && self.add_sum(&entry, source, happened)
    }

    /// Adds a refusal without room to the sum for its reason and network, or to that for its reason.
    fn add_sum(&mut self, entry: &AuditEntry, network: String, happened: i64) -> bool {
        let room = AuditClass::Refusal.room();
        let levels = [(network, room), (String::new(), room + MAX_REASONS)];
        for (address, most) in levels {
            let sum = AuditEntry {
                actor: String::new(),
                subject: String::new(),
                address,
                ..entry.clone()
            };
            if self.refusals.repeat(&sum) {
                return true;
            }
            // Those of the rows themselves, and those of the sums.
            let most_recent = room + most;
            if self.refusals.waiting < most && self.refusals.recent.len() < most_recent {
                self.push(AuditClass::Refusal, sum, happened, most_recent);
                return true;
            }
        }
        false
    }

    /// Adds a row. Its repetitions are counted if those of fewer than `most_recent` are.
    fn push(&mut self, class: AuditClass, entry: AuditEntry, happened: i64, most_recent: usize) {
        self.waiting.push(AuditRow::new(AuditEntry {
            happened,
            ..entry.clone()
        }));
        let share = self.share(class);
        share.waiting = share.waiting.saturating_add(1);
        if share.recent.len() < most_recent {
            share.recent.insert(entry, (happened, 0));
        }
    }

    /// Takes the events that wait.
    pub(super) fn take(&mut self) -> Vec<AuditRow> {
        for share in self.shares() {
            share.waiting = 0;
            share.sources.clear();
        }
        std::mem::take(&mut self.waiting)
    }

    /// Makes a row of the repetitions of each event that happened a minute ago.
    pub(super) fn end_old_repetitions(&mut self, now: i64) {
        let is_old = |first: i64| now.saturating_sub(first) >= REPEAT_TIME || first > now;
        self.end_repetitions_of(is_old);
    }

    /// Makes a row of the repetitions of each event.
    pub(super) fn end_repetitions(&mut self) {
        self.end_repetitions_of(|_| true);
    }

    fn end_repetitions_of(&mut self, is_ended: impl Fn(i64) -> bool) {
        let mut rows = Vec::new();
        for share in self.shares() {
            let ended = share.recent.extract_if(|_, (first, _)| is_ended(*first));
            // The number of recent events bounds these rows too.
            rows.extend(ended.filter_map(|(entry, (first, repeats))| {
                let repeats = repeats.checked_sub(1)?;
                Some(AuditRow::new(AuditEntry {
                    happened: first,
                    repeats,
                    ..entry
                }))
            }));
        }
        self.waiting.extend(rows);
    }

    fn share(&mut self, class: AuditClass) -> &mut ClassShare {
        match class {
            AuditClass::Use => &mut self.uses,
            AuditClass::Quota => &mut self.quotas,
            AuditClass::Refusal => &mut self.refusals,
        }
    }

    fn shares(&mut self) -> [&mut ClassShare; 3] {
        [&mut self.uses, &mut self.quotas, &mut self.refusals]
    }
}

/// Returns an event without its time.
fn timeless(entry: AuditEntry) -> AuditEntry {
    AuditEntry {
        happened: 0,
        ..entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn event(class: AuditClass, source: &str, subject: &str) -> SourcedEntry {
        let is_refusal = class == AuditClass::Refusal;
        SourcedEntry {
            class,
            source: source.to_owned(),
            entry: AuditEntry {
                happened: NOW,
                actor: "account 3".to_owned(),
                address: "192.0.2.1".to_owned(),
                action: if is_refusal {
                    "attachment.denied"
                } else {
                    "tunnel.up"
                }
                .to_owned(),
                subject: subject.to_owned(),
                detail: String::new(),
                repeats: 0,
            },
        }
    }

    fn tunnel(subject: &str) -> SourcedEntry {
        event(AuditClass::Use, "account 3", subject)
    }

    fn waiting(batch: &AuditBatch) -> Vec<AuditEntry> {
        let rows = batch.waiting.iter();
        rows.map(|row| row.entry.clone()).collect()
    }

    #[test]
    fn repetitions_within_a_minute_are_one_row() {
        let mut batch = AuditBatch::default();
        for seconds in [0, 1, 2, 59] {
            let mut event = tunnel("key 1");
            event.entry.happened = NOW + seconds;
            assert!(batch.add(event));
        }
        assert!(batch.add(tunnel("key 2")));
        let [first, second] = ["key 1", "key 2"].map(|key| tunnel(key).entry);
        assert_eq!(waiting(&batch), [first.clone(), second]);
        batch.take();
        batch.end_old_repetitions(NOW + 59);
        assert!(batch.waiting.is_empty());
        batch.end_old_repetitions(NOW + 60);
        let repeated = AuditEntry {
            repeats: 2,
            ..first
        };
        assert_eq!(waiting(&batch), [repeated]);
        assert!(batch.add(tunnel("key 1")));
        assert_eq!(batch.waiting.len(), 2);
    }

    #[test]
    fn a_noisy_source_keeps_no_other_out() {
        let mut batch = AuditBatch::default();
        let room = AuditClass::Use.room();
        let added = (0..10 * room).filter(|key| batch.add(tunnel(&format!("key {key}"))));
        assert_eq!(added.count(), room / SOURCE_SHARE);
        assert!(batch.add(tunnel("key 0")), "a repetition takes no room");
        assert!(batch.add(event(AuditClass::Use, "account 4", "key 0")));
        batch.take();
        assert!(batch.add(tunnel("a key in the next batch")));
    }

    #[test]
    fn refusals_keep_no_use_and_no_quota_out() {
        let mut batch = AuditBatch::default();
        for network in 0..10_000 {
            let network = format!("network {network}");
            assert!(batch.add(event(AuditClass::Refusal, &network, &network)));
        }
        assert!(batch.add(tunnel("key 1")));
        assert!(batch.add(event(AuditClass::Quota, "relay", "relay")));
        let most = AuditClass::Refusal.room() + MAX_REASONS + 2;
        assert!(batch.waiting.len() <= most, "{}", batch.waiting.len());
    }

    #[test]
    fn refusals_without_room_are_summed_up_by_reason_and_network() {
        let mut batch = AuditBatch::default();
        let refusal =
            |subject: usize| event(AuditClass::Refusal, "192.0.2.0", &format!("key {subject}"));
        let share = AuditClass::Refusal.room() / SOURCE_SHARE;
        for subject in 0..share + 500 {
            assert!(batch.add(refusal(subject)));
        }
        let sum = AuditEntry {
            actor: String::new(),
            address: "192.0.2.0".to_owned(),
            subject: String::new(),
            ..refusal(0).entry
        };
        assert_eq!(batch.waiting.len(), share + 1);
        assert_eq!(batch.waiting.last().map(|row| &row.entry), Some(&sum));
        batch.take();
        batch.end_repetitions();
        let repeated = AuditEntry {
            repeats: 498,
            ..sum
        };
        assert_eq!(waiting(&batch), [repeated]);
    }

    #[test]
    fn refusals_of_many_networks_are_summed_up_by_reason() {
        let mut batch = AuditBatch::default();
        let room = AuditClass::Refusal.room();
        let refusal = |network: usize| {
            event(
                AuditClass::Refusal,
                &format!("network {network}"),
                &network.to_string(),
            )
        };
        for network in 0..room + 100 {
            assert!(batch.add(refusal(network)));
        }
        let sum = batch.waiting.last().map(|row| row.entry.clone());
        let expected = AuditEntry {
            actor: String::new(),
            address: String::new(),
            subject: String::new(),
            ..refusal(0).entry
        };
        assert_eq!((sum, batch.waiting.len()), (Some(expected), room + 1));
    }

    #[test]
    fn refusals_of_a_minute_have_a_bound() {
        let mut batch = AuditBatch::default();
        let mut rows = 0;
        for second in 0..60 {
            for number in 0..5_000 {
                let network = format!("network {second}-{number}");
                assert!(batch.add(event(AuditClass::Refusal, &network, &network)));
            }
            rows += batch.take().len();
        }
        let room = AuditClass::Refusal.room();
        assert!(rows <= 2 * room + MAX_REASONS, "{rows}");
    }
}
