//! The live numbers of this master that others need.

use std::collections::HashMap;

use super::Usage;
use crate::{
    master::policies::limits_of,
    policy::{Counts, LimitSubject},
    store::LiveRow,
};
use report_proto::id::Id;

impl Usage {
    /// Returns the live numbers of the subjects whose limits need them.
    pub(super) fn live_rows(&self) -> Vec<LiveRow> {
        let router = &self.router;
        let slots = &self.policies().link_slots;
        let mut subjects = router.live.subjects();
        subjects.push(LimitSubject::Relay);
        subjects.extend(slots.accounts().into_iter().map(LimitSubject::Account));
        let registry = router.registry();
        let table = self.policies().table();
        let is_needed = |subject| {
            let limits = limits_of(&table, subject);
            limits.is_some_and(|limits| limits.counts != Counts::default())
        };
        subjects.retain(|subject| is_needed(*subject));
        // Most registered keys have no such limit, and there may be 100,000.
        let served = registry.served_keys();
        let served = served.filter(|(key, _)| is_needed(LimitSubject::Key(*key)));
        let served: HashMap<Id, usize> = served.collect();
        drop(table);
        drop(registry);
        subjects.extend(served.keys().copied().map(LimitSubject::Key));
        subjects.sort_unstable();
        subjects.dedup();
        let row = |subject| LiveRow {
            subject,
            links: match subject {
                LimitSubject::Relay => slots.total(),
                LimitSubject::Account(id) => slots.of_account(id),
                LimitSubject::Key(id) => {
                    let links = served.get(&id).copied().unwrap_or_default();
                    u32::try_from(links).unwrap_or(u32::MAX)
                }
            },
            tunnels: router.live.tunnels_of(subject),
            attachments: self.policies().meter.attachments(subject),
        };
        subjects.into_iter().map(row).collect()
    }
}
