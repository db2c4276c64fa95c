//! The results as `--json` prints them. The name of each field includes its unit.

use std::time::Duration;

use serde::Serialize;

/// The results of a measurement. Phases that did not run are `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct BenchResults {
    /// Bulk transfers.
    pub throughput: ThroughputResults,
    /// Echoes of 64 bytes.
    pub round_trip: RoundTripResults,
    /// New streams, each until its first echoed byte.
    pub new_connections: NewConnectionResults,
}

/// The results of the bulk transfers.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ThroughputResults {
    /// To the server, over one connection.
    pub up: Option<Throughput>,
    /// From the server, over one connection.
    pub down: Option<Throughput>,
    /// To the server, over several connections.
    pub up_parallel: Option<Throughput>,
    /// From the server, over several connections.
    pub down_parallel: Option<Throughput>,
}

/// The results of the echoes of 64 bytes, one at a time.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RoundTripResults {
    /// In an otherwise idle tunnel.
    pub idle: Option<RoundTripStats>,
    /// During one bulk transfer to the server.
    pub beside_up: Option<RoundTripStats>,
    /// During one bulk transfer from the server.
    pub beside_down: Option<RoundTripStats>,
}

/// The results for new streams, each until its first echoed byte.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct NewConnectionResults {
    /// One after the other.
    pub in_turn: Option<NewConnectionStats>,
    /// Several concurrently.
    pub at_once: Option<NewConnectionStats>,
}

/// A bulk transfer, without its warm-up.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Throughput {
    /// The number of connections.
    pub connections: usize,
    /// Uncompressed application bytes that arrived.
    pub bytes: u64,
    /// The duration in seconds.
    pub seconds: f64,
    /// `bytes` divided by `seconds`.
    pub bytes_per_second: f64,
    /// The bytes of the slowest connection divided by those of the fastest.
    pub least_to_most: f64,
}

/// A series of round trips.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RoundTripStats {
    /// The number of round trips.
    pub samples: usize,
    /// The median in microseconds.
    pub p50_us: f64,
    /// The 99th percentile in microseconds.
    pub p99_us: f64,
}

/// A series of new connections.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NewConnectionStats {
    /// The number of concurrent connections.
    pub at_once: usize,
    /// The number of all connections. None of them failed.
    pub connections: usize,
    /// The duration in seconds.
    pub seconds: f64,
    /// `connections` divided by `seconds`.
    pub per_second: f64,
    /// The median from opening to the first echoed byte, in microseconds.
    pub p50_us: f64,
    /// The 99th percentile in microseconds.
    pub p99_us: f64,
}

impl Throughput {
    /// Computes the result from the bytes that each connection moved in `time`.
    #[must_use]
    pub fn new(moved: &[u64], time: Duration) -> Self {
        let bytes = moved
            .iter()
            .fold(0, |sum: u64, &moved| sum.saturating_add(moved));
        let (least, most) = (
            moved.iter().min().copied().unwrap_or(0),
            moved.iter().max().copied().unwrap_or(0),
        );
        let seconds = time.as_secs_f64();
        Throughput {
            connections: moved.len(),
            bytes,
            seconds,
            bytes_per_second: ratio(bytes as f64, seconds),
            least_to_most: ratio(least as f64, most as f64),
        }
    }
}

impl RoundTripStats {
    /// Computes the percentiles of `times`.
    #[must_use]
    pub fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        RoundTripStats {
            samples: times.len(),
            p50_us: percentile_us(&times, 50),
            p99_us: percentile_us(&times, 99),
        }
    }
}

impl NewConnectionStats {
    /// Computes the result of `times`, of which `at_once` ran concurrently and which took `time` in
    /// all.
    #[must_use]
    pub fn new(at_once: usize, mut times: Vec<Duration>, time: Duration) -> Self {
        times.sort_unstable();
        let seconds = time.as_secs_f64();
        NewConnectionStats {
            at_once,
            connections: times.len(),
            seconds,
            per_second: ratio(times.len() as f64, seconds),
            p50_us: percentile_us(&times, 50),
            p99_us: percentile_us(&times, 99),
        }
    }
}

/// Returns the percentile by the nearest rank, or 0 without samples.
fn percentile_us(sorted: &[Duration], percent: usize) -> f64 {
    let rank = sorted.len().saturating_mul(percent).div_ceil(100).max(1);
    let time = sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default();
    (time.as_secs_f64() * 1e9).round() / 1e3
}

/// Divides, and returns 0 for a division by zero, because JSON has no infinity.
fn ratio(one: f64, other: f64) -> f64 {
    if other > 0.0 { one / other } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(times: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        times.into_iter().map(Duration::from_micros).collect()
    }

    #[test]
    fn percentiles_use_the_nearest_rank_of_unsorted_samples() {
        let hundred = RoundTripStats::new(micros((1..=100).rev()));
        assert_eq!(
            (hundred.samples, hundred.p50_us, hundred.p99_us),
            (100, 50.0, 99.0)
        );
        let thousand = RoundTripStats::new(micros((1..=1000).map(|number| number * 2 % 1001)));
        assert_eq!((thousand.p50_us, thousand.p99_us), (500.0, 990.0));
        let three = RoundTripStats::new(micros([3, 1, 2]));
        assert_eq!((three.p50_us, three.p99_us), (2.0, 3.0));
        let one = RoundTripStats::new(vec![Duration::from_nanos(1_234)]);
        assert_eq!((one.p50_us, one.p99_us), (1.234, 1.234));
    }

    #[test]
    fn empty_results_contain_only_json_numbers() {
        let nothing = (
            Throughput::new(&[], Duration::ZERO),
            RoundTripStats::new(Vec::new()),
            NewConnectionStats::new(1, Vec::new(), Duration::ZERO),
        );
        let text = serde_json::to_string(&nothing).unwrap();
        assert!(!text.contains("null"), "{text}");
        assert_eq!(nothing.0.bytes_per_second, 0.0);
    }

    #[test]
    fn throughput_sums_connections_and_reports_fairness() {
        let measured = Throughput::new(&[300, 100, 200], Duration::from_millis(500));
        assert_eq!(
            (
                measured.connections,
                measured.bytes,
                measured.bytes_per_second
            ),
            (3, 600, 1200.0)
        );
        assert!((measured.least_to_most - 1.0 / 3.0).abs() < 1e-12);
    }
}
