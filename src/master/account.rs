//! Memory accounts of links. Unproven links share an eighth of the budget; proven links use the
//! rest. Each unproven link is charged for its unanswered attach requests, its queued control
//! frames and its partially received messages.
//!
//! A link proves itself by the master key (a server), or by a tunnel: a server that holds the port
//! key has answered it.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::sync::Notify;

use super::{limits::LinkNumber, memory::Memory, shares::Shares};
use crate::link::MemoryAccount;

/// The fraction of the budget for unproven links: one part in this many.
const UNPROVEN_DIVISOR: usize = 8;

/// The memory budget of a master, split between unproven and proven links.
#[derive(Debug)]
pub(super) struct MasterBudget {
    /// The part for proven links and the channels between them.
    pub(super) proven: Memory,
    unproven: Mutex<Shares>,
    unproven_bytes: AtomicUsize,
    /// Notified when unproven links exceed their part.
    pub(super) over_quota: Notify,
}

/// The reason why the budget has no memory for an attach request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReserveError {
    /// The caller must evict this link first.
    Evict(LinkNumber),
    /// No other link holds more than the requester.
    Refused,
}

impl MasterBudget {
    pub(super) fn new(bytes: usize) -> Self {
        let unproven_bytes = bytes / UNPROVEN_DIVISOR;
        MasterBudget {
            proven: Memory::new(bytes.saturating_sub(unproven_bytes)),
            unproven: Mutex::default(),
            unproven_bytes: AtomicUsize::new(unproven_bytes),
            over_quota: Notify::new(),
        }
    }

    /// Changes the budget. Bytes charged beyond a smaller one stay.
    pub(super) fn set_bytes(&self, bytes: usize) {
        let unproven_bytes = bytes / UNPROVEN_DIVISOR;
        self.unproven_bytes.store(unproven_bytes, Relaxed);
        self.proven.set_budget(bytes.saturating_sub(unproven_bytes));
        self.over_quota.notify_one();
    }

    /// Reserves `bytes` for an attach request of this link.
    pub(super) fn reserve(
        &self,
        party: IpAddr,
        link: LinkNumber,
        bytes: usize,
    ) -> Result<(), ReserveError> {
        let mut shares = self.unproven();
        if shares.total().saturating_add(bytes) <= self.unproven_bytes.load(Relaxed) {
            shares.add(party, link, bytes);
            return Ok(());
        }
        Err(shares
            .victim_for(party, link, bytes, fastrand::u64(..))
            .map_or(ReserveError::Refused, ReserveError::Evict))
    }

    /// Returns the reservation of an attach request.
    pub(super) fn refund(&self, party: IpAddr, link: LinkNumber, bytes: usize) {
        self.unproven().remove(party, link, bytes);
    }

    /// Returns the link to evict when unproven links exceed their part.
    pub(super) fn link_over_quota(&self) -> Option<LinkNumber> {
        let shares = self.unproven();
        shares
            .heaviest(fastrand::u64(..))
            .filter(|_| shares.total() > self.unproven_bytes.load(Relaxed))
    }

    /// Returns the bytes in use.
    pub(super) fn used_bytes(&self) -> usize {
        self.unproven().total() + self.proven.used_bytes()
    }

    fn unproven(&self) -> MutexGuard<'_, Shares> {
        self.unproven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The memory account of one link.
#[derive(Debug)]
pub(super) struct LinkAccount {
    budget: Arc<MasterBudget>,
    party: IpAddr,
    link: LinkNumber,
    /// Whether the link is charged to the proven part. Changes only under the lock of `held`.
    is_proven: AtomicBool,
    /// The bytes charged to the unproven part, except attach requests.
    held: Mutex<usize>,
}

impl LinkAccount {
    /// Creates the empty account of a link.
    pub(super) fn new(
        budget: &Arc<MasterBudget>,
        party: IpAddr,
        link: LinkNumber,
        is_proven: bool,
    ) -> Arc<Self> {
        Arc::new(LinkAccount {
            budget: Arc::clone(budget),
            party,
            link,
            is_proven: AtomicBool::new(is_proven),
            held: Mutex::new(0),
        })
    }

    /// Returns the party that the link belongs to.
    pub(super) fn party(&self) -> IpAddr {
        self.party
    }

    /// Moves the account to the proven part. The router also calls this for a link that it evicts:
    /// its memory will be freed soon and must not count against other unproven links. Returns the
    /// bytes moved.
    pub(super) fn mark_proven(&self) -> usize {
        if self.is_proven.load(Relaxed) {
            return 0;
        }
        let mut held = self.held();
        // Under the lock of `held`, so that a concurrent charge sees either state, never both.
        self.is_proven.store(true, Relaxed);
        let bytes = std::mem::take(&mut *held);
        self.budget.unproven().remove(self.party, self.link, bytes);
        self.budget.proven.charge(bytes);
        bytes
    }

    fn held(&self) -> MutexGuard<'_, usize> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Updates the charge of an unproven link. Returns false when the link is proven.
    fn update_unproven(&self, update: impl FnOnce(&mut usize, &mut Shares)) -> bool {
        if self.is_proven.load(Relaxed) {
            return false;
        }
        // `mark_proven` may have run before this lock was taken, so check again.
        let mut held = self.held();
        if self.is_proven.load(Relaxed) {
            return false;
        }
        let mut shares = self.budget.unproven();
        update(&mut held, &mut shares);
        if shares.total() > self.budget.unproven_bytes.load(Relaxed) {
            self.budget.over_quota.notify_one();
        }
        true
    }
}

impl MemoryAccount for LinkAccount {
    fn charge(&self, bytes: usize) {
        let is_charged = self.update_unproven(|held, shares| {
            *held = held.saturating_add(bytes);
            shares.add(self.party, self.link, bytes);
        });
        if !is_charged {
            self.budget.proven.charge(bytes);
        }
    }

    fn refund(&self, bytes: usize) {
        let is_released = self.update_unproven(|held, shares| {
            *held = held.saturating_sub(bytes);
            shares.remove(self.party, self.link, bytes);
        });
        if !is_released {
            self.budget.proven.refund(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    fn party(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    #[test]
    fn changed_budget_applies_to_what_comes_and_keeps_what_is_held() {
        let budget = MasterBudget::new(8 * 4 * KIB);
        assert_eq!(budget.reserve(party(1), 1, 4 * KIB), Ok(()));
        budget.set_bytes(8 * 2 * KIB);
        assert_eq!(budget.link_over_quota(), Some(1), "it holds too much now");
        assert_eq!(
            budget.reserve(party(1), 1, 1),
            Err(ReserveError::Refused),
            "the smaller part is full"
        );
        budget.set_bytes(8 * 8 * KIB);
        assert_eq!(budget.reserve(party(1), 1, 4 * KIB), Ok(()));
        assert_eq!(budget.used_bytes(), 8 * KIB);
    }

    #[test]
    fn unproven_links_share_an_eighth_and_the_heaviest_is_evicted() {
        let budget = MasterBudget::new(8 * 64 * KIB);
        (0..64).for_each(|_| assert_eq!(budget.reserve(party(1), 1, KIB), Ok(())));
        assert_eq!(
            budget.reserve(party(1), 1, KIB),
            Err(ReserveError::Refused),
            "it holds the whole part"
        );
        assert_eq!(
            budget.reserve(party(1), 2, KIB),
            Err(ReserveError::Evict(1)),
            "another link of the same address replaces it"
        );
        assert_eq!(
            budget.reserve(party(2), 3, KIB),
            Err(ReserveError::Evict(1))
        );
        budget.refund(party(1), 1, KIB);
        assert_eq!(budget.reserve(party(2), 3, KIB), Ok(()));
        assert_eq!(budget.used_bytes(), 64 * KIB);
    }

    #[test]
    fn address_with_eight_links_holds_no_more_than_one_with_a_single_link() {
        let budget = MasterBudget::new(8 * 64 * KIB);
        let single = 9;
        let owner = |link| party(if link == single { 2 } else { 1 });
        let mut held = [0_usize; 10];
        // Every link asks in turn for more than the whole part.
        for link in (1..=single).cycle().take(9 * 100) {
            loop {
                match budget.reserve(owner(link), link, KIB) {
                    Ok(()) => break held[link as usize] += 1,
                    Err(ReserveError::Refused) => break,
                    Err(ReserveError::Evict(victim)) => {
                        budget.refund(owner(victim), victim, KIB);
                        held[victim as usize] -= 1;
                    }
                }
            }
        }
        assert_eq!(held.iter().sum::<usize>(), 64, "the part is used");
        assert!((31..=33).contains(&held[single as usize]), "{held:?}");
    }

    #[test]
    fn unproven_memory_moves_to_the_proven_part() {
        let budget = Arc::new(MasterBudget::new(8 * 64 * KIB));
        let (account, other) = (
            LinkAccount::new(&budget, party(1), 1, false),
            LinkAccount::new(&budget, party(2), 2, false),
        );
        account.charge(64 * KIB);
        assert_eq!(budget.link_over_quota(), None);
        other.charge(KIB);
        assert_eq!(budget.link_over_quota(), Some(1));
        assert_eq!(account.mark_proven(), 64 * KIB);
        assert_eq!(account.mark_proven(), 0, "once");
        assert_eq!(
            (budget.link_over_quota(), budget.proven.used_bytes()),
            (None, 64 * KIB)
        );
        account.refund(64 * KIB);
        other.refund(KIB);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn proven_links_take_nothing_from_the_unproven_part() {
        let budget = Arc::new(MasterBudget::new(8 * KIB));
        let server = LinkAccount::new(&budget, party(1), 1, true);
        server.charge(6 * KIB);
        assert_eq!(
            (budget.reserve(party(2), 2, KIB), budget.proven.used_bytes()),
            (Ok(()), 6 * KIB)
        );
    }
}
