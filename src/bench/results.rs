//! What was measured, as it is printed: each field's name says its unit.

use std::time::Duration;

use serde::Serialize;

/// All of it; what is `None` was not reached.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Measured {
    /// Bulk transfers.
    pub throughput: ThroughputAll,
    /// Echoes of 64 bytes.
    pub round_trip: RoundTripAll,
    /// Streams, each with its first echoed byte.
    pub new_connections: NewConnectionsAll,
}

/// Bulk transfers.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ThroughputAll {
    /// To the server, over one connection.
    pub up: Option<Throughput>,
    /// From the server.
    pub down: Option<Throughput>,
    /// To the server, over several.
    pub up_parallel: Option<Throughput>,
    /// From the server, over several.
    pub down_parallel: Option<Throughput>,
}

/// Echoes of 64 bytes, one at a time.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RoundTripAll {
    /// While nothing else goes through the tunnel.
    pub idle: Option<RoundTrip>,
    /// Beside one bulk transfer to the server.
    pub beside_up: Option<RoundTrip>,
    /// Beside one bulk transfer from the server.
    pub beside_down: Option<RoundTrip>,
}

/// New streams, each with its first echoed byte.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct NewConnectionsAll {
    /// One after the other.
    pub in_turn: Option<NewConnections>,
    /// Several at a time.
    pub at_once: Option<NewConnections>,
}

/// A bulk transfer, after a time to warm up that is not counted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Throughput {
    /// Over so many connections.
    pub connections: usize,
    /// Bytes of the application that arrived, before compression.
    pub bytes: u64,
    /// In this time.
    pub seconds: f64,
    /// The one divided by the other.
    pub bytes_per_second: f64,
    /// The slowest connection's share of the fastest one's bytes.
    pub least_to_most: f64,
}

/// Round trips.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RoundTrip {
    /// How many.
    pub samples: usize,
    /// The median, in microseconds.
    pub p50_us: f64,
    /// Of 100 one took longer.
    pub p99_us: f64,
}

/// New connections.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NewConnections {
    /// So many at a time.
    pub at_once: usize,
    /// How many in all; none failed.
    pub connections: usize,
    /// In this time.
    pub seconds: f64,
    /// The one divided by the other.
    pub per_second: f64,
    /// From opening to the first echoed byte: the median, in microseconds.
    pub p50_us: f64,
    /// Of 100 one took longer.
    pub p99_us: f64,
}

impl Throughput {
    /// From what each connection moved in `time`.
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

impl RoundTrip {
    /// From the times of all.
    #[must_use]
    pub fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        RoundTrip {
            samples: times.len(),
            p50_us: percentile_us(&times, 50),
            p99_us: percentile_us(&times, 99),
        }
    }
}

impl NewConnections {
    /// From the times of all, `at_once` of which ran at a time, and which took `time` together.
    #[must_use]
    pub fn new(at_once: usize, mut times: Vec<Duration>, time: Duration) -> Self {
        times.sort_unstable();
        let seconds = time.as_secs_f64();
        NewConnections {
            at_once,
            connections: times.len(),
            seconds,
            per_second: ratio(times.len() as f64, seconds),
            p50_us: percentile_us(&times, 50),
            p99_us: percentile_us(&times, 99),
        }
    }
}

/// What of 100 `percent` do not exceed, by the nearest rank; 0 when there is nothing.
fn percentile_us(sorted: &[Duration], percent: usize) -> f64 {
    let rank = sorted.len().saturating_mul(percent).div_ceil(100).max(1);
    let time = sorted
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default();
    (time.as_secs_f64() * 1e9).round() / 1e3
}

/// JSON has no infinity.
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
    fn percentiles_are_those_of_the_nearest_rank_whatever_the_order() {
        let hundred = RoundTrip::new(micros((1..=100).rev()));
        assert_eq!(
            (hundred.samples, hundred.p50_us, hundred.p99_us),
            (100, 50.0, 99.0)
        );
        let thousand = RoundTrip::new(micros((1..=1000).map(|number| number * 2 % 1001)));
        assert_eq!((thousand.p50_us, thousand.p99_us), (500.0, 990.0));
        let three = RoundTrip::new(micros([3, 1, 2]));
        assert_eq!((three.p50_us, three.p99_us), (2.0, 3.0));
        let one = RoundTrip::new(vec![Duration::from_nanos(1_234)]);
        assert_eq!((one.p50_us, one.p99_us), (1.234, 1.234));
    }

    #[test]
    fn nothing_measured_is_no_number_that_json_lacks() {
        let nothing = (
            Throughput::new(&[], Duration::ZERO),
            RoundTrip::new(Vec::new()),
            NewConnections::new(1, Vec::new(), Duration::ZERO),
        );
        let text = serde_json::to_string(&nothing).unwrap();
        assert!(!text.contains("null"), "{text}");
        assert_eq!(nothing.0.bytes_per_second, 0.0);
    }

    #[test]
    fn a_throughput_is_the_sum_and_says_how_even_it_was() {
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
