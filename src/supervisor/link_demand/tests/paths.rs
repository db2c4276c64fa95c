//! Models of paths.

use super::{CAPACITY, SEGMENT, TICK, Traffic};

/// A path that a transfer uses with a number of links. Returns what they move in one tick.
pub(super) trait Path {
    fn transfer(&mut self, links: usize, random: &mut fastrand::Rng) -> Traffic;
}

/// Moves `bytes`, and loses each segment with the probability `loss`.
pub(super) fn moved(bytes: f64, loss: f64, random: &mut fastrand::Rng) -> Traffic {
    let segments = (bytes / SEGMENT) as u64;
    Traffic {
        bytes: bytes as u64,
        segments,
        losses: (0..segments).filter(|_| random.f64() < loss).count() as u64,
        delayed: 0,
    }
}

/// A path with random loss. The congestion control reads a loss as congestion (Mathis et al., 1997).
pub(super) struct RandomLoss {
    loss: f64,
    rtt: f64,
    /// The links that have sped up. New ones need some ticks.
    ready: f64,
}

impl RandomLoss {
    pub(super) fn new(loss: f64, rtt: f64) -> Self {
        RandomLoss {
            loss,
            rtt,
            ready: 1.0,
        }
    }
}

impl Path for RandomLoss {
    fn transfer(&mut self, links: usize, random: &mut fastrand::Rng) -> Traffic {
        self.ready += (links as f64 - self.ready) / 2.0;
        let noise = 0.7 + 0.6 * random.f64();
        let one = 1.22 * SEGMENT / (self.rtt * self.loss.sqrt()) * noise;
        let rate = (one * self.ready).min(CAPACITY);
        moved(rate / 2.0, self.loss, random)
    }
}

/// A full path whose drop-tail queue overflows every five seconds. A burst and its retransmissions
/// take 400 ms, at any time relative to the ticks.
pub(super) struct FullQueue {
    pub(super) now: f64,
    pub(super) next_burst: f64,
    /// The segments of each burst.
    pub(super) burst: f64,
}

impl FullQueue {
    const BURST: f64 = 0.4;
}

impl Path for FullQueue {
    fn transfer(&mut self, _: usize, random: &mut fastrand::Rng) -> Traffic {
        let (start, end) = (self.now, self.now + TICK.as_secs_f64());
        self.now = end;
        let mut traffic = moved(CAPACITY / 2.0, 0.0, random);
        let burst_end = self.next_burst + FullQueue::BURST;
        let inside = (end.min(burst_end) - start.max(self.next_burst)).max(0.0);
        traffic.losses = (self.burst * inside / FullQueue::BURST).ceil() as u64;
        if burst_end <= end {
            self.next_burst += 5.0;
        }
        traffic
    }
}

/// A path that carries the same rate over any number of links: a policer, or a bottleneck that drops
/// what exceeds it.
pub(super) struct ConstantRate {
    pub(super) rate: f64,
    pub(super) loss: f64,
}

impl Path for ConstantRate {
    fn transfer(&mut self, _: usize, random: &mut fastrand::Rng) -> Traffic {
        let noise = 0.95 + 0.1 * random.f64();
        moved(self.rate * noise / 2.0, self.loss, random)
    }
}

/// A path whose one link reaches 68 Mbit/s, and several 94: BBR at 1 % loss.
pub(super) struct Bbr;

impl Path for Bbr {
    fn transfer(&mut self, links: usize, random: &mut fastrand::Rng) -> Traffic {
        let rate = if links == 1 { 0.68 } else { 0.94 } * CAPACITY;
        moved(rate * (0.97 + 0.06 * random.f64()) / 2.0, 0.01, random)
    }
}
