//! What links without a proof make the master hold, charged to each of them: attachments without an answer, control frames that wait, and messages of which
//! a part has come. They share an eighth of the budget; a link with a proof is charged to the rest.
//!
//! A proof is the master key (a server), or a tunnel: a server that has the port key has answered.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio::sync::Notify;

use super::{memory::Memory, registry::LinkNumber, shares::Shares};
use crate::link::Ledger;

/// What the strangers may hold together, of the whole budget: one of so many parts.
const STRANGERS_PART: usize = 8;

/// The memory of a master: one part for strangers, the rest for what has a proof.
#[derive(Debug)]
pub(super) struct Budget {
    /// For links with a proof, and the channels between them.
    pub(super) proven: Memory,
    strangers: Mutex<Shares>,
    strangers_bytes: usize,
    /// Strangers hold more than they may.
    pub(super) overdrawn: Notify,
}

/// There is no memory for an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Short {
    /// This link has to give way first.
    Evict(LinkNumber),
    /// Nobody holds more than the one that asks.
    Refused,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        let strangers_bytes = bytes / STRANGERS_PART;
        Budget {
            proven: Memory::new(bytes.saturating_sub(strangers_bytes)),
            strangers: Mutex::default(),
            strangers_bytes,
            overdrawn: Notify::new(),
        }
    }

    /// Takes `bytes` for an attachment of this link.
    pub(super) fn take(&self, party: IpAddr, link: LinkNumber, bytes: usize) -> Result<(), Short> {
        let mut shares = self.strangers();
        if shares.total().saturating_add(bytes) <= self.strangers_bytes {
            shares.add(party, link, bytes);
            return Ok(());
        }
        Err(shares
            .gives_way_to(party, link, bytes)
            .map_or(Short::Refused, Short::Evict))
    }

    /// Gives back what was taken for an attachment.
    pub(super) fn give_back(&self, party: IpAddr, link: LinkNumber, bytes: usize) {
        self.strangers().remove(party, link, bytes);
    }

    /// The link that has to give way because strangers hold more than they may.
    pub(super) fn to_evict(&self) -> Option<LinkNumber> {
        let shares = self.strangers();
        shares
            .heaviest()
            .filter(|_| shares.total() > self.strangers_bytes)
    }

    /// Bytes that are held now.
    #[cfg(test)]
    pub(super) fn used_bytes(&self) -> usize {
        self.strangers().total() + self.proven.used_bytes()
    }

    fn strangers(&self) -> MutexGuard<'_, Shares> {
        self.strangers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a link makes the master hold.
#[derive(Debug)]
pub(super) struct Account {
    budget: Arc<Budget>,
    party: IpAddr,
    link: LinkNumber,
    /// Whether it is charged to the part of those that have a proof. Changes under the lock of `held`.
    is_proven: AtomicBool,
    /// What it holds as a stranger, attachments aside.
    held: Mutex<usize>,
}

impl Account {
    /// The account of a link that holds nothing.
    pub(super) fn new(
        budget: &Arc<Budget>,
        party: IpAddr,
        link: LinkNumber,
        is_proven: bool,
    ) -> Arc<Self> {
        Arc::new(Account {
            budget: Arc::clone(budget),
            party,
            link,
            is_proven: AtomicBool::new(is_proven),
            held: Mutex::new(0),
        })
    }

    /// The party that the link belongs to.
    pub(super) fn party(&self) -> IpAddr {
        self.party
    }

    /// Whether it is charged to the part of those that have a proof.
    pub(super) fn is_proven(&self) -> bool {
        self.is_proven.load(Relaxed)
    }

    /// From now on the link is charged to the part of those that have a proof. Also for one that is being ended: what it holds is on its way out, and takes
    /// nothing from other strangers. Answers what it held as a stranger.
    pub(super) fn leave_strangers(&self) -> usize {
        if self.is_proven.load(Relaxed) {
            return 0;
        }
        let mut held = self.held();
        self.is_proven.store(true, Relaxed);
        let bytes = std::mem::take(&mut *held);
        self.budget.strangers().remove(self.party, self.link, bytes);
        self.budget.proven.charge(bytes);
        bytes
    }

    fn held(&self) -> MutexGuard<'_, usize> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what a stranger holds; answers false when it is none.
    fn change(&self, change: impl FnOnce(&mut usize, &mut Shares)) -> bool {
        if self.is_proven.load(Relaxed) {
            return false;
        }
        let mut held = self.held();
        if self.is_proven.load(Relaxed) {
            return false;
        }
        let mut shares = self.budget.strangers();
        change(&mut held, &mut shares);
        if shares.total() > self.budget.strangers_bytes {
            self.budget.overdrawn.notify_one();
        }
        true
    }
}

impl Ledger for Account {
    fn charge(&self, bytes: usize) {
        let is_charged = self.change(|held, shares| {
            *held = held.saturating_add(bytes);
            shares.add(self.party, self.link, bytes);
        });
        if !is_charged {
            self.budget.proven.charge(bytes);
        }
    }

    fn release(&self, bytes: usize) {
        let is_released = self.change(|held, shares| {
            *held = held.saturating_sub(bytes);
            shares.remove(self.party, self.link, bytes);
        });
        if !is_released {
            self.budget.proven.give_back(bytes);
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
    fn strangers_share_an_eighth_and_the_greediest_gives_way() {
        let budget = Budget::new(8 * 64 * KIB);
        (0..64).for_each(|_| assert_eq!(budget.take(party(1), 1, KIB), Ok(())));
        assert_eq!(
            budget.take(party(1), 1, KIB),
            Err(Short::Refused),
            "it has everything"
        );
        assert_eq!(
            budget.take(party(1), 2, KIB),
            Err(Short::Evict(1)),
            "another link of the same address gets in"
        );
        assert_eq!(budget.take(party(2), 3, KIB), Err(Short::Evict(1)));
        budget.give_back(party(1), 1, KIB);
        assert_eq!(budget.take(party(2), 3, KIB), Ok(()));
        assert_eq!(budget.used_bytes(), 64 * KIB);
    }

    #[test]
    fn what_a_stranger_holds_is_told_and_leaves_with_it() {
        let budget = Arc::new(Budget::new(8 * 64 * KIB));
        let (account, other) = (
            Account::new(&budget, party(1), 1, false),
            Account::new(&budget, party(2), 2, false),
        );
        account.charge(64 * KIB);
        assert_eq!(budget.to_evict(), None);
        other.charge(KIB);
        assert_eq!(budget.to_evict(), Some(1));
        assert_eq!(account.leave_strangers(), 64 * KIB);
        assert_eq!(account.leave_strangers(), 0, "once");
        assert_eq!(
            (budget.to_evict(), budget.proven.used_bytes()),
            (None, 64 * KIB)
        );
        account.release(64 * KIB);
        other.release(KIB);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn who_has_a_proof_takes_nothing_from_strangers() {
        let budget = Arc::new(Budget::new(8 * KIB));
        let server = Account::new(&budget, party(1), 1, true);
        server.charge(6 * KIB);
        assert_eq!(
            (budget.take(party(2), 2, KIB), budget.proven.used_bytes()),
            (Ok(()), 6 * KIB)
        );
    }
}
