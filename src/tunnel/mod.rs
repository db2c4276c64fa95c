//! A tunnel: the end-to-end session of one client and one server under one port key. Drives a [`mux`] over the channels that come and go: the
//! handshake, sealing, compression, and splicing to local sockets.
//!
//! ```text
//!  socket ⇄ splice ⇄ compress ⇄ TunnelStream ⇄ mux ⇄ seal ⇄ Attachment (a Lane) ⇄ the link
//!                                 Tunnel: outlives ▲ its attachments
//! ```
//!
//! A [`Tunnel`] is what the streams belong to; an [`attach::Attachment`] binds it to one channel with the keys of one handshake, and
//! `binding` decides which of them carries it. When there is none the tunnel waits, streams and all, until the next one or until its
//! time is over. The link calls the attachment when it has received something or has room to send: sealing happens then, and no
//! task of the tunnel's own stands in between. One small task for each tunnel waits for the mux's deadlines and its own.
//!
//! Knows channels; not links, WebSockets, TLS or HTTP.

pub mod attach;
mod attachment;
mod binding;
mod carriage;
mod counts;
mod driver;
mod handle;
mod local_socket;
pub mod offer;
pub mod origin;
pub mod raw;
mod shared;
pub mod splice;
mod stream;
pub mod take_back;
#[cfg(test)]
pub(crate) mod tests;

use std::{sync::Arc, time::Duration};

#[cfg(test)]
pub(crate) use self::{attachment::CANDIDATE_TIMEOUT, carriage::MOVE_TIMEOUT};
pub use self::{
    counts::{Count, Counts},
    handle::{Standing, Tunnel},
    stream::{TunnelStream, TunnelStreamError},
};
pub use crate::mux::{Budget, ResetCode, WindowSize};
use crate::{
    compress::{CompressMethod, Pool},
    crypto::{EncryptMethod, PortKeys},
    mux::{self, Side},
};

/// How many streams a client may have open in one tunnel at a time: more than a host has ports for.
const STREAMS_MAX: usize = 65_536;

/// Running zstd contexts that one end is willing to hold for a tunnel, about 0.6 MiB each (PROTOCOL 11.5).
const ZSTD_CONTEXTS: usize = 8;

/// How many it holds in fact before it gives a stream up. A sender's place is free when the end of its stream is sent, and ours only when a slow
/// application has taken everything: streams that come to their end in between must not be taken for too many. About 38 MiB at the very most.
const ZSTD_CONTEXTS_TOLERATED: usize = 8 * ZSTD_CONTEXTS;

/// One port, as both of its ends configure it.
#[derive(Debug, Clone)]
pub struct PortParameters {
    /// The port's name in logs.
    pub mark: Arc<str>,
    /// What its port key gives.
    pub keys: PortKeys,
    /// How its payload is sealed.
    pub encrypt: EncryptMethod,
    /// How its streams are compressed.
    pub compress: CompressMethod,
    /// Credit for each stream.
    pub stream_window: WindowSize,
    /// Credit for all streams of a tunnel; its largest size bounds a tunnel's memory in each direction.
    pub tunnel_window: WindowSize,
    /// How long a tunnel waits for its next attachment before it is given up.
    pub resume_timeout: Duration,
    /// After how long at rest local connections are probed, if ever.
    pub tcp_keepalive: Option<Duration>,
    /// What all the tunnels of a process share.
    pub commons: Commons,
}

/// What all the tunnels of a process share.
#[derive(Debug, Clone, Default)]
pub struct Commons {
    /// Where the work spaces of compression come from: only as many are in use as threads compress.
    pub pool: Arc<Pool>,
    /// What they may hold for slow applications and slow peers.
    pub budget: Arc<mux::Budget>,
    /// What became of the tunnels.
    pub counts: Arc<Counts>,
}

impl PortParameters {
    fn mux(&self, side: Side) -> mux::Parameters {
        let streams_max = match side {
            // Nothing at a client would take them.
            Side::Client => 0,
            Side::Server => STREAMS_MAX,
        };
        mux::Parameters {
            stream_window: self.stream_window,
            tunnel_window: self.tunnel_window,
            streams_max,
        }
    }
}
