//! Leaving data alone that does not shrink: compressed, encrypted, random.
//!
//! ```text
//!            FAILURES chunks in a row that did not shrink
//! measuring ─────────────────────────────────────────────► skipping (64 KiB, then 128, … up to 4 MiB)
//!     ▲ ◄──────────────────── that many bytes have passed ─────┘
//!     └─ a chunk that shrinks: as at the beginning; one that does not: skip twice as many
//! ```

/// Chunks in a row that may fail to shrink before the first pause.
const FAILURES: u8 = 3;

/// Bytes of the first pause: one chunk's worth, so that a mistake costs little.
const FIRST_SKIP: u32 = 64 * 1024;

/// Bytes of the longest pause: trying 64 KiB of 4 MiB costs under 2% of compressing everything.
const LONGEST_SKIP: u32 = 4 * 1024 * 1024;

/// What a chunk must at least lose to count as shrunk: a sixteenth, below which the receiver's work is not worth it.
const WORTH_SHIFT: u32 = 4;

/// The state for one direction of a stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backoff {
    failures: u8,
    /// Bytes that are still to pass before the next attempt.
    skipping: u32,
    /// Bytes of the next pause.
    next: u32,
}

impl Backoff {
    pub(super) const fn new() -> Self {
        Backoff {
            failures: 0,
            skipping: 0,
            next: FIRST_SKIP,
        }
    }

    /// Whether to try to compress the next `length` bytes; if not, they are counted as passed.
    pub(super) fn attempt(&mut self, length: usize) -> bool {
        if self.skipping == 0 {
            return true;
        }
        self.skipping = self
            .skipping
            .saturating_sub(u32::try_from(length).unwrap_or(u32::MAX));
        false
    }

    /// Takes note of an attempt that made `body` bytes of `raw`; says whether that was worth it.
    pub(super) fn record(&mut self, raw: usize, body: usize) -> bool {
        let worth = is_worth(raw, body);
        if worth {
            *self = Backoff::new();
        } else {
            self.failures = self.failures.saturating_add(1);
            if self.failures >= FAILURES {
                self.skipping = self.next;
                self.next = self.next.saturating_mul(2).min(LONGEST_SKIP);
            }
        }
        worth
    }

    /// Whether the latest attempt was worth it, or there was none.
    pub(super) const fn is_hopeful(&self) -> bool {
        self.failures == 0
    }

    /// Whether data has not shrunk for so long that nothing large should be held for it.
    pub(super) const fn is_hopeless(&self) -> bool {
        self.next >= LONGEST_SKIP / 4
    }
}

/// Whether `body` bytes instead of `raw` are worth the receiver's work.
fn is_worth(raw: usize, body: usize) -> bool {
    body.saturating_add((raw >> WORTH_SHIFT).max(1)) <= raw
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_that_shrinks_is_always_tried() {
        let mut backoff = Backoff::new();
        for _ in 0..1000 {
            assert!(backoff.attempt(16_384));
            assert!(backoff.record(16_384, 8_192));
        }
    }

    #[test]
    fn data_that_does_not_shrink_is_tried_ever_less_often() {
        let mut backoff = Backoff::new();
        let chunk = 65_536;
        let mut attempts = Vec::new();
        for index in 0_usize..2_000 {
            if backoff.attempt(chunk) {
                attempts.push(index);
                assert!(!backoff.record(chunk, chunk));
            }
        }
        assert_eq!(attempts[..6], [0, 1, 2, 4, 7, 12]);
        let gaps: Vec<usize> = attempts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(gaps.last(), Some(&65), "4 MiB are skipped at most");
        assert!(backoff.is_hopeless());
    }

    #[test]
    fn data_that_shrinks_again_is_tried_as_at_the_beginning() {
        let mut backoff = Backoff::new();
        for _ in 0..500 {
            if backoff.attempt(65_536) {
                backoff.record(65_536, 65_536);
            }
        }
        while !backoff.attempt(65_536) {}
        assert!(backoff.record(65_536, 1_000));
        assert!(!backoff.is_hopeless());
        assert!(backoff.attempt(1));
    }

    #[test]
    fn a_sixteenth_is_what_a_chunk_must_lose() {
        assert!(is_worth(1600, 1500));
        assert!(!is_worth(1600, 1501));
        assert!(!is_worth(1, 1), "nothing is lost");
    }
}
