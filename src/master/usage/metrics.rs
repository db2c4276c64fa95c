//! The metrics of usage. The numbers of labels and objects are bounded.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::Usage;
use crate::{
    master::rates::{PerDirection, RateSubject},
    metrics::{Labels, MetricFamilies, Sample},
    policy::{AccountId, Direction, LimitSubject},
};

/// The most objects of a family, besides the sum of the others.
const MAX_OBJECTS: usize = 100;

/// The name of the sum of the others.
const OTHER: &str = "other";

/// The kind and the name of an object in labels.
type Object = (&'static str, String);

fn object_labels((kind, name): Object) -> Labels {
    vec![("kind", kind.to_owned()), ("name", name)]
}

impl Usage {
    /// Writes the metrics of usage and of quotas.
    pub(in crate::master) fn describe(&self, families: &mut MetricFamilies<'_>) -> fmt::Result {
        self.describe_keys(families)?;
        self.describe_throttled(families)?;
        self.describe_quotas(families)?;
        families.gauge_of_counts(
            "report_unwritten_usage",
            "Increments of usage that wait for the database.",
            [Sample::of(self.ledger().pending.waiting())],
        )
    }

    fn describe_keys(&self, families: &mut MetricFamilies<'_>) -> fmt::Result {
        let labels = self.ledger().labels.all();
        let samples = labels.into_iter().flat_map(|(label, moved)| {
            [("up", moved.up), ("down", moved.down)].map(|(direction, bytes)| {
                let labels = [("key", label.clone()), ("direction", direction.to_owned())];
                Sample::labelled(labels, bytes)
            })
        });
        families.counter(
            "report_key_bytes",
            "Bytes of sealed messages in tunnels, by label of the key.",
            samples,
        )
    }

    fn describe_throttled(&self, families: &mut MetricFamilies<'_>) -> fmt::Result {
        let mut objects: BTreeMap<Object, PerDirection<Duration>> = BTreeMap::new();
        for (subject, throttled) in self.router.rates.throttled() {
            let object = self.object(limit_subject(subject));
            let is_known = objects.contains_key(&object);
            let object = if is_known || objects.len() < MAX_OBJECTS {
                object
            } else {
                (object.0, OTHER.to_owned())
            };
            let sum = objects.entry(object).or_default();
            sum.up = sum.up.saturating_add(throttled.up);
            sum.down = sum.down.saturating_add(throttled.down);
        }
        let samples = objects.into_iter().flat_map(|(object, throttled)| {
            [("up", throttled.up), ("down", throttled.down)].map(|(direction, time)| {
                let mut labels = object_labels(object.clone());
                labels.push(("direction", direction.to_owned()));
                Sample::labelled(labels, time.as_secs())
            })
        });
        families.counter(
            "report_throttled_seconds",
            "The time for which traffic waited for a rate limit, by object and direction.",
            samples,
        )
    }

    /// Writes the quotas with the fewest bytes left.
    fn describe_quotas(&self, families: &mut MetricFamilies<'_>) -> fmt::Result {
        let mut quotas = self.ledger().book.left();
        quotas.sort_by_key(|quota| quota.left);
        quotas.truncate(MAX_OBJECTS);
        let mut samples = BTreeMap::new();
        for quota in quotas {
            let mut labels = object_labels(self.object(quota.subject));
            labels.push(("period", quota.period));
            labels.push(("direction", word_of(quota.direction).to_owned()));
            // Keys may have the same label: the one with fewer bytes left counts.
            let left = i64::try_from(quota.left).unwrap_or(i64::MAX);
            samples.entry(labels).or_insert(left);
        }
        let samples = samples.into_iter();
        families.gauge(
            "report_quota_left_bytes",
            "Bytes left of a quota in its present period, over all masters.",
            samples.map(|(labels, left)| Sample::labelled(labels, left)),
        )
    }

    /// Returns the kind and the name of an object. A key without a label of its own is one of the
    /// others.
    fn object(&self, subject: LimitSubject) -> Object {
        let table = self.policies().table();
        let name = match subject {
            LimitSubject::Relay => Some(String::new()),
            LimitSubject::Account(id) => table.account(id).map(|account| account.name.clone()),
            LimitSubject::Key(id) => table.key(id).map(|key| key.label.to_string()),
        };
        drop(table);
        let is_other = |name: &String| {
            matches!(subject, LimitSubject::Key(_)) && !self.ledger().labels.has(name)
        };
        let name = name.filter(|name| !is_other(name));
        (subject.kind(), name.unwrap_or_else(|| OTHER.to_owned()))
    }
}

fn word_of(direction: Direction) -> &'static str {
    match direction {
        Direction::Up => "up",
        Direction::Down => "down",
        Direction::Both => "both",
    }
}

/// Returns the object of a rate limit.
fn limit_subject(subject: RateSubject) -> LimitSubject {
    match subject {
        RateSubject::Relay => LimitSubject::Relay,
        RateSubject::Account(number) => {
            let id = i64::try_from(number).unwrap_or_default();
            LimitSubject::Account(AccountId(id))
        }
        RateSubject::Key(key) => LimitSubject::Key(key),
    }
}
