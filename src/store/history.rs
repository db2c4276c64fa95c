//! Usage of the past: minutes, hours and days of a subject, and their queries by time.
//!
//! ```text
//!  flushes ──► usage_minutes ──rollup, after 10 to 25 minutes──► usage_history: minutes, hours, days
//!                    └──────────────────── query ◄────────────────────┘
//! ```
//!
//! Each rolled-up minute is part of all three series at once, so a query reads one series and the
//! minutes that are not rolled up yet.

use sqlx::any::AnyRow;

use super::{
    Page, RecordKind, Retention, Store, StoreError,
    packed::{Buckets, pack, unpack},
    pages,
    rows::Columns,
    usage::{bind_subject, moved, subject},
};
use crate::policy::{LimitSubject, Moved};

/// The longest text of a subject, in bytes: 20 MB for 1,000 keys, with the minutes that are not
/// rolled up, and the overhead of the database. A subject that is busy in each minute of two months
/// loses its oldest minutes.
const MAX_PACKED: usize = 14 * 1024;

/// The buckets that a series loses at a time when its text is too long.
const TRIM: usize = 60;

/// Separates the texts of the three series.
const SEPARATOR: &str = ".";

/// The problem of a text that cannot be read.
const UNREADABLE: &str = "it is no text of this program";

/// One statement reads both tables, as a rollup moves rows between them.
const SELECT: &str = "SELECT newest, packed, newest AS up, newest AS down, kind AS source \
                      FROM usage_history WHERE kind = $1 AND subject = $2 \
                      UNION ALL SELECT minute, subject, up, down, 'minute' \
                      FROM usage_minutes WHERE kind = $3 AND subject = $4 AND minute >= $5 \
                      AND minute < $6";

/// Subjects with usage. `UNION` removes duplicates.
const SUBJECTS: &str = "SELECT kind, subject FROM usage_history \
                        WHERE kind = $1 AND subject > $2 \
                        UNION SELECT kind, subject FROM usage_minutes \
                        WHERE kind = $3 AND subject > $4 \
                        ORDER BY subject LIMIT $5";

/// The length of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UsageStep {
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day of UTC.
    Day,
}

impl UsageStep {
    /// All steps.
    pub const ALL: [UsageStep; 3] = [UsageStep::Minute, UsageStep::Hour, UsageStep::Day];

    /// Returns the length in seconds.
    #[must_use]
    pub fn seconds(self) -> i64 {
        match self {
            UsageStep::Minute => 60,
            UsageStep::Hour => 3_600,
            UsageStep::Day => 86_400,
        }
    }

    /// Returns the number of the bucket that contains a time.
    fn index(self, time: i64) -> i64 {
        time.checked_div_euclid(self.seconds()).unwrap_or_default()
    }

    /// Returns the first second of a bucket.
    fn start(self, index: i64) -> i64 {
        index.saturating_mul(self.seconds())
    }
}

/// The bytes of a subject in one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageBucket {
    /// The first second, in Unix seconds.
    pub start: i64,
    /// The bytes.
    pub moved: Moved,
}

/// The minutes, hours and days of a subject.
#[derive(Debug, Default, PartialEq)]
pub(super) struct History {
    series: [Buckets; 3],
}

impl History {
    /// Returns the history of a row.
    pub(super) fn of_row(row: &AnyRow) -> Result<Self, StoreError> {
        let columns = Columns::new(row, RecordKind::Usage, "subject");
        let history = History::of_text(columns.text("packed")?);
        history.ok_or_else(|| columns.corrupt("packed", UNREADABLE))
    }

    /// Returns the history of a text, or `None` if it is invalid.
    fn of_text(text: &str) -> Option<Self> {
        let mut history = History::default();
        let mut texts = text.split(SEPARATOR);
        for series in &mut history.series {
            *series = unpack(texts.next()?)?;
        }
        texts.next().is_none().then_some(history)
    }

    /// Returns one of the series.
    fn into_series(self, step: UsageStep) -> Buckets {
        let [minutes, hours, days] = self.series;
        match step {
            UsageStep::Minute => minutes,
            UsageStep::Hour => hours,
            UsageStep::Day => days,
        }
    }

    /// Adds the bytes of a minute to all series.
    pub(super) fn add(&mut self, minute: i64, moved: Moved) {
        for (step, series) in UsageStep::ALL.into_iter().zip(&mut self.series) {
            add(series.entry(step.index(minute)).or_default(), moved);
        }
    }

    /// Returns the start of the latest bucket. Minutes that were rolled up late are only part of an
    /// hour or a day.
    pub(super) fn newest(&self) -> i64 {
        let steps = UsageStep::ALL.into_iter().zip(&self.series);
        let starts =
            steps.filter_map(|(step, series)| Some(step.start(*series.last_key_value()?.0)));
        starts.max().unwrap_or(0)
    }

    /// Returns the text. Removes buckets that are older than their retention before, and then the oldest
    /// minutes, hours and days until the text is short enough.
    pub(super) fn trimmed_text(&mut self, now: i64, retention: &Retention) -> String {
        for (step, series) in UsageStep::ALL.into_iter().zip(&mut self.series) {
            let oldest = step.index(now.saturating_sub(retention.seconds_of(step)));
            *series = series.split_off(&oldest);
        }
        let mut texts = self.series.each_ref().map(pack);
        while texts.iter().map(String::len).sum::<usize>() > MAX_PACKED {
            let mut series = self.series.iter_mut().zip(&mut texts);
            // A few buckets of each series take less than the limit.
            let Some((series, text)) = series.find(|(series, _)| series.len() > TRIM) else {
                break;
            };
            for _ in 0..TRIM {
                series.pop_first();
            }
            *text = pack(series);
        }
        texts.join(SEPARATOR)
    }
}

/// Adds bytes.
fn add(sum: &mut Moved, moved: Moved) {
    sum.up = sum.up.saturating_add(moved.up);
    sum.down = sum.down.saturating_add(moved.down);
}

impl Store {
    /// Returns the bytes of a subject from one time until another, in Unix seconds. Idle buckets are
    /// left out. The first bucket contains `from`, and the last one begins before `until`.
    ///
    /// A bucket is accurate to one part in 8,192 of the largest one of its series. Sums over a series
    /// are exact.
    ///
    /// # Errors
    /// If the database is away, or a row is invalid.
    pub async fn usage(
        &self,
        subject: LimitSubject,
        step: UsageStep,
        from: i64,
        until: i64,
    ) -> Result<Vec<UsageBucket>, StoreError> {
        let first = step.index(from);
        let query = bind_subject(self.dialect.query(SELECT), subject);
        let query = bind_subject(query, subject)
            .bind(step.start(first))
            .bind(until);
        let mut buckets = Buckets::new();
        for row in &self.fetch_all(query).await? {
            let columns = Columns::new(row, RecordKind::Usage, "newest");
            if columns.text("source")? == "minute" {
                let index = step.index(columns.number("newest")?);
                add(buckets.entry(index).or_default(), moved(columns)?);
                continue;
            }
            let history = History::of_text(columns.text("packed")?);
            let history = history.ok_or_else(|| columns.corrupt("packed", UNREADABLE))?;
            for (index, moved) in history.into_series(step) {
                add(buckets.entry(index).or_default(), moved);
            }
        }
        let buckets = buckets.into_iter().map(|(index, moved)| UsageBucket {
            start: step.start(index),
            moved,
        });
        let wanted = buckets.filter(|bucket| {
            bucket.start >= step.start(first)
                && bucket.start < until
                && bucket.moved != Moved::default()
        });
        Ok(wanted.collect())
    }

    /// Returns a page of the subjects of a kind that have usage, in the order of their ids as text.
    ///
    /// # Errors
    /// If the database is away, or a row is invalid.
    pub async fn usage_subjects(
        &self,
        kind: &'static str,
        after: Option<&str>,
        size: u32,
    ) -> Result<Page<LimitSubject, String>, StoreError> {
        // The relay has an empty id, and only one subject.
        let (after, is_first) = (after.unwrap_or_default(), after.is_none());
        if kind == LimitSubject::Relay.kind() {
            let items = is_first.then_some(LimitSubject::Relay);
            return Ok(Page {
                items: items.into_iter().collect(),
                next: None,
            });
        }
        let query = self.dialect.query(SUBJECTS);
        let query = query.bind(kind).bind(after).bind(kind).bind(after);
        let rows = self.fetch_all(query.bind(pages::rows_of(size))).await?;
        let subjects = rows.iter().map(|row| {
            let columns = Columns::new(row, RecordKind::Usage, "subject");
            subject(columns)
        });
        let subjects: Result<Vec<_>, _> = subjects.collect();
        Ok(Page::new(subjects?, size, |subject| subject.id()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn moved(up: u64) -> Moved {
        Moved { up, down: up * 2 }
    }

    fn sum(series: &Buckets) -> u64 {
        series.values().map(|moved| moved.up).sum()
    }

    #[test]
    fn a_minute_is_part_of_all_series() {
        let mut history = History::default();
        history.add(NOW, moved(5));
        history.add(NOW + 60, moved(6));
        history.add(NOW + 3_600, moved(7));
        let [minutes, hours, days] = &history.series;
        assert_eq!((minutes.len(), hours.len(), days.len()), (3, 2, 1));
        assert_eq!(hours.get(&(NOW / 3_600)), Some(&moved(11)));
        assert_eq!(days.get(&(NOW / 86_400)), Some(&moved(18)));
    }

    #[test]
    fn each_series_has_its_retention() {
        let mut history = History::default();
        let day = 86_400;
        for age in [0, 3 * day, 70 * day, 800 * day] {
            history.add(NOW - age, moved(1));
        }
        let text = history.trimmed_text(NOW, &Retention::default());
        assert_eq!(history.series.each_ref().map(sum), [1, 2, 3]);
        assert_eq!(history.newest(), NOW);
        assert_eq!(History::of_text(&text), Some(history));
    }

    #[test]
    fn minutes_that_are_rolled_up_late_remain_as_a_day() {
        let mut history = History::default();
        history.add(NOW - 75 * 86_400, moved(1));
        history.trimmed_text(NOW, &Retention::default());
        assert_eq!(history.series.each_ref().map(sum), [0, 0, 1]);
        let age = NOW - history.newest();
        assert!((75 * 86_400..76 * 86_400).contains(&age), "{age}");
    }

    #[test]
    fn a_shorter_retention_removes_more() {
        let mut history = History::default();
        for age in 0..4 {
            history.add(NOW - age * 86_400, moved(1));
        }
        let retention = Retention {
            minutes: 86_400,
            hours: 2 * 86_400,
            days: 3 * 86_400,
            ..Retention::default()
        };
        history.trimmed_text(NOW, &retention);
        assert_eq!(history.series.each_ref().map(sum), [2, 3, 4]);
    }

    #[test]
    fn a_subject_that_is_always_busy_loses_its_oldest_minutes() {
        let mut history = History::default();
        for minute in 0..2 * 24 * 60 {
            let bytes = 1_000_000_000 + u64::try_from(minute).unwrap() * 12_345;
            history.add(NOW - minute * 60, moved(bytes));
        }
        for hour in 50..60 * 24 {
            history.add(NOW - hour * 3_600, moved(77_777_777_777));
        }
        for day in 61..730 {
            history.add(NOW - day * 86_400, moved(7_777_777_777_777));
        }
        let text = history.trimmed_text(NOW, &Retention::default());
        assert!(text.len() <= MAX_PACKED + 2, "{}", text.len());
        let [minutes, hours, days] = history.series.each_ref().map(Buckets::len);
        assert!(minutes >= 300, "{minutes} minutes are left");
        assert!(hours >= 58 * 24 && days >= 728, "{hours} {days}");
        assert_eq!(history.newest(), NOW);
    }

    #[test]
    fn invalid_texts_are_refused() {
        for text in ["", ".", "...", ".?.", "1.2.3"] {
            assert_eq!(History::of_text(text), None, "{text}");
        }
        assert_eq!(History::of_text(".."), Some(History::default()));
    }

    #[test]
    fn nothing_is_left_of_an_old_subject() {
        let mut history = History::default();
        history.add(1_000, moved(1));
        let text = history.trimmed_text(NOW, &Retention::default());
        assert_eq!((&*text, history.newest()), ("..", 0));
    }
}
