//! The memory that all tunnels of a process may use together for slow applications and slow peers.
//! The budget owns one sum; each tunnel has a [`BudgetAccount`] and counts its own bytes.
//! [`Mux::update_budget`] keeps the account of a tunnel, and checks its ledgers in debug builds.
//!
//! A tunnel may take no more than the budget has free (the dynamic threshold of Choudhury and
//! Hahne, with a factor of one). Tunnels with stalled applications therefore leave memory to the
//! next tunnel, whatever their number. The floor of each stream is charged but never refused.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::Mux;

/// The smallest change that a tunnel reports to the shared budget. A tunnel counts its own bytes
/// exactly; the shared sum is approximate.
const QUANTUM: u64 = 16 * 1024;

/// The bytes that the tunnels of a process share.
#[derive(Debug)]
pub struct MemoryBudget {
    size: AtomicU64,
    used: AtomicU64,
}

impl Default for MemoryBudget {
    /// Creates a budget without a limit.
    fn default() -> Self {
        MemoryBudget::new(u64::MAX)
    }
}

impl MemoryBudget {
    /// Creates an unused budget of `size` bytes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        MemoryBudget {
            size: AtomicU64::new(size),
            used: AtomicU64::new(0),
        }
    }

    /// Returns the number of bytes in use, accurate to a few KiB per tunnel.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Returns the size of the budget in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size.load(Relaxed)
    }

    /// Changes the size. Bytes in use beyond it stay until they are read.
    pub fn set_size(&self, size: u64) {
        self.size.store(size, Relaxed);
    }

    fn free(&self) -> u64 {
        self.size().saturating_sub(self.used())
    }
}

/// A tunnel's share of a [`MemoryBudget`]. Dropping it refunds all its bytes.
#[derive(Debug, Default)]
pub(super) struct BudgetAccount {
    budget: Arc<MemoryBudget>,
    charged: u64,
}

impl BudgetAccount {
    /// Creates an account of `budget` with no bytes charged.
    pub(super) fn new(budget: Arc<MemoryBudget>) -> Self {
        BudgetAccount { budget, charged: 0 }
    }

    /// Sets the charge of this tunnel to `bytes`. Returns how many more bytes it may take.
    pub(super) fn charge(&mut self, bytes: u64) -> u64 {
        if bytes.abs_diff(self.charged) >= QUANTUM || bytes == 0 {
            let _ = self.budget.used.fetch_update(Relaxed, Relaxed, |used| {
                Some(used.saturating_sub(self.charged).saturating_add(bytes))
            });
            self.charged = bytes;
        }
        self.budget.free().saturating_sub(bytes)
    }
}

impl Drop for BudgetAccount {
    fn drop(&mut self) {
        self.charge(0);
    }
}

impl Mux {
    /// Charges the bytes held now to the process's budget. Every public operation ends with this
    /// call.
    pub(super) fn update_budget(&mut self) {
        let floors = self
            .parameters
            .stream_window
            .initial
            .saturating_mul(self.streams.len() as u64);
        // The floor of every stream, the loans beyond it, all retained and waiting data, and flows.
        let room = self.account.charge(
            floors
                .saturating_add(self.credit.lent())
                .saturating_add(self.send_totals.retained)
                .saturating_add(self.datagrams.held_bytes()),
        );
        self.credit.limit_to(room);
        self.send_totals.limit_to(room);
        self.datagrams.limit_to(room);
        self.check_invariants();
    }

    /// Checks in debug builds that the ledgers agree, and that neither direction exceeds its
    /// credit.
    pub(super) fn check_invariants(&self) {
        // With many streams the sum would cost more than the traffic itself.
        const STREAMS_CHECKED: usize = 64;
        if cfg!(debug_assertions) && self.streams.len() <= STREAMS_CHECKED {
            let held: u64 = self
                .streams
                .values()
                .map(|stream| stream.receive.held())
                .sum();
            debug_assert_eq!(held, self.window.held(), "credit is conserved");
            debug_assert!(
                self.send_totals.is_sum_of(self.streams.values()),
                "unsent and retained bytes are counted"
            );
            debug_assert!(
                self.tunnel_sent <= self.tunnel_limit,
                "no byte exceeds the tunnel's credit"
            );
            debug_assert!(
                self.credit
                    .is_sum_of(self.streams.values().map(|stream| &stream.receive)),
                "loans are counted, and bounded"
            );
            let floors = self
                .parameters
                .stream_window
                .initial
                .saturating_mul(self.streams.len() as u64);
            debug_assert!(
                held <= self.parameters.tunnel_window.max.saturating_add(floors),
                "memory is bounded by the pool and the floors"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn stalled_tunnels_leave_memory_to_others_within_the_budget() {
        let budget = Arc::new(MemoryBudget::new(64 * MIB));
        let mut accounts: Vec<_> = (0..10)
            .map(|_| BudgetAccount::new(Arc::clone(&budget)))
            .collect();
        for account in &mut accounts {
            let mut held = 0;
            while held < 32 * MIB && account.charge(held) > MIB {
                held += MIB;
            }
            assert!(held > 0 || budget.free() < 3 * MIB, "{budget:?}");
            assert!(budget.used() <= 64 * MIB);
        }
        assert!(budget.free() > 0);
        drop(accounts);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn unlimited_budget_always_has_room() {
        assert!(BudgetAccount::default().charge(1 << 40) > 1 << 60);
    }
}
