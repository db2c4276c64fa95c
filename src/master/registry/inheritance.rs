//! The key ids that a link inherits from the older link of its slot, until it registers them. Their
//! server lives, so no other account may register them in between.

use std::collections::BTreeSet;

use super::Registry;
use crate::{master::limits::LinkNumber, policy::AccountId};
use report_proto::id::Id;

impl<L: Clone, A: Clone> Registry<L, A> {
    /// Withdraws the registrations of a link, and keeps their key ids for the newer link of its slot.
    pub(super) fn inherit(&mut self, old: LinkNumber, new: LinkNumber) {
        let limit = self.ports_per_link;
        let keys: BTreeSet<Id> = match self.links.get(&old) {
            Some(entry) => {
                let keys = entry.ports.iter().chain(&entry.inherited);
                keys.copied().take(limit).collect()
            }
            None => BTreeSet::new(),
        };
        self.withdraw_all(old);
        self.heirs.extend(keys.iter().map(|key| (*key, new)));
        if let Some(entry) = self.links.get_mut(&new) {
            entry.inherited = keys;
        }
    }

    /// Returns the account of another link that has inherited a key id.
    pub(super) fn heir_account(&self, key: Id, asking: LinkNumber) -> Option<AccountId> {
        let heir = self.heirs.get(&key).filter(|heir| **heir != asking)?;
        self.links.get(heir)?.account
    }

    /// Forgets that a link has inherited a key id.
    pub(super) fn disinherit(&mut self, link: LinkNumber, key: Id) {
        if let Some(entry) = self.links.get_mut(&link)
            && entry.inherited.remove(&key)
        {
            self.forget_heir(link, key);
        }
    }

    /// Forgets all key ids that a link has inherited.
    pub(super) fn disinherit_all(&mut self, link: LinkNumber) {
        let Some(entry) = self.links.get_mut(&link) else {
            return;
        };
        let keys = std::mem::take(&mut entry.inherited);
        for key in keys {
            self.forget_heir(link, key);
        }
    }

    fn forget_heir(&mut self, link: LinkNumber, key: Id) {
        if self.heirs.get(&key) == Some(&link) {
            self.heirs.remove(&key);
            self.has_room_for_refused |= self.refusals > 0;
        }
    }
}
