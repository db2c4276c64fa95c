//! The bytes of each key label since the start, for the metrics.

use std::collections::BTreeMap;

use super::meter::add;
use crate::policy::Moved;

/// The most labels with numbers of their own.
const MAX_LABELS: usize = 100;

/// The name of the sum of all others.
const OTHER: &str = "other";

/// The bytes of key labels. The first labels with traffic keep their numbers: a counter that moved
/// from one label to another would seem to fall.
#[derive(Debug, Default)]
pub(super) struct LabelTotals {
    labels: BTreeMap<Box<str>, Moved>,
    other: Moved,
}

impl LabelTotals {
    /// Adds bytes of a key with this label. A key without a policy has none.
    pub(super) fn add(&mut self, label: Option<&str>, moved: Moved) {
        let Some(label) = label.filter(|label| *label != OTHER) else {
            return add(&mut self.other, moved);
        };
        if let Some(sum) = self.labels.get_mut(label) {
            add(sum, moved);
        } else if self.labels.len() < MAX_LABELS {
            self.labels.insert(label.into(), moved);
        } else {
            add(&mut self.other, moved);
        }
    }

    /// Whether a label has numbers of its own.
    pub(super) fn has(&self, label: &str) -> bool {
        self.labels.contains_key(label)
    }

    /// Returns the labels with their bytes, and the sum of all others.
    pub(super) fn all(&self) -> Vec<(String, Moved)> {
        let labels = self.labels.iter();
        labels
            .map(|(label, moved)| (label.to_string(), *moved))
            .chain([(OTHER.to_owned(), self.other)])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_beyond_the_bound_are_summed_up() {
        let moved = Moved { up: 1, down: 2 };
        let mut totals = LabelTotals::default();
        for number in 0..MAX_LABELS + 5 {
            totals.add(Some(&format!("key {number:03}")), moved);
        }
        totals.add(Some("key 000"), moved);
        totals.add(Some(OTHER), moved);
        totals.add(None, moved);
        let all = totals.all();
        assert_eq!(all.len(), MAX_LABELS + 1);
        assert_eq!(all[0], ("key 000".to_owned(), Moved { up: 2, down: 4 }));
        assert_eq!(all[1], ("key 001".to_owned(), moved));
        let other = all.last().unwrap();
        assert_eq!(other, &(OTHER.to_owned(), Moved { up: 7, down: 14 }));
        assert!(totals.has("key 099") && !totals.has("key 100"));
    }
}
