//! Accepts connections, counts them, and upgrades them to WebSockets on request. Every connection
//! is a separate task, so slow or silent peers block no other connection. A connection for which
//! there is no place gets the answer 503, which says when to return.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, field::Empty, info_span, warn};

use super::{
    admission::{AdmissionError, ConnectionPermit},
    connection_settings::ConnectionSettings,
    front::{ConnectionAddrs, Upgraded},
    handshakes::HandshakePermit,
    serve_link::serve_link,
    shared::MasterShared,
};
use crate::net::{
    file_limit::ThrottledLog,
    proxy_protocol,
    read_ahead::ReadAhead,
    tcp::{self, is_single_connection_error},
    upgrade::upgraded,
    websocket::{ByteStream, MessageSocket},
};

/// The pause after the system refused another connection. It frees descriptors only when other
/// connections end.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The time for the answer 503, from accept on: some round trips. A refused connection has no place,
/// so it must not last.
pub(crate) const REFUSAL_TIMEOUT: Duration = Duration::from_secs(3);

/// Accepts connections until `stop`, a child of the token of the drain, is cancelled. Waits while
/// there is no room for handshakes.
///
/// # Cancel safety
/// Safe: a connection is either handed to its task or still in the listener.
pub(super) async fn accept(
    shared: Arc<MasterShared>,
    listener: Arc<TcpListener>,
    stop: CancellationToken,
) {
    let (refusal_log, accept_error_log) = (ThrottledLog::default(), ThrottledLog::default());
    loop {
        let next = shared.handshakes.begin(listener.accept());
        let Some((handshake, accepted)) = stop.run_until_cancelled(next).await else {
            break;
        };
        match accepted {
            Ok(connection) => on_connection(&shared, connection, handshake, &refusal_log),
            // The peer closed the connection before the master accepted it.
            Err(error) if is_single_connection_error(&error) => {
                debug!(%error, "connection not accepted")
            }
            Err(error) => {
                accept_error_log.log_accept_error(&error);
                stop.run_until_cancelled(tokio::time::sleep(ACCEPT_BACKOFF))
                    .await;
            }
        }
    }
    if !shared.draining.is_cancelled() {
        accept_backlog(&shared, &listener, &refusal_log);
    }
}

/// Accepts the connections in the backlog of a listener, as far as there is room for handshakes. The
/// end of the last listener at an address resets the others.
fn accept_backlog(shared: &Arc<MasterShared>, listener: &TcpListener, refusal_log: &ThrottledLog) {
    for _ in 0..tcp::BACKLOG {
        let Some(handshake) = shared.handshakes.try_begin() else {
            return;
        };
        match accept_now(listener) {
            Ok(connection) => on_connection(shared, connection, handshake, refusal_log),
            Err(error) if is_single_connection_error(&error) => {}
            // The backlog is empty.
            Err(_) => return,
        }
    }
}

/// Accepts a connection from the backlog. The runtime would learn of it only from a later event.
fn accept_now(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (socket, peer) = SockRef::from(listener).accept()?;
    socket.set_nonblocking(true)?;
    let peer = peer.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok((TcpStream::from_std(socket.into())?, peer))
}

/// Starts the task of an accepted connection with the settings of this moment.
fn on_connection(
    shared: &Arc<MasterShared>,
    (stream, peer): (TcpStream, SocketAddr),
    handshake: HandshakePermit,
    refusal_log: &ThrottledLog,
) {
    let settings = shared.settings();
    match shared.admit(&settings, peer.ip()) {
        Ok(permit) => spawn_connection(shared, settings, (stream, peer), permit, handshake),
        Err(error) => {
            shared.router.refusals.count("connection", error.reason());
            refusal_log.log(|times| warn!(%peer, times, "connection refused: {error}"));
            spawn_refusal(shared, settings, (stream, peer), handshake);
        }
    }
}

/// Answers a connection for which there is no place. Closes it without an answer if too many are
/// being answered.
fn spawn_refusal(
    shared: &Arc<MasterShared>,
    settings: Arc<ConnectionSettings>,
    (stream, peer): (TcpStream, SocketAddr),
    handshake: HandshakePermit,
) {
    let Ok(room) = Arc::clone(&settings.refusals).try_acquire_owned() else {
        return;
    };
    let task = {
        let shared = Arc::clone(shared);
        async move {
            let refusal = refuse_connection(&settings, stream, peer);
            shared.handshakes_over.run_until_cancelled(refusal).await;
            drop((room, handshake));
        }
    };
    shared.tasks.spawn(task);
}

/// Answers the request of a connection for which there is no place with 503.
async fn refuse_connection(settings: &ConnectionSettings, mut stream: TcpStream, peer: SocketAddr) {
    let refusal = async {
        if has_proxy_header(settings, peer) {
            read_proxy_header(settings, &mut stream).await?;
        }
        refuse_request(settings, stream).await
    };
    if tokio::time::timeout(REFUSAL_TIMEOUT, refusal)
        .await
        .is_err()
    {
        debug!(%peer, "refused connection timed out");
    }
}

/// Answers the next request of a connection with 503, behind the TLS handshake if configured.
/// Returns `None` if that fails.
async fn refuse_request(settings: &ConnectionSettings, stream: TcpStream) -> Option<()> {
    match &settings.tls {
        None => settings.front.refuse(stream).await,
        Some(acceptor) => {
            let stream = tls_handshake(acceptor, stream, settings.tls_timeout).await?;
            settings.front.refuse(stream).await;
        }
    }
    Some(())
}

fn spawn_connection(
    shared: &Arc<MasterShared>,
    settings: Arc<ConnectionSettings>,
    (stream, peer): (TcpStream, SocketAddr),
    permit: ConnectionPermit,
    handshake: HandshakePermit,
) {
    let number = shared.next_link.fetch_add(1, Relaxed);
    let span = info_span!("link", link = number, %peer, visitor = Empty, role = Empty);
    let thread_place = shared.threads.assign();
    let (runtime, sent) = match thread_place.detach(stream) {
        Ok(sent) => (thread_place.runtime(), sent),
        Err(error) => return debug!(%error, "connection already closed"),
    };
    let task = {
        let (shared, mut permit) = (Arc::clone(shared), permit);
        async move {
            let stream = match sent.attach() {
                Ok(stream) => stream,
                Err(error) => {
                    return debug!(%error, "cannot register the connection on its thread");
                }
            };
            // Each step is boxed, so that an idle link keeps no state of the TLS and HTTP
            // handshakes.
            let evicted = permit.evicted.clone();
            let negotiated = shared
                .handshakes_over
                .run_until_cancelled(Box::pin(handshake.run(negotiate(
                    &shared,
                    &settings,
                    (stream, peer),
                    &mut permit,
                    &handshake,
                ))));
            if let Some(Some(Some((socket, visitor)))) =
                evicted.run_until_cancelled(negotiated).await
            {
                let aborting = shared.aborting.clone();
                let served = aborting.run_until_cancelled(Box::pin(serve_link(
                    shared, settings, socket, number, visitor, &permit, handshake,
                )));
                evicted.run_until_cancelled(served).await;
            }
            if evicted.is_cancelled() {
                debug!("connection evicted: too many connections are not links yet");
            }
            drop((permit, thread_place));
        }
    };
    shared.tasks.spawn_on(task.instrument(span), &runtime);
}

/// An upgraded socket and the address of its visitor.
type NegotiatedSocket = (MessageSocket, IpAddr);

/// Runs the PROXY protocol and TLS, if configured, then HTTP up to the upgrade. Counts the
/// connection for the visitor behind a trusted proxy as soon as that address is known. Ends
/// `handshake` when the peer turns out to be a visitor of the web front.
async fn negotiate(
    shared: &MasterShared,
    settings: &ConnectionSettings,
    (mut stream, peer): (TcpStream, SocketAddr),
    permit: &mut ConnectionPermit,
    handshake: &HandshakePermit,
) -> Option<NegotiatedSocket> {
    let prepared = tcp::set_link_options(&stream).and_then(|()| stream.local_addr());
    let local = prepared
        .inspect_err(|error| debug!(%error, "connection already closed"))
        .ok()?;
    settings.congestion_control.apply(&stream);
    let mut addresses = ConnectionAddrs { peer, local };
    if has_proxy_header(settings, peer)
        && let Some(visitor) = read_proxy_header(settings, &mut stream).await?
    {
        addresses.peer = visitor;
        if assign_visitor(shared, permit, visitor.ip()).is_none() {
            let refusal = refuse_request(settings, stream);
            let _ = tokio::time::timeout(REFUSAL_TIMEOUT, refusal).await;
            return None;
        }
    }
    let (socket, visitor) = match &settings.tls {
        None => upgrade(shared, settings, stream, addresses, permit, handshake).await?,
        Some(acceptor) => {
            let stream = tls_handshake(acceptor, stream, settings.tls_timeout).await?;
            Box::pin(upgrade(
                shared, settings, stream, addresses, permit, handshake,
            ))
            .await?
        }
    };
    if visitor != peer.ip().to_canonical() {
        Span::current().record("visitor", tracing::field::display(visitor));
    }
    Some((socket, visitor))
}

/// Whether a connection from `peer` begins with a PROXY protocol header.
fn has_proxy_header(settings: &ConnectionSettings, peer: SocketAddr) -> bool {
    settings.proxy_protocol && settings.front.trusted.trusts(peer.ip())
}

/// Reads the visitor's address from the PROXY protocol header of a trusted proxy.
async fn read_proxy_header(
    settings: &ConnectionSettings,
    stream: &mut TcpStream,
) -> Option<Option<SocketAddr>> {
    match tokio::time::timeout(settings.front.header_timeout, proxy_protocol::read(stream)).await {
        Ok(Ok(visitor)) => Some(visitor),
        Ok(Err(error)) => {
            warn!(%error, "connection refused: no PROXY protocol header from a trusted proxy (enable it there, or unset `proxy_protocol`)");
            None
        }
        Err(_) => {
            debug!("PROXY protocol header timed out");
            None
        }
    }
}

async fn tls_handshake(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    deadline: Duration,
) -> Option<TlsStream<ReadAhead<TcpStream>>> {
    match tokio::time::timeout(deadline, acceptor.accept(ReadAhead::new(stream))).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            debug!(%error, "TLS handshake failed");
            None
        }
        Err(_) => {
            debug!("TLS handshake timed out");
            None
        }
    }
}

/// Serves HTTP up to the upgrade. A visitor at its limit gets 503 instead.
async fn upgrade<S: ByteStream>(
    shared: &MasterShared,
    settings: &ConnectionSettings,
    stream: S,
    addresses: ConnectionAddrs,
    permit: &mut ConnectionPermit,
    handshake: &HandshakePermit,
) -> Option<NegotiatedSocket> {
    let on_visitor = || handshake.release();
    let request = settings.front.serve(stream, addresses, &on_visitor).await?;
    let visitor = request.visitor;
    if assign_visitor(shared, permit, visitor).is_none() {
        let _ = tokio::time::timeout(REFUSAL_TIMEOUT, request.refuse()).await;
        return None;
    }
    let Upgraded { stream, read } = request.accept().await?;
    Some((upgraded(stream, read), visitor))
}

/// Counts the connection for this visitor.
fn assign_visitor(
    shared: &MasterShared,
    permit: &mut ConnectionPermit,
    visitor: IpAddr,
) -> Option<()> {
    let log = |error: &AdmissionError| {
        shared.router.refusals.count("connection", error.reason());
        shared
            .log_limit
            .log(|left_out| warn!(%visitor, left_out, "connection refused: {error}"));
    };
    permit.assign(visitor).inspect_err(log).ok()
}
