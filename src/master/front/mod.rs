//! The front of the master: a web server, except for one path that upgrades to a WebSocket. Knows
//! request heads and streams, but nothing of links.
//!
//! ```text
//!            ┌─ a role's upgrade ───────────► 101, and the stream becomes a WebSocket; or 503
//!  head ─────┤
//!            └─ anything else, or timeout ──► the web server: local page or files (static_site), or another server (reverse_proxy)
//! ```
//! Every other visitor talks to the web server alone: byte for byte, malformed requests included.

mod chunked_body;
mod request_head;
mod response_tracker;
mod reverse_proxy;
mod static_folder;
mod static_site;
mod trusted_proxies;
mod upgrade_request;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use bytes::BytesMut;
use http::StatusCode;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, timeout},
};
use tracing::{debug, warn};

use self::{
    reverse_proxy::{NextRequest, RequestReader, proxy_connection},
    static_site::{Content, SiteLimits, StaticSite},
    upgrade_request::send_unavailable,
};
use crate::{
    config::FallbackConfig,
    net::{connect::connect, proxy_protocol, tcp, websocket::ByteStream},
};

pub(super) use self::upgrade_request::{UpgradeRequest, Upgraded};
pub use self::{
    static_site::{HEALTH_PATH, MIN_HEADER_BYTES},
    trusted_proxies::TrustedProxies,
};

/// The buffer in each direction between a connection and the local web server, in bytes.
const SITE_BUFFER: usize = 16 * 1024;

/// The timeout for a connection to the web server of [`Fallback::Server`], which runs near the
/// master.
const WEB_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The answer to requests that are not a role's upgrade.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Fallback {
    /// A 404 page.
    #[default]
    NotFound,
    /// The files of a folder.
    Files(PathBuf),
    /// Another web server, which receives the original bytes.
    Server {
        /// Its host, and its port for HTTP without TLS.
        address: (String, u16),
        /// Whether each connection to it begins with a PROXY protocol header (version 2) that names
        /// the visitor.
        proxy_protocol: bool,
    },
}

impl Fallback {
    /// Creates the fallback of a configuration.
    #[must_use]
    pub fn new(config: &FallbackConfig) -> Self {
        match config.clone() {
            FallbackConfig::NotFound => Fallback::NotFound,
            FallbackConfig::Files(folder) => Fallback::Files(folder.to_path_buf()),
            FallbackConfig::Server {
                address,
                proxy_protocol,
            } => Fallback::Server {
                address: (address.host, address.port),
                proxy_protocol,
            },
        }
    }
}

/// The front of a master.
#[derive(Debug, Clone)]
pub(super) struct Front {
    /// The path that upgrades.
    pub(super) path: String,
    /// Whether [`HEALTH_PATH`] answers.
    pub(super) healthz: bool,
    /// The answer to other requests.
    pub(super) fallback: Fallback,
    /// The proxies that are trusted to report visitor addresses.
    pub(super) trusted: TrustedProxies,
    /// The longest request head, in bytes.
    pub(super) header_bytes: usize,
    /// The timeout for a head, and between two requests.
    pub(super) header_timeout: Duration,
    /// The lifetime of a connection to the local web server, regardless of its activity.
    pub(super) connection_timeout: Duration,
}

/// The two ends of a connection, from TCP or from a trusted proxy.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionAddrs {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
}

impl Front {
    /// Serves a connection until it requests a role's upgrade. Returns `None` when it ended without
    /// one. Calls `on_visitor` when another request arrives, or none in time.
    ///
    /// # Cancel safety
    /// Dropping the future aborts the connection.
    pub(super) async fn serve<S: ByteStream>(
        &self,
        mut stream: S,
        addresses: ConnectionAddrs,
        on_visitor: &(dyn Fn() + Sync),
    ) -> Option<UpgradeRequest<S>> {
        let mut reader = self.reader();
        // A silent visitor also goes to the web server, which applies its own timeout.
        let mut next_request = timeout(self.header_timeout, reader.next(&mut stream))
            .await
            .unwrap_or(NextRequest::Unparsable);
        let (head, accept) = loop {
            match next_request {
                NextRequest::Upgrade(head, accept) => break (head, accept),
                NextRequest::Closed => return None,
                other => {
                    on_visitor();
                    (stream, next_request) =
                        Box::pin(self.serve_web(&mut reader, other, stream, addresses)).await?
                }
            }
        };
        Some(UpgradeRequest {
            stream,
            read: reader.buffered.freeze(),
            accept,
            visitor: self.trusted.visitor(addresses.peer.ip(), &head.headers),
        })
    }

    /// Answers the first request of a connection for which the master has no room with 503,
    /// whatever it requests. Closes the connection.
    ///
    /// # Cancel safety
    /// Dropping the future aborts the connection.
    pub(super) async fn refuse(&self, mut stream: impl ByteStream) {
        match self.reader().next(&mut stream).await {
            NextRequest::Closed | NextRequest::Unparsable => {}
            NextRequest::Upgrade(..) | NextRequest::TooManyFields(_) | NextRequest::Forward(_) => {
                send_unavailable(&mut stream).await;
            }
        }
    }

    fn reader(&self) -> RequestReader<'_> {
        RequestReader {
            buffered: BytesMut::new(),
            path: &self.path,
            header_bytes: self.header_bytes,
            header_timeout: self.header_timeout,
        }
    }

    /// Returns the destination of a request, or `None` for an upgrade.
    fn destination(&self, next_request: &NextRequest, peer: IpAddr) -> Option<Destination> {
        let Fallback::Server { proxy_protocol, .. } = &self.fallback else {
            return (!matches!(next_request, NextRequest::Upgrade(..)))
                .then_some(Destination::Local);
        };
        let visitor = match next_request {
            NextRequest::Upgrade(..) => return None,
            NextRequest::TooManyFields(_) => return Some(Destination::Local),
            NextRequest::Forward(head) if self.healthz && head.path == HEALTH_PATH => {
                return Some(Destination::Local);
            }
            NextRequest::Forward(head) => self.trusted.visitor(peer, &head.headers),
            NextRequest::Unparsable | NextRequest::Closed => peer.to_canonical(),
        };
        Some(Destination::Server(proxy_protocol.then_some(visitor)))
    }

    /// Serves a connection from the web server, until it ends or the visitor sends a request for
    /// another destination.
    async fn serve_web<S: ByteStream>(
        &self,
        reader: &mut RequestReader<'_>,
        next_request: NextRequest,
        stream: S,
        addresses: ConnectionAddrs,
    ) -> Option<(S, NextRequest)> {
        let destination = self.destination(&next_request, addresses.peer.ip());
        let is_for_web = |next_request: &NextRequest| {
            self.destination(next_request, addresses.peer.ip()) == destination
        };
        let content = match (&self.fallback, &destination) {
            (Fallback::Server { address, .. }, Some(Destination::Server(visitor))) => {
                match connect_web_server(address, visitor.map(|visitor| (visitor, addresses))).await
                {
                    Ok(web) => {
                        return proxy_connection(reader, next_request, stream, web, is_for_web)
                            .await;
                    }
                    Err(error) => warn_unreachable(address, &error),
                }
                Content::Page(StatusCode::BAD_GATEWAY)
            }
            (Fallback::Files(folder), _) => Content::Files(folder.clone()),
            (Fallback::NotFound | Fallback::Server { .. }, _) => {
                Content::Page(StatusCode::NOT_FOUND)
            }
        };
        let limits = SiteLimits {
            header_bytes: self.header_bytes,
            header: self.header_timeout,
            connection: self.connection_timeout,
        };
        let site = StaticSite {
            content,
            healthz: self.healthz,
            limits,
        };
        let (web, served) = tokio::io::duplex(SITE_BUFFER);
        tokio::select! {
            proxied = proxy_connection(reader, next_request, stream, web, is_for_web) => proxied,
            // Returning from `serve` closes its end of the duplex, which ends the other branch.
            never = async { site.serve(served).await; std::future::pending().await } => never,
        }
    }
}

/// The server that answers a visitor's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Destination {
    /// The local web server.
    Local,
    /// The web server of [`Fallback::Server`]. With an address, the connection carries only this
    /// visitor's requests and reports the address.
    Server(Option<IpAddr>),
}

/// Connects to the web server, and sends a PROXY protocol header for `visitor`.
async fn connect_web_server(
    address: &(String, u16),
    visitor: Option<(IpAddr, ConnectionAddrs)>,
) -> io::Result<TcpStream> {
    let began = Instant::now();
    let mut web = connect(&address.0, address.1, WEB_CONNECT_TIMEOUT)
        .await
        .map_err(io::Error::other)?;
    tcp::set_link_options(&web)?;
    if let Some((visitor, addresses)) = visitor {
        // The port of a visitor behind a proxy is unknown.
        let port = if visitor == addresses.peer.ip().to_canonical() {
            addresses.peer.port()
        } else {
            0
        };
        web.write_all(&proxy_protocol::encode(Some((
            SocketAddr::new(visitor, port),
            addresses.local,
        ))))
        .await?;
    }
    debug!(
        milliseconds = began.elapsed().as_millis(),
        "connected to the web server"
    );
    Ok(web)
}

fn warn_unreachable((host, port): &(String, u16), error: &io::Error) {
    warn!(
        "cannot reach the web server at {host}:{port}: {error}; visitors get 502 (start it, or correct `fallback`)"
    );
}
