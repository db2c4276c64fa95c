//! The credit that the streams of a tunnel share: how much of it each stream may hold. Owns the sums and the shares; a stream owns its own limit.
//!
//! Credit that was granted cannot be taken back, and a stream whose application stops reading keeps all of its credit as held bytes. Therefore a
//! receiver treats credit as a loan:
//!
//! - Each stream has a *floor*, its first window, which is no loan. A stream can always move.
//! - Credit beyond the floor is a loan out of one pool, the largest tunnel window. The loans never exceed the pool, so that held bytes are at most
//!   the pool and the floors of all streams.
//! - A stream may hold a share of the credit that is still free (the dynamic threshold of Choudhury and Hahne, "Dynamic queue length thresholds for
//!   shared-memory packet switches", 1998). The share shrinks with each stream that stalls, and never reaches zero.
//! - A stream that has not yet shown that its application reads borrows from a part of the pool, so that any number of applications that never
//!   read leaves the rest to those that do.

use super::stream::ReceiveHalf;

/// The part of the pool that streams without proof share, and the part that proven streams leave to them in any case.
const UNPROVEN_PART: u64 = 4;
const UNPROVEN_RESERVE: u64 = 16;

/// The share of the free credit of its part that a stream may hold, as a divisor. Streams that stall one after the other leave 15/16 each.
const SHARE: u64 = 16;

/// A long path needs more than that for one stream: up to 9/16 of the free credit, as long as an eighth of the pool is left to the streams after it.
const LONG_PATH_SIXTEENTHS: u64 = 9;
const LONG_PATH_RESERVE: u64 = 8;

/// What a stream without proof borrows at most, in bytes: with its floor, 256 KiB.
pub const UNPROVEN_LOAN_MAX: u64 = 240 * 1024;

/// The loans of one class of streams, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Loans {
    unproven: u64,
    proven: u64,
}

/// The loans of all streams of a tunnel.
#[derive(Debug)]
pub struct CreditPool {
    size: u64,
    loans: Loans,
    /// What all loans may come to for the sake of the process's other tunnels.
    most: u64,
}

impl CreditPool {
    /// A pool of `size` bytes, all of them free.
    pub fn new(size: u64) -> Self {
        CreditPool {
            size,
            loans: Loans::default(),
            most: u64::MAX,
        }
    }

    /// The sum of all loans.
    pub fn lent(&self) -> u64 {
        self.loans.unproven.saturating_add(self.loans.proven)
    }

    /// From now on `room` more bytes may be lent.
    pub fn limit_to(&mut self, room: u64) {
        self.most = self.lent().saturating_add(room);
    }

    /// Changes the receiving half of a stream, and counts what became of its loan.
    pub fn track<Outcome>(
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

    /// How many bytes this stream may have borrowed in all. `path_need` is what one stream needs to fill a long path; 0 for a short one.
    pub fn allowance(&self, receive: &ReceiveHalf, path_need: u64) -> u64 {
        let own = Loans::of(receive);
        let unproven = self.loans.unproven.saturating_sub(own.unproven);
        let proven = self.loans.proven.saturating_sub(own.proven);
        let most = self.most.saturating_sub(unproven).saturating_sub(proven);
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

    /// Whether these are the loans of `streams`, and within the pool.
    pub fn is_sum_of<'a>(&self, streams: impl Iterator<Item = &'a ReceiveHalf>) -> bool {
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
