//! Skips compression of data that does not shrink: compressed, encrypted or random data.
//!
//! ```text
//!            MAX_FAILURES consecutive chunks that did not shrink
//! measuring ─────────────────────────────────────────────► skipping (64 KiB, 128 KiB, … up to 4 MiB)
//!     ▲ ◄──────────────────── that many bytes have passed ─────┘
//!     └─ the next chunk shrinks: reset; it does not shrink: skip twice as many bytes
//! ```

/// The consecutive chunks that may fail to shrink before the first skip.
const MAX_FAILURES: u8 = 3;

/// The length of the first skip in bytes: one chunk, so that a wrong decision costs little.
const FIRST_SKIP: u32 = 64 * 1024;

/// The length of the longest skip in bytes.
///
/// Trying 64 KiB in every 4 MiB costs less than 2% of compressing everything.
const LONGEST_SKIP: u32 = 4 * 1024 * 1024;

/// The minimum saving of a chunk, as a right shift of its length: one sixteenth.
///
/// A smaller saving does not justify the receiver's work.
const MIN_SAVING_SHIFT: u32 = 4;

/// Decides for one direction of a stream whether compression is worth an attempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct CompressionBackoff {
    /// Consecutive attempts that did not shrink.
    failures: u8,
    /// The bytes left to skip before the next attempt.
    skipping: u32,
    /// The length of the next skip in bytes.
    next: u32,
}

impl CompressionBackoff {
    pub(super) const fn new() -> Self {
        CompressionBackoff {
            failures: 0,
            skipping: 0,
            next: FIRST_SKIP,
        }
    }

    /// Returns whether to compress the next `length` bytes. If not, counts them as skipped.
    pub(super) fn should_attempt(&mut self, length: usize) -> bool {
        if self.skipping == 0 {
            return true;
        }
        self.skipping = self
            .skipping
            .saturating_sub(u32::try_from(length).unwrap_or(u32::MAX));
        false
    }

    /// Records an attempt that turned `raw` bytes into `body` bytes. Returns whether it was
    /// worthwhile.
    pub(super) fn record(&mut self, raw: usize, body: usize) -> bool {
        let worthwhile = is_worthwhile(raw, body);
        if worthwhile {
            *self = CompressionBackoff::new();
        } else {
            self.failures = self.failures.saturating_add(1);
            if self.failures >= MAX_FAILURES {
                self.skipping = self.next;
                self.next = self.next.saturating_mul(2).min(LONGEST_SKIP);
            }
        }
        worthwhile
    }

    /// Returns whether the last attempt was worthwhile, or no attempt was made.
    pub(super) const fn last_attempt_paid_off(&self) -> bool {
        self.failures == 0
    }

    /// Returns whether data has not shrunk for a long time, so that the stream should free its
    /// context.
    pub(super) const fn is_incompressible(&self) -> bool {
        self.next >= LONGEST_SKIP / 4
    }
}

/// Returns whether sending `body` bytes instead of `raw` justifies the receiver's work.
fn is_worthwhile(raw: usize, body: usize) -> bool {
    body.saturating_add((raw >> MIN_SAVING_SHIFT).max(1)) <= raw
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressible_data_is_always_attempted() {
        let mut backoff = CompressionBackoff::new();
        for _ in 0..1000 {
            assert!(backoff.should_attempt(16_384));
            assert!(backoff.record(16_384, 8_192));
        }
    }

    #[test]
    fn incompressible_data_is_attempted_less_and_less_often() {
        let mut backoff = CompressionBackoff::new();
        let chunk = 65_536;
        let mut attempts = Vec::new();
        for index in 0_usize..2_000 {
            if backoff.should_attempt(chunk) {
                attempts.push(index);
                assert!(!backoff.record(chunk, chunk));
            }
        }
        assert_eq!(attempts[..6], [0, 1, 2, 4, 7, 12]);
        let gaps: Vec<usize> = attempts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(gaps.last(), Some(&65), "a skip is at most 4 MiB");
        assert!(backoff.is_incompressible());
    }

    #[test]
    fn successful_attempt_resets_backoff() {
        let mut backoff = CompressionBackoff::new();
        for _ in 0..500 {
            if backoff.should_attempt(65_536) {
                backoff.record(65_536, 65_536);
            }
        }
        while !backoff.should_attempt(65_536) {}
        assert!(backoff.record(65_536, 1_000));
        assert!(!backoff.is_incompressible());
        assert!(backoff.should_attempt(1));
    }

    #[test]
    fn chunk_must_shrink_by_one_sixteenth() {
        assert!(is_worthwhile(1600, 1500));
        assert!(!is_worthwhile(1600, 1501));
        assert!(!is_worthwhile(1, 1), "no saving");
    }
}
