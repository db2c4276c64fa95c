//! The lost segments of a simulated TCP connection. TCP delivers in order, so that a lost segment
//! stalls everything behind it until it is repeated. The sending rate is not affected, as with BBR.

use std::time::Duration;

use fastrand::Rng;

/// The payload of a segment, in bytes.
const SEGMENT: usize = 1448;

/// The time by which the timeout of TCP exceeds a round trip: its minimum in Linux.
const TIMEOUT: Duration = Duration::from_millis(200);

/// Draws losses from a seed.
#[derive(Debug)]
pub(super) struct TcpLosses {
    rng: Rng,
    /// The share of segments that are lost.
    ratio: f64,
}

impl TcpLosses {
    /// Loses nothing.
    pub(super) fn none() -> Self {
        TcpLosses::new(0, 0.0)
    }

    pub(super) fn new(seed: u64, ratio: f64) -> Self {
        TcpLosses {
            rng: Rng::with_seed(seed),
            ratio,
        }
    }

    /// Draws the losses of a message of `length` bytes. Returns the bytes that are sent again, and
    /// how much later the message is complete. A segment is repeated after a round trip, because
    /// later segments show its loss, and again after a timeout.
    pub(super) fn draw(&mut self, length: usize, round_trip: Duration) -> (usize, Duration) {
        let (mut repeated, mut stall) = (0, Duration::ZERO);
        if self.ratio > 0.0 {
            for _ in 0..length.div_ceil(SEGMENT) {
                let mut late = Duration::ZERO;
                while self.rng.f64() < self.ratio {
                    let timeout = if late.is_zero() {
                        Duration::ZERO
                    } else {
                        TIMEOUT
                    };
                    late += round_trip + timeout;
                    repeated += SEGMENT;
                }
                stall = stall.max(late);
            }
        }
        (repeated, stall)
    }
}
