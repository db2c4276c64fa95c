//! The proxy of a client's port with the protocol `socks5`: SOCKS5 and HTTP CONNECT at one address.
//! The application names the destination, and the server connects to it if its rules allow that.
//!
//! ```text
//!  application ── handshake ──► destination ──► stream ──► server ──► destination
//!       ◄──── answer ◄──────────────────── confirmation ◄────┘
//! ```
//!
//! | file | content |
//! |---|---|
//! | `mod.rs` | a connection from its handshake to its end |
//! | `socks5`, `address` | the messages of SOCKS5 |
//! | `http_connect` | the request and the responses of HTTP CONNECT |
//! | `credentials` | the user of the proxy |
//! | `dialect` | which of both an application speaks |
//! | `request_error`, `failure` | why there is no connection, and the answer |
//! | `associate`, `udp_header` | datagrams of UDP ASSOCIATE, and their flows in the tunnel |

mod address;
mod associate;
mod credentials;
mod dialect;
mod failure;
mod http_connect;
mod request_error;
mod socks5;
#[cfg(test)]
mod tests;
mod udp_header;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};
use tracing::{debug, info, warn};

use self::{
    associate::{Association, TunnelFlowOpener},
    credentials::ProxyCredentials,
    dialect::ProxyDialect,
    failure::ConnectFailure,
    request_error::ProxyRequestError,
    socks5::{SocksReply, SocksRequest, encode_reply, unspecified},
};
use super::{
    hold_queue::wait_abandoned,
    listener::{
        HoldError, IncomingConnection, ListenerContext, WaitingConnection, hold, log_end,
        next_tunnel, report_given_up, report_held_too_long,
    },
};
use crate::{
    config::SocksUser,
    net::{
        file_limit::{self, ThrottledLog},
        local_listener::LocalPeer,
        local_stream::LocalStream,
    },
    tunnel::{
        Tunnel, TunnelStream,
        confirmation::{ConfirmationError, confirmed},
        details::{NamedTarget, OpenDetails},
        splice::{EarlyData, splice_after},
    },
};

/// How long an application has for its handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an application has to read a refusal.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The most bytes that are read from an application that was refused. Closing the connection before
/// would reset it, and the application could miss the answer.
const UNREAD_MAX: usize = 64 * 1024;

/// The version byte of SOCKS4.
const SOCKS4: u8 = 4;

/// The proxy of a port.
pub(super) struct SocksProxy {
    credentials: Option<ProxyCredentials>,
    /// Logs refusals, throttled.
    log: ThrottledLog,
    /// Logs destinations without a connection, throttled: an application may try many.
    failure_log: ThrottledLog,
    /// Logs flows of datagrams that are refused, throttled: each datagram may open another one.
    flow_log: ThrottledLog,
}

impl SocksProxy {
    /// Creates a proxy. With a `user`, applications must authenticate.
    pub(super) fn new(user: Option<&SocksUser>) -> Self {
        SocksProxy {
            credentials: user.map(ProxyCredentials::new),
            log: ThrottledLog::default(),
            failure_log: ThrottledLog::default(),
            flow_log: ThrottledLog::default(),
        }
    }
}

/// A request of an application.
#[derive(Debug)]
enum ProxyRequest {
    /// A connection.
    Connect(ConnectRequest),
    /// Datagrams.
    Associate(AssociateRequest),
}

/// A request for datagrams.
#[derive(Debug, PartialEq, Eq)]
struct AssociateRequest {
    /// The host of the application.
    application: IpAddr,
    /// The port from which the application will send datagrams, 0 if it does not know it yet.
    port: u16,
}

/// A request for a connection.
#[derive(Debug)]
struct ConnectRequest {
    protocol: ProxyDialect,
    target: NamedTarget,
    /// Data for the destination that arrived with the request.
    early: Bytes,
}

/// Serves an application from its first byte.
pub(super) async fn serve(
    context: &ListenerContext,
    proxy: &Arc<SocksProxy>,
    incoming: IncomingConnection,
) {
    let IncomingConnection {
        mut socket,
        peer,
        waiting,
    } = incoming;
    // The connection joins the queue again after its handshake, so that a slow one delays no other.
    drop(waiting);
    let requested = tokio::select! {
        requested = handshake(&mut socket, peer, proxy) => requested,
        () = context.stop.cancelled() => return,
    };
    match requested {
        Ok(ProxyRequest::Connect(request)) => {
            connect(context, proxy, socket, peer, request).await;
        }
        Ok(ProxyRequest::Associate(request)) => {
            let opener = TunnelFlowOpener {
                port: Arc::clone(&context.port),
                proxy: Arc::clone(proxy),
                peer,
            };
            carry_datagrams(context, socket, opener, request).await;
        }
        Err(error) => {
            count_refusal(context, error.reason());
            match &error {
                ProxyRequestError::Io(_) | ProxyRequestError::Timeout => {
                    debug!(%peer, "proxy request refused: {error}");
                }
                error => proxy
                    .log
                    .log(|times| warn!(times, %peer, "proxy request refused: {error}")),
            }
            close(context, socket, &error.answer()).await;
        }
    }
}

/// Reads the request of an application.
async fn handshake(
    socket: &mut LocalStream,
    peer: LocalPeer,
    proxy: &SocksProxy,
) -> Result<ProxyRequest, ProxyRequestError> {
    let address = peer.address().map(|address| address.ip());
    let credentials = proxy.credentials.as_ref();
    let reading = async {
        match socket.read_u8().await? {
            socks5::VERSION => {
                let request = socks5::accept(socket, address, credentials).await?;
                ProxyRequest::of_socks(request, address)
            }
            SOCKS4 => Err(ProxyRequestError::Socks4),
            first if first.is_ascii_alphabetic() => {
                let request = http_connect::accept(first, socket, address, credentials).await?;
                Ok(ProxyRequest::Connect(ConnectRequest {
                    protocol: ProxyDialect::Http,
                    target: request.target,
                    early: request.early,
                }))
            }
            other => Err(ProxyRequestError::OtherProtocol(other)),
        }
    };
    timeout(HANDSHAKE_TIMEOUT, reading)
        .await
        .unwrap_or(Err(ProxyRequestError::Timeout))
}

impl ProxyRequest {
    /// Checks a request of SOCKS5. `application` is the host of the application, if it has one.
    fn of_socks(
        request: SocksRequest,
        application: Option<IpAddr>,
    ) -> Result<Self, ProxyRequestError> {
        match request {
            SocksRequest::Connect(address) => Ok(ProxyRequest::Connect(ConnectRequest {
                protocol: ProxyDialect::Socks5,
                target: NamedTarget::new(address.host, address.port)
                    .map_err(|_| ProxyRequestError::Target)?,
                early: Bytes::new(),
            })),
            // The named host may be one behind a translation of addresses, so only the port counts.
            SocksRequest::Associate(address) => Ok(ProxyRequest::Associate(AssociateRequest {
                application: application.ok_or(ProxyRequestError::UnixAssociate)?,
                port: address.port,
            })),
        }
    }
}

/// Connects an application to its destination.
async fn connect(
    context: &ListenerContext,
    proxy: &SocksProxy,
    socket: LocalStream,
    peer: LocalPeer,
    request: ConnectRequest,
) {
    let accepted = Instant::now();
    let waiting = WaitingConnection {
        accepted,
        is_held: context.port.tunnel().now_or_never().is_none(),
        place: context.queue.join(),
    };
    let entered = tokio::select! {
        entered = hold(context, &socket, waiting) => entered,
        () = context.stop.cancelled() => return,
    };
    let (mut tunnel, turn) = match entered {
        Ok(entered) => entered,
        Err(HoldError::GivenUp) => return report_given_up(context, peer),
        Err(HoldError::HeldTooLong) => {
            report_held_too_long(context, peer);
            return refuse(context, socket, &request, ConnectFailure::Unavailable).await;
        }
    };
    let mut turn = Some(turn);
    loop {
        let stream = open(&tunnel, &request.target);
        // The stream is open, so the order is kept: let the next connection enter.
        turn.take();
        let confirmed = tokio::select! {
            confirmed = confirmed(&stream) => confirmed,
            () = wait_abandoned(&socket, &context.orphans, accepted) => return report_given_up(context, peer),
            () = context.stop.cancelled() => return,
        };
        match confirmed {
            Ok(from_stream) => {
                return carry(context, socket, stream, request, from_stream).await;
            }
            Err(ConfirmationError::Unseen) => {
                let Some(next) = next_tunnel(context, peer).await else {
                    return refuse(context, socket, &request, ConnectFailure::Unavailable).await;
                };
                tunnel = next;
            }
            Err(error) => {
                let failure = report_failure(context, proxy, peer, &error);
                return refuse(context, socket, &request, failure).await;
            }
        }
    }
}

/// Counts and logs that there is no connection. Returns why.
fn report_failure(
    context: &ListenerContext,
    proxy: &SocksProxy,
    peer: LocalPeer,
    error: &ConfirmationError,
) -> ConnectFailure {
    let failure = ConnectFailure::of(error);
    let reason = failure.reason();
    count_refusal(context, reason);
    proxy
        .failure_log
        .log(|times| info!(times, %peer, reason, "no connection to the destination: {error}"));
    failure
}

/// Opens a stream to a destination.
fn open(tunnel: &Tunnel, target: &NamedTarget) -> TunnelStream {
    tunnel.open(target_details(target))
}

/// Returns the details of a stream or a flow to a destination.
fn target_details(target: &NamedTarget) -> Bytes {
    let details = OpenDetails {
        target: Some(target.clone()),
        ..OpenDetails::default()
    };
    details.encode()
}

/// Carries a connection whose stream is confirmed. `from_stream` arrived with the confirmation.
async fn carry(
    context: &ListenerContext,
    mut socket: LocalStream,
    stream: TunnelStream,
    request: ConnectRequest,
    from_stream: Bytes,
) {
    let carrying = async {
        socket.write_all(&request.protocol.success()).await?;
        let early = EarlyData {
            from_socket: request.early,
            from_stream,
        };
        let compress = stream.compress();
        Ok::<_, io::Error>(splice_after(early, socket, stream, compress).await)
    };
    tokio::select! {
        carried = carrying => match carried {
            Ok(spliced) => log_end(&spliced),
            Err(error) => debug!(%error, "connection reset before its answer"),
        },
        () = context.stop.cancelled() => debug!("connection cut: the client is shutting down"),
    }
}

/// Carries the datagrams of an application until its connection ends.
async fn carry_datagrams(
    context: &ListenerContext,
    mut socket: LocalStream,
    opener: TunnelFlowOpener,
    request: AssociateRequest,
) {
    let (proxy, peer) = (Arc::clone(&opener.proxy), opener.peer);
    let (association, address) = match associate(&socket, opener, request).await {
        Ok(opened) => opened,
        Err(error) => {
            count_refusal(context, "association_failed");
            proxy.log.log(|times| {
                warn!(times, %peer, "cannot open a socket for the datagrams of an application: {error}");
            });
            let reply = encode_reply(SocksReply::GeneralFailure, unspecified());
            return close(context, socket, &reply).await;
        }
    };
    let carrying = async {
        let reply = encode_reply(SocksReply::Succeeded, address);
        socket.write_all(&reply).await?;
        debug!(%address, "UDP association opened");
        association.run(&mut socket).await;
        socket.end_on_close();
        Ok::<_, io::Error>(())
    };
    tokio::select! {
        carried = carrying => match carried {
            Ok(()) => debug!("UDP association ended"),
            Err(error) => debug!(%error, "connection reset before its answer"),
        },
        () = context.stop.cancelled() => debug!("UDP association cut: the client is shutting down"),
    }
}

/// Opens the socket of an association at the address that the application has reached. Returns the
/// address of the socket too.
async fn associate(
    socket: &LocalStream,
    opener: TunnelFlowOpener,
    request: AssociateRequest,
) -> io::Result<(Association<TunnelFlowOpener>, SocketAddr)> {
    file_limit::check_available()?;
    let local = socket.local_addr().ok_or(io::ErrorKind::NotConnected)?;
    let idle_timeout = opener.port.parameters.udp_idle_timeout;
    let AssociateRequest { application, port } = request;
    // A listener at [::] sees IPv4 addresses inside IPv6 ones, which applications do not expect.
    let local = local.ip().to_canonical();
    let association = Association::open(local, application, port, opener, idle_timeout).await?;
    let address = association.local_addr()?;
    Ok((association, address))
}

/// Answers that there is no connection.
async fn refuse(
    context: &ListenerContext,
    socket: LocalStream,
    request: &ConnectRequest,
    failure: ConnectFailure,
) {
    close(context, socket, &request.protocol.failure(failure)).await;
}

/// Sends a last answer and closes the connection when the application has read it. Without an
/// answer the connection is reset.
async fn close(context: &ListenerContext, mut socket: LocalStream, answer: &[u8]) {
    if answer.is_empty() {
        return;
    }
    socket.end_on_close();
    let closing = async {
        socket.write_all(answer).await?;
        socket.shutdown_write()?;
        let (mut unread, mut block) = (0, [0; 1024]);
        while unread < UNREAD_MAX {
            match socket.read(&mut block).await? {
                0 => break,
                length => unread = unread.saturating_add(length),
            }
        }
        Ok::<_, io::Error>(())
    };
    // A failure means that the application is gone.
    tokio::select! {
        _ = timeout(CLOSE_TIMEOUT, closing) => {}
        () = context.stop.cancelled() => {}
    }
}

fn count_refusal(context: &ListenerContext, reason: &'static str) {
    let refusals = &context.port.parameters.process_shared.refusals;
    refusals.count("connection", reason);
}
