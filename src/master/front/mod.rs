//! What the master looks like from outside: a web server, but for one path that upgrades to a WebSocket. Knows heads of requests and streams; nothing
//! of links.
//!
//! ```text
//!            ┌─ a role's upgrade ────────────────────► 101, and the stream is a WebSocket
//!  head ─────┤
//!            └─ anything else, or nothing in time ───► the web server: its own page or files (site), or another server (relay)
//! ```
//! Whoever is no role speaks with the web server alone: byte for byte, malformed requests included.

mod answers;
mod chunks;
mod folder;
mod head;
mod relay;
mod site;
mod trusted;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, timeout},
};
use tracing::{debug, warn};

use self::{
    relay::{Heads, Wish, carry},
    site::{Content, Site, Times},
};
use crate::link::{connect::connect, proxy_protocol, tcp, websocket::ByteStream};

pub use self::{
    site::{HEALTH_PATH, MIN_HEADER_BYTES},
    trusted::TrustedProxies,
};

/// What is under way in each direction between a connection and the master's own web server.
const SITE_BUFFER: usize = 16 * 1024;

/// How long the web server of [`Fallback::Server`] may take to accept a connection: it stands beside the master.
const WEB_DEADLINE: Duration = Duration::from_secs(5);

/// What everybody sees who is not a role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Fallback {
    /// A page that says that nothing is there.
    #[default]
    NotFound,
    /// The files of a folder.
    Files(PathBuf),
    /// Another web server, which gets the very bytes.
    Server {
        /// Its host, and the port at which it speaks HTTP without TLS.
        address: (String, u16),
        /// Whether each connection to it begins with a header of the PROXY protocol, version 2, that says who the visitor is.
        proxy_protocol: bool,
    },
}

/// The front of a master.
#[derive(Debug, Clone)]
pub(super) struct Front {
    /// The one path that upgrades.
    pub(super) path: String,
    /// Whether [`HEALTH_PATH`] answers.
    pub(super) healthz: bool,
    /// What everybody sees who is not a role.
    pub(super) fallback: Fallback,
    /// Who is believed about a visitor's address.
    pub(super) trusted: TrustedProxies,
    /// Of a request's head.
    pub(super) header_bytes: usize,
    /// The time for a head, and between two requests.
    pub(super) header_timeout: Duration,
    /// The time of a connection at the master's own web server, whatever it does.
    pub(super) connection_timeout: Duration,
}

/// A connection that has become a WebSocket.
pub(super) struct Upgraded<S> {
    /// What it runs on.
    pub(super) stream: S,
    /// What came right behind the request.
    pub(super) read: Bytes,
    /// Who is behind it.
    pub(super) visitor: IpAddr,
}

/// The two ends of a connection as TCP knows them, or as a trusted proxy tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
}

impl Front {
    /// Serves a connection until it has been upgraded. Nothing when it ended otherwise.
    ///
    /// # Cancel safety
    /// Dropping the future cuts the connection.
    pub(super) async fn serve<S: ByteStream>(
        &self,
        mut stream: S,
        ends: Ends,
    ) -> Option<Upgraded<S>> {
        let mut heads = Heads {
            waiting: BytesMut::new(),
            path: &self.path,
            header_bytes: self.header_bytes,
            header_timeout: self.header_timeout,
        };
        // Who says nothing is the web server's as well: it knows how long it waits.
        let mut wish = timeout(self.header_timeout, heads.next(&mut stream))
            .await
            .unwrap_or(Wish::Foreign);
        let (head, accept) = loop {
            match wish {
                Wish::Upgrade(head, accept) => break (head, accept),
                Wish::Nothing => return None,
                other => {
                    (stream, wish) = Box::pin(self.web(&mut heads, other, stream, ends)).await?
                }
            }
        };
        let visitor = self.trusted.visitor(ends.peer.ip(), &head.headers);
        stream.write_all(switching(&accept).as_bytes()).await.ok()?;
        stream.flush().await.ok()?;
        Some(Upgraded {
            stream,
            read: heads.waiting.freeze(),
            visitor,
        })
    }

    /// Where a wish is fulfilled; nowhere if it is an upgrade.
    fn place(&self, wish: &Wish, peer: IpAddr) -> Option<Place> {
        let Fallback::Server { proxy_protocol, .. } = &self.fallback else {
            return (!matches!(wish, Wish::Upgrade(..))).then_some(Place::Own);
        };
        let visitor = match wish {
            Wish::Upgrade(..) => return None,
            Wish::Crowded(_) => return Some(Place::Own),
            Wish::Web(head) if self.healthz && head.path == HEALTH_PATH => return Some(Place::Own),
            Wish::Web(head) => self.trusted.visitor(peer, &head.headers),
            Wish::Foreign | Wish::Nothing => peer.to_canonical(),
        };
        Some(Place::Server(proxy_protocol.then_some(visitor)))
    }

    /// A connection at the web server, until it ends or the visitor wishes for something that is not to be had there.
    async fn web<S: ByteStream>(
        &self,
        heads: &mut Heads<'_>,
        wish: Wish,
        stream: S,
        ends: Ends,
    ) -> Option<(S, Wish)> {
        let place = self.place(&wish, ends.peer.ip());
        let of_web = |wish: &Wish| self.place(wish, ends.peer.ip()) == place;
        let content = match (&self.fallback, &place) {
            (Fallback::Server { address, .. }, Some(Place::Server(visitor))) => {
                match web_server(address, visitor.map(|visitor| (visitor, ends))).await {
                    Ok(web) => return carry(heads, wish, stream, web, of_web).await,
                    Err(error) => warn_of(address, &error),
                }
                Content::Page(StatusCode::BAD_GATEWAY)
            }
            (Fallback::Files(folder), _) => Content::Files(folder.clone()),
            (Fallback::NotFound | Fallback::Server { .. }, _) => {
                Content::Page(StatusCode::NOT_FOUND)
            }
        };
        let times = Times {
            header_bytes: self.header_bytes,
            header: self.header_timeout,
            connection: self.connection_timeout,
        };
        let site = Site {
            content,
            healthz: self.healthz,
            times,
        };
        let (web, served) = tokio::io::duplex(SITE_BUFFER);
        tokio::select! {
            carried = carry(heads, wish, stream, web, of_web) => carried,
            // Its end of the connection is closed with it, which ends the other branch.
            never = async { site.serve(served).await; std::future::pending().await } => never,
        }
    }
}

/// Where a visitor's requests are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Here.
    Own,
    /// At the web server of [`Fallback::Server`], over a connection for this visitor alone if it is to know who that is.
    Server(Option<IpAddr>),
}

/// A connection to the web server, which is told who the visitor is if it is to know.
async fn web_server(
    address: &(String, u16),
    visitor: Option<(IpAddr, Ends)>,
) -> io::Result<TcpStream> {
    let began = Instant::now();
    let mut web = connect(&address.0, address.1, WEB_DEADLINE)
        .await
        .map_err(|error| io::Error::new(error.kind(), error))?;
    tcp::prepare(&web)?;
    if let Some((visitor, ends)) = visitor {
        // The port of a visitor behind a proxy is not known.
        let port = if visitor == ends.peer.ip().to_canonical() {
            ends.peer.port()
        } else {
            0
        };
        web.write_all(&proxy_protocol::written(Some((
            SocketAddr::new(visitor, port),
            ends.local,
        ))))
        .await?;
    }
    debug!(
        milliseconds = began.elapsed().as_millis(),
        "a visitor of the web server"
    );
    Ok(web)
}

fn warn_of((host, port): &(String, u16), error: &io::Error) {
    warn!(
        "fallback: the web server at {host}:{port} cannot be reached ({error}); visitors see 502: start it, or correct `fallback`"
    );
}

/// The answer to a role.
fn switching(accept: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}
