//! The links of each account, for the limits of their number. Links of one slot count once: a newer
//! one takes over, and during a handover both are up.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::policy::{AccountId, Denied};
use report_proto::{
    frame::{Role, Slot},
    id::Id,
};

/// A slot of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::master) struct AccountSlot {
    /// The account, or `None` for clients without a credential.
    pub(in crate::master) account: Option<AccountId>,
    /// The role.
    pub(in crate::master) role: Role,
    /// The process.
    pub(in crate::master) instance: Id,
    /// The slot.
    pub(in crate::master) slot: Slot,
}

/// The slots that are in use.
#[derive(Debug, Default)]
pub(in crate::master) struct LinkSlots(Mutex<SlotTable>);

#[derive(Debug, Default)]
struct SlotTable {
    /// The links of each slot.
    slots: HashMap<AccountSlot, u32>,
    /// The slots of each account.
    accounts: HashMap<AccountId, u32>,
}

/// The entry of a link. Dropping it forgets the link.
#[derive(Debug)]
pub(in crate::master) struct LinkSlotEntry {
    slots: Arc<LinkSlots>,
    slot: AccountSlot,
}

impl LinkSlots {
    /// Creates the table without links.
    pub(in crate::master) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Enters a link if `decide` admits it. Its arguments are the numbers of the other slots of the
    /// account, and of all. They do not change in between.
    pub(in crate::master) fn enter(
        self: &Arc<Self>,
        slot: AccountSlot,
        decide: impl FnOnce(u32, u32) -> Result<(), Denied>,
    ) -> Result<LinkSlotEntry, Denied> {
        let mut table = self.table();
        let own = u32::from(table.slots.contains_key(&slot));
        let total = u32::try_from(table.slots.len()).unwrap_or(u32::MAX);
        let of_account = slot.account.map_or(0, |account| table.of(account));
        decide(of_account.saturating_sub(own), total.saturating_sub(own))?;
        let links = table.slots.entry(slot).or_default();
        *links = links.saturating_add(1);
        if own == 0
            && let Some(account) = slot.account
        {
            let count = table.accounts.entry(account).or_default();
            *count = count.saturating_add(1);
        }
        drop(table);
        Ok(LinkSlotEntry {
            slots: Arc::clone(self),
            slot,
        })
    }

    /// Returns the number of slots of an account.
    pub(in crate::master) fn of_account(&self, account: AccountId) -> u32 {
        self.table().of(account)
    }

    /// Returns the number of all slots.
    pub(in crate::master) fn total(&self) -> u32 {
        u32::try_from(self.table().slots.len()).unwrap_or(u32::MAX)
    }

    /// Returns the accounts with links.
    pub(in crate::master) fn accounts(&self) -> Vec<AccountId> {
        self.table().accounts.keys().copied().collect()
    }

    fn table(&self) -> MutexGuard<'_, SlotTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SlotTable {
    fn of(&self, account: AccountId) -> u32 {
        self.accounts.get(&account).copied().unwrap_or(0)
    }
}

impl Drop for LinkSlotEntry {
    fn drop(&mut self) {
        let mut table = self.slots.table();
        let Entry::Occupied(mut links) = table.slots.entry(self.slot) else {
            return;
        };
        *links.get_mut() = links.get().saturating_sub(1);
        if *links.get() > 0 {
            return;
        }
        links.remove();
        let Some(account) = self.slot.account else {
            return;
        };
        if let Entry::Occupied(mut count) = table.accounts.entry(account) {
            *count.get_mut() = count.get().saturating_sub(1);
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(account: i64, instance: u8) -> AccountSlot {
        AccountSlot {
            account: Some(AccountId(account)),
            role: Role::Server,
            instance: Id([instance; 16]),
            slot: Slot::FIRST,
        }
    }

    /// Enters a link, and returns the numbers of the others.
    fn enter(slots: &Arc<LinkSlots>, slot: AccountSlot) -> (LinkSlotEntry, [u32; 2]) {
        let mut others = [0; 2];
        let entry = slots.enter(slot, |account, relay| {
            others = [account, relay];
            Ok(())
        });
        (entry.expect("admitted"), others)
    }

    #[test]
    fn links_of_a_slot_count_once_and_not_for_themselves() {
        let slots = LinkSlots::new();
        let (first, others) = enter(&slots, slot(2, 1));
        assert_eq!(others, [0, 0]);
        let (newer, others) = enter(&slots, slot(2, 1));
        assert_eq!(others, [0, 0], "it takes over");
        let (other, others) = enter(&slots, slot(2, 2));
        assert_eq!(others, [1, 1]);
        let (foreign, others) = enter(&slots, slot(3, 1));
        assert_eq!(others, [0, 2]);
        assert_eq!((slots.of_account(AccountId(2)), slots.total()), (2, 3));
        drop(first);
        assert_eq!(slots.of_account(AccountId(2)), 2);
        drop((newer, other));
        assert_eq!((slots.of_account(AccountId(2)), slots.total()), (0, 1));
        assert_eq!(slots.accounts(), [AccountId(3)]);
        drop(foreign);
        assert_eq!(slots.total(), 0);
    }

    #[test]
    fn denied_link_leaves_nothing() {
        let slots = LinkSlots::new();
        let denied = slots.enter(slot(2, 1), |_, _| Err(Denied::AccountLinks));
        assert_eq!(denied.err(), Some(Denied::AccountLinks));
        assert_eq!((slots.total(), slots.accounts()), (0, vec![]));
    }
}
