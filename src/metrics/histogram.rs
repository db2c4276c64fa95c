//! A histogram of durations, in atomics.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// The upper bounds of the buckets, in milliseconds: from a change of links on a fast path to the
/// default of `resume_timeout`. One more bucket has no bound.
const BOUNDS_MS: [u64; 13] = [
    5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 120_000,
];

/// Counts durations in buckets.
#[derive(Debug, Default)]
pub struct DurationHistogram {
    buckets: [AtomicU64; BOUNDS_MS.len()],
    /// The durations above the last bound.
    above: AtomicU64,
    sum_micros: AtomicU64,
}

/// The counts of a [`DurationHistogram`] at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramCounts {
    /// The sum of all durations.
    pub sum_seconds: f64,
    /// The upper bound of each bucket in seconds, and its count. The last bound is [`f64::MAX`].
    pub buckets: Vec<(f64, u64)>,
}

impl DurationHistogram {
    /// Counts a duration.
    pub fn record(&self, duration: Duration) {
        let bound = |bound: &u64| duration <= Duration::from_millis(*bound);
        let bucket = BOUNDS_MS
            .iter()
            .position(bound)
            .and_then(|index| self.buckets.get(index))
            .unwrap_or(&self.above);
        bucket.fetch_add(1, Relaxed);
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.sum_micros.fetch_add(micros, Relaxed);
    }

    /// Returns the present counts.
    #[must_use]
    pub fn counts(&self) -> HistogramCounts {
        let bounds = BOUNDS_MS
            .iter()
            .map(|bound| Duration::from_millis(*bound).as_secs_f64())
            .chain([f64::MAX]);
        let counts = self.buckets.iter().chain([&self.above]);
        HistogramCounts {
            sum_seconds: Duration::from_micros(self.sum_micros.load(Relaxed)).as_secs_f64(),
            buckets: bounds
                .zip(counts.map(|count| count.load(Relaxed)))
                .collect(),
        }
    }
}

impl HistogramCounts {
    /// Returns the number of durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_in_the_first_bucket_that_holds_them() {
        let histogram = DurationHistogram::default();
        for millis in [0, 5, 6, 120_000, 120_001, 500_000] {
            histogram.record(Duration::from_millis(millis));
        }
        let counts = histogram.counts();
        let used: Vec<_> = counts
            .buckets
            .iter()
            .filter(|(_, count)| *count > 0)
            .copied()
            .collect();
        assert_eq!(
            used,
            [(0.005, 2), (0.01, 1), (120.0, 1), (f64::MAX, 2)],
            "{counts:?}"
        );
        assert_eq!(counts.count(), 6);
        assert!((counts.sum_seconds - 740.012).abs() < 1e-6, "{counts:?}");
    }
}
