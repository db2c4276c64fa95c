//! How far a dial has come: what an attempt that takes too long was waiting for, and, for who wants to know, what was passed on the way.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::error::Peer;
use crate::{
    link::{tls::Certificate, upgrade::Answered},
    tcp_table::Connection,
};

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
            (Layer::Tcp, _) => {
                "is the machine reachable, and does a firewall let the port through?"
            }
            (Layer::Tls, _) => "does that port speak TLS?",
            (Layer::Proxy, _) => {
                "does it speak what the scheme in `proxy` says, and can it reach the master?"
            }
            (Layer::Http, _) => {
                "does that port speak HTTP, and without TLS where `master` says ws://?"
            }
        }
    }
}

/// A layer that a dial has passed, or ended in.
#[derive(Debug, Clone)]
pub struct Passage {
    /// To whom.
    pub peer: Peer,
    /// Which.
    pub layer: Layer,
    /// For how long the dial was there.
    pub took: Duration,
    /// What was seen.
    pub sights: Vec<Sight>,
}

/// What a dial sees on its way. No secret is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// How the proxy was told who asks, in the words of HTTP.
    Scheme(String),
    /// TLS, also when the certificate was refused.
    Tls(TlsSession),
    /// The answer to the request.
    Answered(Answered),
}

/// TLS as it was agreed or shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsSession {
    /// Its version and cipher, unless there was no agreement.
    pub agreed: Option<(String, String)>,
    /// The certificates that were shown, the peer's own first; empty when they could not be read.
    pub chain: Vec<Certificate>,
}

/// Written by who dials, read by who gives up or watches.
#[derive(Debug)]
pub(super) struct Stage {
    is_watched: bool,
    walk: Mutex<Walk>,
}

#[derive(Debug, Default)]
struct Walk {
    present: Option<(Peer, Layer, Instant)>,
    sights: Vec<Sight>,
    passed: Vec<Passage>,
    connection: Option<Connection>,
}

impl Walk {
    fn pass(&mut self) {
        if let Some((peer, layer, since)) = self.present.take() {
            let sights = std::mem::take(&mut self.sights);
            self.passed.push(Passage {
                peer,
                layer,
                took: since.elapsed(),
                sights,
            });
        }
    }
}

impl Stage {
    /// Nothing was passed yet. Only when it is watched, it is noted what is.
    pub fn new(is_watched: bool) -> Self {
        Stage {
            is_watched,
            walk: Mutex::default(),
        }
    }

    fn walk(&self) -> MutexGuard<'_, Walk> {
        self.walk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The dial has come to this layer.
    pub fn set(&self, peer: Peer, layer: Layer) {
        let mut walk = self.walk();
        if !walk
            .present
            .is_some_and(|(now_peer, now_layer, _)| (now_peer, now_layer) == (peer, layer))
        {
            walk.pass();
            walk.present = Some((peer, layer, Instant::now()));
        }
    }

    pub fn get(&self) -> (Peer, Layer) {
        self.walk()
            .present
            .map_or((Peer::Master, Layer::Name), |(peer, layer, _)| {
                (peer, layer)
            })
    }

    /// A TCP connection was made.
    pub fn connected(&self, connection: Option<Connection>) {
        self.walk().connection = connection;
    }

    /// The last TCP connection.
    pub fn connection(&self) -> Option<Connection> {
        self.walk().connection
    }

    /// Something was seen at this layer.
    pub fn note(&self, sight: impl FnOnce() -> Sight) {
        if self.is_watched {
            let sight = sight();
            self.walk().sights.push(sight);
        }
    }

    pub fn is_watched(&self) -> bool {
        self.is_watched
    }

    /// Everything that was passed, the present layer last.
    pub fn finish(&self) -> Vec<Passage> {
        let mut walk = self.walk();
        walk.pass();
        std::mem::take(&mut walk.passed)
    }
}
