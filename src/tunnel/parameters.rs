//! The parameters of a port, and the resources and counters that all tunnels of a process share.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::datagram_counters::DatagramCounters;
use crate::metrics::{DurationHistogram, RefusalCounts};
use report_proto::{
    compress::{CompressMethod, Pool},
    crypto::{EncryptMethod, PortKeys},
    mux::{self, MemoryBudget, TunnelSide, WindowSize},
};

/// Maximum number of streams that a client may have open in one tunnel. A host has fewer ports.
const STREAMS_MAX: usize = 65_536;

/// Running zstd contexts that one end grants its peer per tunnel, about 0.6 MiB each (PROTOCOL
/// 11.5).
pub(super) const ZSTD_CONTEXTS: usize = 8;

/// Running zstd contexts at which one end gives a stream up.
///
/// The sender frees a context when it sends the end of its stream. The receiver frees it only after
/// a slow application has read everything. Streams that end in between must not count as an excess.
/// The limit allows about 38 MiB per tunnel.
pub(super) const ZSTD_CONTEXTS_TOLERATED: usize = 8 * ZSTD_CONTEXTS;

/// The traffic that a port carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ServiceProtocol {
    /// Connections.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
    /// Connections and datagrams, at the same port number.
    Both,
    /// Connections and datagrams to destinations that the applications of a SOCKS5 proxy name.
    Socks5,
}

impl ServiceProtocol {
    /// All protocols.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Udp, Self::Both, Self::Socks5];

    /// Returns the name in configurations and offers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Both => "both",
            Self::Socks5 => "socks5",
        }
    }

    /// Returns whether the client accepts connections at the address of the port.
    #[must_use]
    pub fn has_tcp(self) -> bool {
        self != Self::Udp
    }

    /// Returns whether the client receives datagrams at the address of the port. A SOCKS5 proxy
    /// receives them at other ports.
    #[must_use]
    pub fn has_udp(self) -> bool {
        matches!(self, Self::Udp | Self::Both)
    }

    /// Returns whether tunnels of the port have datagram flows.
    #[must_use]
    pub fn has_flows(self) -> bool {
        self != Self::Tcp
    }
}

impl fmt::Display for ServiceProtocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The parameters of one port, equal at both ends.
#[derive(Debug, Clone)]
pub struct PortParameters {
    /// The port's name in logs.
    pub mark: Arc<str>,
    /// The keys derived from the port key.
    pub keys: PortKeys,
    /// How the payload is sealed.
    pub encrypt: EncryptMethod,
    /// How the streams are compressed.
    pub compress: CompressMethod,
    /// The traffic that the port carries.
    pub protocol: ServiceProtocol,
    /// How many addresses the port has, numbered from 0: more than 1 with a range of ports.
    pub range: u16,
    /// How long a datagram may wait before it is dropped.
    pub max_delay: Duration,
    /// The time after which a flow without datagrams ends; `None` disables the limit.
    pub udp_idle_timeout: Option<Duration>,
    /// Maximum number of flows of the port at this end.
    pub max_flows: usize,
    /// Credit for each stream.
    pub stream_window: WindowSize,
    /// Credit for all streams of a tunnel. Its maximum bounds the memory of a tunnel in each
    /// direction.
    pub tunnel_window: WindowSize,
    /// How long a tunnel waits for its next attachment before it ends.
    pub resume_timeout: Duration,
    /// Idle time after which local connections are probed; `None` disables the probes.
    pub tcp_keepalive: Option<Duration>,
    /// Counters of the port's connections.
    pub counters: Arc<PortCounters>,
    /// Resources that all tunnels of the process share.
    pub process_shared: ProcessShared,
}

/// Resources that all tunnels of a process share.
#[derive(Debug, Clone, Default)]
pub struct ProcessShared {
    /// Compression work spaces: one per thread that compresses, not one per stream.
    pub pool: Arc<Pool>,
    /// Memory budget for data that waits for slow applications and slow peers.
    pub budget: Arc<MemoryBudget>,
    /// Counters of lost, resumed, moved and expired tunnels.
    pub counters: Arc<TunnelCounters>,
    /// Counts what the process refuses, and what others refuse to it.
    pub refusals: Arc<RefusalCounts>,
}

impl PortParameters {
    /// Returns how many flows a server keeps for a client that has `max_flows`. It may learn of a new
    /// flow before it has ended the one that gave way.
    #[must_use]
    pub fn flows_with_ending(&self) -> usize {
        self.max_flows.saturating_add(self.max_flows / 8 + 16)
    }

    /// Returns the name of one address of the port in logs: `mark+offset` in a range of ports,
    /// otherwise the mark.
    #[must_use]
    pub fn numbered_mark(&self, offset: u16) -> String {
        if self.range > 1 {
            format!("{}+{offset}", self.mark)
        } else {
            self.mark.to_string()
        }
    }

    /// Whether a tunnel with these parameters is like one with `other`. The counters and the shared
    /// resources do not matter.
    #[must_use]
    pub fn is_same_as(&self, other: &PortParameters) -> bool {
        let differing = |port: &PortParameters| {
            (
                port.keys.id,
                port.encrypt,
                port.compress,
                port.protocol,
                port.range,
                port.max_delay,
                port.udp_idle_timeout,
                port.max_flows,
                (port.stream_window, port.tunnel_window),
                port.resume_timeout,
                port.tcp_keepalive,
            )
        };
        self.mark == other.mark && differing(self) == differing(other)
    }

    /// Returns the parameters of the multiplexer at this end.
    pub(super) fn mux(&self, side: TunnelSide) -> mux::Parameters {
        let (streams_max, flows_max) = match side {
            // A client accepts no streams and no flows: it has no service to serve them.
            TunnelSide::Client => (0, 0),
            TunnelSide::Server if self.protocol.has_flows() => {
                (STREAMS_MAX, self.flows_with_ending())
            }
            TunnelSide::Server => (STREAMS_MAX, 0),
        };
        mux::Parameters {
            stream_window: self.stream_window,
            tunnel_window: self.tunnel_window,
            streams_max,
            flows_max,
            max_delay: self.max_delay,
        }
    }
}

/// A monotonic counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    /// Returns the current value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The counters of the connections of one port. Each read or write of a socket adds once.
#[derive(Debug, Default)]
pub struct PortCounters {
    /// Bytes from local connections into tunnels, before compression.
    pub sent_bytes: Counter,
    /// Bytes from tunnels to local connections, after decompression.
    pub received_bytes: Counter,
    /// Streams that were opened, those of benchmarks included.
    pub opened_streams: Counter,
    /// The datagrams of the port, and its flows.
    pub datagrams: DatagramCounters,
}

/// The tunnel counters of a process.
#[derive(Debug, Default)]
pub struct TunnelCounters {
    /// Attachments that ended while their tunnel was alive.
    pub lost: Counter,
    /// Tunnels that were resumed after a loss.
    pub resumed: Counter,
    /// How long the resumed tunnels had no attachment.
    pub pauses: DurationHistogram,
    /// Bytes that were retransmitted after a resumption.
    pub resent_bytes: Counter,
    /// Tunnels that moved to another attachment without a loss.
    pub moved: Counter,
    /// Tunnels that ended because they had no attachment for too long.
    pub expired: Counter,
}
