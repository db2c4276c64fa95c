//! Counts what a role refuses, by stage and reason.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// Counts refusals. The stages and the reasons are words of the program, so their number is bounded.
///
/// A lock is cheap here: nothing that is refused is part of the data path.
#[derive(Debug, Default)]
pub struct RefusalCounts(Mutex<BTreeMap<(&'static str, &'static str), u64>>);

impl RefusalCounts {
    /// Counts one refusal.
    pub fn count(&self, stage: &'static str, reason: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry((stage, reason)).or_default();
        *count = count.saturating_add(1);
    }

    /// Returns all counts, by stage and reason.
    #[must_use]
    pub fn all(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
