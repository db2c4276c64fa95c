//! What all tunnels of a process may hold for slow applications and slow peers, together. Owns one sum; each tunnel has an [`Account`] of it and counts its own.
//!
//! A tunnel may take no more than what is still free (the dynamic threshold of Choudhury and Hahne, with a factor of one), so that tunnels whose applications have stalled
//! leave something to the next one, however many there are. What a stream has in any case, its floor, is charged and never refused.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// A difference that is not worth telling the others: a tunnel counts its own bytes exactly, and all tunnels together about.
const QUANTUM: u64 = 16 * 1024;

/// Bytes that the tunnels of a process share.
#[derive(Debug)]
pub struct Budget {
    size: u64,
    used: AtomicU64,
}

impl Default for Budget {
    /// No limit.
    fn default() -> Self {
        Budget::new(u64::MAX)
    }
}

impl Budget {
    /// A budget of `size` bytes, of which nothing is used.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Budget {
            size,
            used: AtomicU64::new(0),
        }
    }

    /// Bytes that are used now, to within a few KiB for each tunnel.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    fn free(&self) -> u64 {
        self.size.saturating_sub(self.used())
    }
}

/// A tunnel's part of a [`Budget`]. Dropping it gives everything back.
#[derive(Debug, Default)]
pub struct Account {
    budget: Arc<Budget>,
    charged: u64,
}

impl Account {
    /// An account of `budget` that holds nothing.
    pub fn of(budget: Arc<Budget>) -> Self {
        Account { budget, charged: 0 }
    }

    /// The tunnel holds `bytes` now. Answers how many more it may take.
    pub fn settle(&mut self, bytes: u64) -> u64 {
        if bytes.abs_diff(self.charged) >= QUANTUM || bytes == 0 {
            let _ = self.budget.used.fetch_update(Relaxed, Relaxed, |used| {
                Some(used.saturating_sub(self.charged).saturating_add(bytes))
            });
            self.charged = bytes;
        }
        self.budget.free().saturating_sub(bytes)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.settle(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn stalled_tunnels_leave_something_to_the_next_and_never_exceed_the_budget() {
        let budget = Arc::new(Budget::new(64 * MIB));
        let mut accounts: Vec<_> = (0..10).map(|_| Account::of(Arc::clone(&budget))).collect();
        for account in &mut accounts {
            let mut held = 0;
            while held < 32 * MIB && account.settle(held) > MIB {
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
    fn without_a_limit_there_is_always_room() {
        assert!(Account::default().settle(1 << 40) > 1 << 60);
    }
}
