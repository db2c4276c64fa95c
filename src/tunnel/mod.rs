//! The end-to-end session of one client and one server under one port key.
//!
//! A tunnel drives a [`mux`] over a sequence of channels. It performs the handshake, seals and
//! compresses, and splices streams to local sockets.
//!
//! ```text
//!  socket ⇄ splice ⇄ compress ⇄ TunnelStream ⇄ mux ⇄ seal ⇄ Attachment (a Lane) ⇄ the link
//!                                 Tunnel: outlives ▲ its attachments
//! ```
//!
//! A [`Tunnel`] owns the streams. An [`attach::Attachment`] binds it to one channel with the keys
//! of one handshake, and `binding` decides which attachment carries the tunnel. Without an
//! attachment the tunnel keeps its streams and waits for the next one, until `resume_timeout`
//! expires.
//!
//! The link calls the attachment when it has received a message or has room to send. Sealing
//! happens inside that call, so no task of the tunnel sits on the data path. One small task per
//! tunnel waits for the deadlines of the mux and of the tunnel.
//!
//! This module knows channels. It does not know links, WebSockets, TLS or HTTP.

pub mod attach;
mod attachment;
mod binding;
mod counters;
mod driver;
mod handle;
mod lifecycle;
mod local_socket;
pub mod offer;
pub mod origin;
pub mod raw;
pub mod reclaim;
mod shared;
pub mod splice;
mod stream;
#[cfg(test)]
pub(crate) mod tests;

use std::{sync::Arc, time::Duration};

#[cfg(test)]
pub(crate) use self::{attachment::CANDIDATE_TIMEOUT, lifecycle::MOVE_TIMEOUT};
pub use self::{
    counters::{Counter, TunnelCounters},
    handle::{Tunnel, TunnelStatus},
    stream::{TunnelStream, TunnelStreamError},
};
pub use report_proto::mux::{MemoryBudget, ResetCode, WindowSize};
use report_proto::{
    compress::{CompressMethod, Pool},
    crypto::{EncryptMethod, PortKeys},
    mux::{self, TunnelSide},
};

/// Maximum number of streams that a client may have open in one tunnel. A host has fewer ports.
const STREAMS_MAX: usize = 65_536;

/// Running zstd contexts that one end grants its peer per tunnel, about 0.6 MiB each (PROTOCOL
/// 11.5).
const ZSTD_CONTEXTS: usize = 8;

/// Running zstd contexts at which one end gives a stream up.
///
/// The sender frees a context when it sends the end of its stream. The receiver frees it only after
/// a slow application has read everything. Streams that end in between must not count as an excess.
/// The limit allows about 38 MiB per tunnel.
const ZSTD_CONTEXTS_TOLERATED: usize = 8 * ZSTD_CONTEXTS;

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
    /// Credit for each stream.
    pub stream_window: WindowSize,
    /// Credit for all streams of a tunnel. Its maximum bounds the memory of a tunnel in each
    /// direction.
    pub tunnel_window: WindowSize,
    /// How long a tunnel waits for its next attachment before it ends.
    pub resume_timeout: Duration,
    /// Idle time after which local connections are probed; `None` disables the probes.
    pub tcp_keepalive: Option<Duration>,
    /// Resources that all tunnels of the process share.
    pub process_shared: ProcessShared,
}

/// Resources that all tunnels of a process share.
#[derive(Debug, Clone, Default)]
pub struct ProcessShared {
    /// Compression work spaces: one per thread that compresses, not one per stream.
    pub pool: Arc<Pool>,
    /// Memory budget for data that waits for slow applications and slow peers.
    pub budget: Arc<mux::MemoryBudget>,
    /// Counters of lost, resumed, moved and expired tunnels.
    pub counters: Arc<TunnelCounters>,
}

impl PortParameters {
    fn mux(&self, side: TunnelSide) -> mux::Parameters {
        let streams_max = match side {
            // A client accepts no streams: it has no service to serve them.
            TunnelSide::Client => 0,
            TunnelSide::Server => STREAMS_MAX,
        };
        mux::Parameters {
            stream_window: self.stream_window,
            tunnel_window: self.tunnel_window,
            streams_max,
        }
    }
}
