//! How far a dial has come: what an attempt that takes too long was waiting for.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use super::error::Peer;

/// A layer of the way to a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// The resolver.
    Name,
    /// The connection.
    Tcp,
    /// The TLS handshake.
    Tls,
    /// What a proxy is asked for.
    Proxy,
    /// The answer to the request.
    Http,
}

impl fmt::Display for Layer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Layer::Name => "name",
            Layer::Tcp => "TCP",
            Layer::Tls => "TLS",
            Layer::Proxy => "proxy",
            Layer::Http => "HTTP",
        })
    }
}

impl Layer {
    pub(super) fn remedy(self, peer: Peer) -> &'static str {
        match (self, peer) {
            (Layer::Name, _) => "check the DNS server",
            (Layer::Tcp, _) => "is the machine reachable, and does a firewall let the port through?",
            (Layer::Tls, _) => "does that port speak TLS?",
            (Layer::Proxy, _) => "does it speak what the scheme in `proxy` says, and can it reach the master?",
            (Layer::Http, _) => "does that port speak HTTP, and without TLS where `master` says ws://?",
        }
    }
}

/// Written by who dials, read by who gives up.
#[derive(Debug)]
pub(super) struct Stage(Mutex<(Peer, Layer)>);

impl Stage {
    pub fn new() -> Self {
        Stage(Mutex::new((Peer::Master, Layer::Name)))
    }

    pub fn set(&self, peer: Peer, layer: Layer) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (peer, layer);
    }

    pub fn get(&self) -> (Peer, Layer) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
