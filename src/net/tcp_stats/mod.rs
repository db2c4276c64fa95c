//! The kernel's statistics of one TCP connection: what it moved, and what it lost. Only Linux 5.4
//! and later have all of them. Elsewhere a reader cannot be opened, and its users do without.

#[cfg(target_os = "linux")]
#[path = "sock_diag.rs"]
mod reader;
#[cfg(not(target_os = "linux"))]
#[path = "unsupported.rs"]
mod reader;

use std::time::Duration;

pub use self::reader::TcpStatsReader;

/// The statistics of a TCP connection since it was established. Counters wrap around.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpStats {
    /// The received bytes, without duplicates.
    pub received_bytes: u64,
    /// The received segments with data.
    pub received_segments: u32,
    /// The received segments that arrived out of order. After a loss these are all segments until
    /// the retransmission arrives.
    pub out_of_order_segments: u32,
    /// The sent bytes that the peer has acknowledged.
    pub acknowledged_bytes: u64,
    /// The sent segments with data, including retransmissions.
    pub sent_segments: u32,
    /// The retransmitted segments.
    pub retransmitted_segments: u32,
    /// The written bytes that the kernel has not sent yet.
    pub not_sent_bytes: u32,
    /// The smoothed round-trip time. Zero before the first measurement.
    pub rtt: Duration,
    /// The shortest round-trip time of the last minutes. Zero before the first measurement.
    pub min_rtt: Duration,
    /// The most recent rate at which sent data was delivered, in bytes per second. If the
    /// application limits the rate: the highest one.
    pub delivery_rate: u64,
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
