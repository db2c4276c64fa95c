//! The latest samples of one direction, and what they show: whether losses limit its transfer, and
//! its rates.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{Traffic, has_passed};

/// The samples of a direction's transfer that are evidence: three seconds. An older loss has another cause
/// than the present rate. A trial begins after a full window: the first samples of a transfer can
/// contain its slow start, and a trial that is compared with them fails and blocks the next one.
const WINDOW: usize = 6;

/// The longest time that a full window covers. A longer one is made of two transfers.
const MAX_WINDOW: Duration = Duration::from_secs(6);

/// A transfer continues while a busy sample is at most this old. A link that waits for a retransmission
/// moves next to nothing, for up to some seconds on a bad path: that is when it needs others most.
const MAX_STALL: Duration = Duration::from_secs(3);

/// The minimum time between the first and the last sample with losses. A drop-tail queue that
/// overflows loses a burst. The burst and its retransmissions take one to two round trips, which can
/// reach into two adjacent samples, and hardly into a third one.
const MIN_LOSS_SPAN: Duration = Duration::from_secs(1);

/// The minimum ratio of lost segments. Below it, one connection of a common round-trip time of 50 ms
/// reaches more than 6 Mbit/s, and a full queue of 30 segments loses as much.
pub(super) const MIN_LOSS_RATIO: f64 = 0.002;

/// The minimum ratio of segments that waited behind a loss, on a path without a queue. A burst loses
/// few segments and still stops a connection for a round trip. Congestion is not the cause there, so
/// one burst in fifty round trips matters.
const MIN_DELAYED_RATIO: f64 = 0.02;

/// The samples that a trial is judged by, the latest ones. Earlier samples contain the start of the
/// new links.
const JUDGED_SAMPLES: usize = 4;

/// The samples that show the rate before a trial.
const LIMITED_SAMPLES: usize = 3;

/// The longest sample that is evidence. A longer one mixes a rest with a transfer.
const MAX_SAMPLE: Duration = Duration::from_secs(1);

/// The latest samples of one direction's transfer at the present number of links.
#[derive(Debug, Default)]
pub(super) struct Direction {
    samples: VecDeque<TransferSample>,
    /// The latest sample that moved enough.
    busy_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct TransferSample {
    at: Instant,
    length: Duration,
    traffic: Traffic,
}

impl Direction {
    /// Forgets the samples, because the number of links changed.
    pub(super) fn clear(&mut self) {
        self.samples.clear();
    }

    pub(super) fn record(&mut self, now: Instant, length: Duration, traffic: &Traffic) {
        if length > MAX_SAMPLE {
            return;
        }
        if traffic.is_busy() {
            self.busy_at = Some(now);
        }
        // Losses in a transfer can stop it for whole samples, which belong to it.
        let is_transfer = self
            .busy_at
            .is_some_and(|busy| now.saturating_duration_since(busy) <= MAX_STALL);
        if !is_transfer || !(traffic.is_busy() || traffic.losses > 0) {
            return;
        }
        self.samples.truncate(WINDOW - 1);
        self.samples.push_front(TransferSample {
            at: now,
            length,
            traffic: *traffic,
        });
    }

    /// Returns whether a transfer runs now and losses limit it.
    pub(super) fn is_lossy(&self, now: Instant) -> bool {
        let is_running = self.samples.front().is_some_and(|sample| sample.at == now);
        let mut with_losses = self.with_losses();
        let (last, first) = (with_losses.next(), with_losses.next_back());
        let (Some(last), Some(first)) = (last, first) else {
            return false;
        };
        is_running
            && has_passed(MIN_LOSS_SPAN, first.at, last.at)
            && (self.loss_ratio() >= MIN_LOSS_RATIO
                || self.ratio(|traffic| traffic.delayed) >= MIN_DELAYED_RATIO)
    }

    /// Returns whether the samples are a whole window of one transfer.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        let oldest = self.samples.get(WINDOW - 1);
        oldest.is_some_and(|oldest| now.saturating_duration_since(oldest.at) <= MAX_WINDOW)
    }

    fn with_losses(&self) -> impl DoubleEndedIterator<Item = &TransferSample> {
        self.samples
            .iter()
            .filter(|sample| sample.traffic.losses > 0)
    }

    pub(super) fn loss_ratio(&self) -> f64 {
        self.ratio(|traffic| traffic.losses)
    }

    /// Returns the ratio of some segments to all.
    fn ratio(&self, count: impl Fn(&Traffic) -> u64) -> f64 {
        let (some, all) = self.samples.iter().fold((0, 0), |(some, all), sample| {
            (some + count(&sample.traffic), all + sample.traffic.segments)
        });
        some as f64 / all.max(1) as f64
    }

    /// Returns the rate of all samples, in bytes per second.
    pub(super) fn rate(&self) -> f64 {
        rate_of(self.samples.iter())
    }

    /// Returns the rate that losses limit: that of the latest samples. Earlier ones may contain the
    /// start of the transfer: it is slow at first, and faster than what follows its first losses.
    pub(super) fn limited_rate(&self) -> f64 {
        rate_of(self.samples.iter().take(LIMITED_SAMPLES))
    }

    /// Returns the rate that a trial is judged by, once there are enough samples.
    pub(super) fn judged_rate(&self) -> Option<f64> {
        let latest = self.samples.iter().take(JUDGED_SAMPLES);
        (latest.len() == JUDGED_SAMPLES).then(|| rate_of(latest))
    }
}

fn rate_of<'s>(samples: impl Iterator<Item = &'s TransferSample>) -> f64 {
    let (bytes, length) = samples.fold((0, Duration::ZERO), |(bytes, length), sample| {
        (bytes + sample.traffic.bytes, length + sample.length)
    });
    if length.is_zero() {
        0.0
    } else {
        bytes as f64 / length.as_secs_f64()
    }
}
