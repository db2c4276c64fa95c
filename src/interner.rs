//! Shares equal values, so that many owners of a value hold it once.

use std::{collections::VecDeque, sync::Arc};

/// How many values a new one is compared with. Most operators use a few sets of limits for all
/// keys.
const RECENT: usize = 16;

/// Shares a value with the owners of an equal one, if that is among the latest different ones.
#[derive(Debug, Default)]
pub(crate) struct Interner<T> {
    recent: VecDeque<Arc<T>>,
}

impl<T: PartialEq> Interner<T> {
    /// Returns the value, shared if possible.
    pub(crate) fn share(&mut self, value: T) -> Arc<T> {
        if let Some(equal) = self.recent.iter().find(|recent| ***recent == value) {
            return Arc::clone(equal);
        }
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
        }
        let value = Arc::new(value);
        self.recent.push_back(Arc::clone(&value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_shared() {
        let mut interner = Interner::default();
        let [first, other, again] = [7, 8, 7].map(|value| interner.share(value));
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!((*first, *other), (7, 8));
    }

    #[test]
    fn only_the_latest_values_are_kept() {
        let mut interner = Interner::default();
        let first = interner.share(0);
        for value in 1..=RECENT {
            interner.share(value);
        }
        assert_eq!(interner.recent.len(), RECENT);
        let again = interner.share(0);
        assert_eq!(again, first);
        assert!(!Arc::ptr_eq(&first, &again));
    }
}
