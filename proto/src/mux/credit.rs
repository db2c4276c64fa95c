//! The credit pool of a tunnel, which decides how much credit each stream may hold. The pool owns
//! the sums and the shares; a stream owns its limit.
//!
//! Granted credit cannot be revoked. A stream whose application stops reading turns all of its
//! credit into held bytes. A receiver therefore treats credit as a loan:
//!
//! - Each stream has a *floor*, its initial window, which is not a loan. A stream can always move.
//! - Credit beyond the floor is a loan out of one pool, whose size is the largest tunnel window.
//!   The loans never exceed the pool. Held bytes are therefore at most the pool and the floors of
//!   all streams.
//! - A stream may hold a share of the credit that is still free (the dynamic threshold of Choudhury
//!   and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998). The
//!   share shrinks with each stalled stream, and never reaches zero.
//! - A stream is *unproven* until its application has proved that it reads. Unproven streams borrow
//!   from a part of the pool. Any number of applications that never read leaves the rest to the
//!   others.

use super::{receive_half::ReceiveHalf, window::UNPROVEN_LOAN_MAX};

/// The part of the pool that unproven streams share, and the part that proven streams always leave
/// to them, both as divisors.
const UNPROVEN_PART: u64 = 4;
const UNPROVEN_RESERVE: u64 = 16;

/// The share of the free credit of its part that a stream may hold, as a divisor. Each stalled
/// stream leaves 15/16 of the free credit.
const SHARE: u64 = 16;

/// One stream on a long path needs more than that share. It may hold up to 9/16 of the free credit,
/// while an eighth of the pool remains for later streams.
const LONG_PATH_SIXTEENTHS: u64 = 9;
const LONG_PATH_RESERVE: u64 = 8;

/// The loans of unproven and of proven streams, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Loans {
    unproven: u64,
    proven: u64,
}

/// The loans of all streams of a tunnel.
#[derive(Debug)]
pub(super) struct CreditPool {
    size: u64,
    loans: Loans,
    /// The limit of all loans that the process's memory budget imposes.
    budget_limit: u64,
}

impl CreditPool {
    /// Creates a pool of `size` free bytes.
    pub(super) fn new(size: u64) -> Self {
        CreditPool {
            size,
            loans: Loans::default(),
            budget_limit: u64::MAX,
        }
    }

    /// Returns the sum of all loans.
    pub(super) fn lent(&self) -> u64 {
        self.loans.unproven.saturating_add(self.loans.proven)
    }

    /// Limits further loans to `room` bytes.
    pub(super) fn limit_to(&mut self, room: u64) {
        self.budget_limit = self.lent().saturating_add(room);
    }

    /// Applies `change` to the receiving half of a stream, and updates the sums by the change of
    /// its loan.
    pub(super) fn track<Outcome>(
        &mut self,
        receive: &mut ReceiveHalf,
        change: impl FnOnce(&mut ReceiveHalf) -> Outcome,
    ) -> Outcome {
        let before = Loans::of(receive);
        let outcome = change(receive);
        let after = Loans::of(receive);
        self.loans.unproven = self
            .loans
            .unproven
            .saturating_add(after.unproven)
            .saturating_sub(before.unproven);
        self.loans.proven = self
            .loans
            .proven
            .saturating_add(after.proven)
            .saturating_sub(before.proven);
        outcome
    }

    /// Returns the total loan that this stream may hold. `path_need` is what one stream needs to
    /// fill a long path; 0 for a short one.
    pub(super) fn allowance(&self, receive: &ReceiveHalf, path_need: u64) -> u64 {
        let own = Loans::of(receive);
        let unproven = self.loans.unproven.saturating_sub(own.unproven);
        let proven = self.loans.proven.saturating_sub(own.proven);
        let most = self
            .budget_limit
            .saturating_sub(unproven)
            .saturating_sub(proven);
        let allowance = if receive.is_proven() {
            let kept = unproven.max(self.size / UNPROVEN_RESERVE);
            let free = self.size.saturating_sub(kept).saturating_sub(proven);
            let long = (free / 16)
                .saturating_mul(LONG_PATH_SIXTEENTHS)
                .min(free.saturating_sub(self.size / LONG_PATH_RESERVE));
            (free / SHARE).max(path_need.min(long))
        } else {
            let part = (self.size / UNPROVEN_PART).saturating_sub(unproven);
            let free = part.min(self.size.saturating_sub(unproven).saturating_sub(proven));
            (free / SHARE).min(UNPROVEN_LOAN_MAX)
        };
        allowance.min(most)
    }

    /// Returns whether the sums equal the loans of `streams` and stay within the pool.
    pub(super) fn is_sum_of<'a>(&self, streams: impl Iterator<Item = &'a ReceiveHalf>) -> bool {
        let sum = streams
            .map(Loans::of)
            .fold(Loans::default(), |sum, loan| Loans {
                unproven: sum.unproven.saturating_add(loan.unproven),
                proven: sum.proven.saturating_add(loan.proven),
            });
        self.loans == sum && sum.unproven.saturating_add(sum.proven) <= self.size
    }
}

impl Loans {
    fn of(receive: &ReceiveHalf) -> Self {
        if receive.is_proven() {
            Loans {
                unproven: 0,
                proven: receive.loan(),
            }
        } else {
            Loans {
                unproven: receive.loan(),
                proven: 0,
            }
        }
    }
}
