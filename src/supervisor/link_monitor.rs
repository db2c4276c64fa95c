//! Watches the links of a role, and reports how many it wants. Samples what the TCP connections of
//! the links moved and lost. [`LinkDemand`] decides.
//!
//! A busy role is sampled twice a second. A query takes 15 to 40 microseconds for each link, and does
//! not wait (`net::tcp_stats`). An idle role costs no query: every five seconds the monitor compares
//! the counters of the outboxes, which are a few loads. A link that begins to move data wakes it.

#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::info;

use super::link_demand::{BUSY_BYTES, DemandChange, LinkDemand, Sample, Traffic};
use crate::{
    net::tcp_stats::{TcpStats, TcpStatsReader},
    tcp_table::TcpConnection,
};

/// The time between two samples of a busy role. On most paths it is longer than two round trips, so
/// a sample shows what losses did to the rate.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(500);

/// The samples without a transfer after which the interval grows, and links that move nothing are not
/// read. Short pauses are part of many transfers.
const QUIET_SAMPLES: u32 = 4;

/// The longest time between two samples. It bounds the cost of thousands of idle roles in a process.
const IDLE_INTERVAL: Duration = Duration::from_secs(5);

/// An idle wait is shorter by up to this part, so that many roles do not wake up together.
const JITTER: f64 = 0.1;

/// A path has a queue while the round-trip time is this many times the shortest one.
const QUEUE_RTT: f64 = 1.25;

/// The statistics of one link's connection.
type LinkReading = (TcpConnection, TcpStats);

/// Watches the links of a role until it is dropped, and calls `wanted` with each new number of
/// links that `demand` decides on. A role starts with the minimum.
///
/// `moved` returns how many bytes the present links have sent and received. While a role rests, the
/// kernel is not asked until this number has changed enough. `busy` ends a rest: it returns once a
/// link has moved `BUSY_BYTES` more.
///
/// `connections` returns the TCP connections of the links that are established now
/// (`MessageSocket::connection`). Both are called at a sample and should not block. Links may come
/// and go in between. A link without a known connection is not counted.
///
/// Returns at once if the system has no statistics, or if `demand` allows only one number. The role
/// then stays with the minimum.
///
/// # Cancel safety
/// Dropping the future ends the watch.
pub async fn monitor_links<B: Future<Output = ()>>(
    demand: LinkDemand,
    moved: impl FnMut() -> u64,
    busy: impl FnMut() -> B,
    mut connections: impl FnMut() -> Vec<TcpConnection>,
    wanted: impl FnMut(usize),
) {
    if !demand.is_fixed() && TcpStatsReader::open().is_some() {
        monitor(demand, moved, busy, || read_all(&connections()), wanted).await;
    }
}

/// Watches the links whose statistics `read` returns.
async fn monitor<B: Future<Output = ()>>(
    demand: LinkDemand,
    mut moved: impl FnMut() -> u64,
    mut busy: impl FnMut() -> B,
    mut read: impl FnMut() -> Vec<LinkReading>,
    mut wanted: impl FnMut(usize),
) {
    let mut monitor = LinkMonitor::new(demand);
    loop {
        if monitor.is_resting() {
            // A timeout is the end of the wait, too.
            let _ = timeout(monitor.wait(), busy()).await;
        } else {
            sleep(monitor.wait()).await;
        }
        // Without readings, the next ones are compared with none: they may be hours apart.
        let readings = if monitor.must_read(moved()) {
            read()
        } else {
            Vec::new()
        };
        if let Some(change) = monitor.on_readings(Instant::now(), readings) {
            let n = monitor.demand.wanted();
            log(n, &change);
            wanted(n);
        }
    }
}

fn log(n: usize, change: &DemandChange) {
    let DemandChange { reason, loss, rate } = change;
    let tenths = |value: f64| (value * 10.0).round() / 10.0;
    info!(
        n,
        loss_percent = tenths(loss * 100.0),
        mbit_per_s = tenths(rate * 8.0 / 1e6),
        "links wanted: {reason}"
    );
}

/// Reads the statistics of all connections that have some. The reader is opened anew each time, so
/// an idle role keeps no descriptor.
fn read_all(connections: &[TcpConnection]) -> Vec<LinkReading> {
    if connections.is_empty() {
        return Vec::new();
    }
    let Some(mut reader) = TcpStatsReader::open() else {
        return Vec::new();
    };
    let mut reading = |connection: &TcpConnection| Some((*connection, reader.read(connection)?));
    connections.iter().filter_map(&mut reading).collect()
}

/// Turns readings into samples, and sets their pace.
struct LinkMonitor {
    demand: LinkDemand,
    previous: Vec<LinkReading>,
    read_at: Option<Instant>,
    /// The bytes that the links had moved at the previous sample.
    moved: u64,
    /// The samples without a transfer in a row.
    quiet: u32,
    interval: Duration,
}

impl LinkMonitor {
    fn new(demand: LinkDemand) -> Self {
        LinkMonitor {
            demand,
            previous: Vec::new(),
            read_at: None,
            moved: 0,
            quiet: 0,
            interval: SAMPLE_INTERVAL,
        }
    }

    /// Returns the time until the next sample.
    fn wait(&self) -> Duration {
        if self.interval > SAMPLE_INTERVAL {
            self.interval.mul_f64(1.0 - JITTER * fastrand::f64())
        } else {
            self.interval
        }
    }

    /// Returns whether the role moved nothing lately, so that its links are not read.
    fn is_resting(&self) -> bool {
        self.quiet > QUIET_SAMPLES
    }

    /// Returns whether the links have to be read, which have moved `moved` bytes so far. A role at
    /// rest is read once they have moved enough to matter.
    fn must_read(&mut self, moved: u64) -> bool {
        // The sum falls when a link ends. That costs one reading.
        let is_moving = moved.abs_diff(std::mem::replace(&mut self.moved, moved)) >= BUSY_BYTES;
        if !self.is_resting() {
            return true;
        }
        if is_moving {
            // The second reading gives the first sample. If that is quiet, the role rests again.
            (self.quiet, self.interval) = (QUIET_SAMPLES - 1, SAMPLE_INTERVAL);
        }
        is_moving
    }

    /// Compares the readings with the previous ones. Returns a change of the wanted number.
    fn on_readings(&mut self, now: Instant, current: Vec<LinkReading>) -> Option<DemandChange> {
        let length = self
            .read_at
            .replace(now)
            .map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let mut sample = Sample {
            links: current.len(),
            ..Sample::default()
        };
        for (connection, stats) in &current {
            // A new link counts from its second reading: it may be older than the sample.
            let previous = self.previous.iter().find(|(other, _)| other == connection);
            if let Some((_, before)) = previous {
                add_link(&mut sample, before, stats, length);
            }
        }
        self.previous = current;
        self.set_pace(sample.is_busy());
        let before = self.demand.wanted();
        let wanted = self.demand.on_sample(now, &sample);
        self.demand
            .last_change()
            .filter(|_| wanted != before)
            .copied()
    }

    fn set_pace(&mut self, is_busy: bool) {
        if is_busy {
            (self.quiet, self.interval) = (0, SAMPLE_INTERVAL);
            return;
        }
        self.quiet = self.quiet.saturating_add(1);
        if self.is_resting() {
            self.interval = (self.interval * 2).min(IDLE_INTERVAL);
        }
    }
}

/// Adds what one link moved between two readings, which are `length` apart.
fn add_link(sample: &mut Sample, before: &TcpStats, now: &TcpStats, length: Duration) {
    let (Some(received), Some(acknowledged)) = (
        now.received_bytes.checked_sub(before.received_bytes),
        now.acknowledged_bytes
            .checked_sub(before.acknowledged_bytes),
    ) else {
        // Another connection with the same addresses.
        return;
    };
    let since = |count: fn(&TcpStats) -> u32| u64::from(count(now).wrapping_sub(count(before)));
    let segments = since(|stats| stats.received_segments);
    let out_of_order = since(|stats| stats.out_of_order_segments);
    let has_queue = now.rtt > now.min_rtt.mul_f64(QUEUE_RTT);
    add(
        &mut sample.received,
        Traffic {
            bytes: received,
            segments,
            losses: estimated_losses(out_of_order, segments, now.rtt, length),
            delayed: if has_queue { 0 } else { out_of_order },
        },
    );
    add(
        &mut sample.sent,
        Traffic {
            bytes: acknowledged,
            segments: since(|stats| stats.sent_segments),
            losses: since(|stats| stats.retransmitted_segments),
            delayed: 0,
        },
    );
}

fn add(sum: &mut Traffic, one: Traffic) {
    sum.bytes += one.bytes;
    sum.segments += one.segments;
    sum.losses += one.losses;
    sum.delayed += one.delayed;
}

/// Estimates the losses of received segments. A receiver does not see them, but only the segments
/// that arrive until the retransmission, which are those of a round trip. A segment arrives in order
/// if none of the `w` segments of the last round trip was lost. With the loss ratio `p`, the part in
/// order is therefore `(1 - p)^w`, which is about `exp(-p * w)`.
fn estimated_losses(out_of_order: u64, segments: u64, rtt: Duration, length: Duration) -> u64 {
    if out_of_order == 0 || segments == 0 || length.is_zero() {
        return 0;
    }
    let segments = segments as f64;
    let per_round_trip = (segments * rtt.as_secs_f64() / length.as_secs_f64()).max(1.0);
    // Half a segment, because the logarithm of none is infinite.
    let in_order = (segments - out_of_order as f64).max(0.5) / segments;
    let losses = (-in_order.ln() / per_round_trip * segments).round() as u64;
    losses.clamp(1, out_of_order)
}
