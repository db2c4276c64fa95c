//! The servers' links of one key id.

use smallvec::SmallVec;

use crate::master::limits::LinkNumber;
use report_proto::id::Id;

/// The links that have registered a key id, in the order of their instances, then of their numbers.
///
/// Most key ids have one link, which needs no allocation. A master may have 100,000 of them.
#[derive(Debug, Default)]
pub(super) struct KeyServers(SmallVec<[(Id, LinkNumber); 1]>);

impl KeyServers {
    /// Adds a link of an instance, unless it is present.
    pub(super) fn insert(&mut self, instance: Id, link: LinkNumber) {
        let server = (instance, link);
        if let Err(position) = self.0.binary_search(&server) {
            self.0.insert(position, server);
        }
    }

    /// Removes a link of an instance.
    pub(super) fn remove(&mut self, instance: Id, link: LinkNumber) {
        if let Ok(position) = self.0.binary_search(&(instance, link)) {
            self.0.remove(position);
        }
    }

    /// Returns all links with their instances.
    pub(super) fn all(&self) -> &[(Id, LinkNumber)] {
        &self.0
    }

    /// Returns the links of an instance, or all.
    pub(super) fn of(&self, instance: Option<Id>) -> &[(Id, LinkNumber)] {
        let Some(instance) = instance else {
            return self.all();
        };
        let start = self.0.partition_point(|(other, _)| *other < instance);
        let (_, rest) = self.0.split_at(start);
        let length = rest.partition_point(|(other, _)| *other == instance);
        let (found, _) = rest.split_at(length);
        found
    }

    /// Returns the number of links.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no link.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn id(number: u8) -> Id {
        Id([number; 16])
    }

    #[test]
    fn a_single_server_takes_little_memory() {
        let entry = size_of::<(Id, KeyServers)>();
        assert!(entry <= 56, "{entry}");
        let mut servers = KeyServers::default();
        servers.insert(id(1), 7);
        servers.insert(id(1), 7);
        assert!(!servers.0.spilled());
        assert_eq!(servers.all(), [(id(1), 7)]);
    }

    proptest! {
        #[test]
        fn servers_agree_with_a_set(
            steps in prop::collection::vec((any::<bool>(), 0_u8..4, 0_u64..4), 0..40),
            asked in 0_u8..5,
        ) {
            let (mut servers, mut model) = (KeyServers::default(), BTreeSet::new());
            for (is_insertion, instance, link) in steps {
                if is_insertion {
                    servers.insert(id(instance), link);
                    model.insert((id(instance), link));
                } else {
                    servers.remove(id(instance), link);
                    model.remove(&(id(instance), link));
                }
            }
            let all: Vec<_> = model.iter().copied().collect();
            prop_assert_eq!(servers.all(), all.as_slice());
            prop_assert_eq!(servers.of(None), all.as_slice());
            prop_assert_eq!((servers.len(), servers.is_empty()), (all.len(), all.is_empty()));
            let of_one = all.iter().filter(|(instance, _)| *instance == id(asked));
            let of_one: Vec<_> = of_one.copied().collect();
            prop_assert_eq!(servers.of(Some(id(asked))), of_one.as_slice());
        }
    }
}
