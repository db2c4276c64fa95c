//! The front door: takes connections, counts them, and makes a WebSocket of each that asks for one. Every connection is a task of its own:
//! who is slow or silent holds nobody else.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{Instrument, Span, debug, field::Empty, info_span, warn};

use super::{
    Shared,
    admission::{Full, Permit},
    attend::attend,
    front::{Ends, Upgraded},
};
use crate::link::{
    MessageSocket,
    accept::upgraded,
    files::Trouble,
    proxy_protocol,
    read_ahead::ReadAhead,
    tcp::{self, is_of_one_connection},
    websocket::ByteStream,
};

/// How long nothing is accepted after the system had no room for another connection: it makes some only when others end.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Accepts until the master drains.
///
/// # Cancel safety
/// Safe: a connection is either handed to its task or still in the listener.
pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let (full, trouble) = (Trouble::default(), Trouble::default());
    loop {
        let Some(accepted) = shared.draining.run_until_cancelled(listener.accept()).await else {
            return;
        };
        match accepted {
            Ok((stream, peer)) => match shared.admit(peer.ip()) {
                Ok(permit) => open(&shared, stream, peer, permit),
                Err(error) => full.log(|times| warn!(%peer, times, "connection refused: {error}")),
            },
            // The peer was gone before it was accepted.
            Err(error) if is_of_one_connection(&error) => {
                debug!(%error, "a connection was not accepted")
            }
            Err(error) => {
                trouble.cannot_accept(&error);
                shared
                    .draining
                    .run_until_cancelled(tokio::time::sleep(BACK_OFF))
                    .await;
            }
        }
    }
}

fn open(shared: &Arc<Shared>, stream: TcpStream, peer: SocketAddr, permit: Permit) {
    let number = shared.next_link.fetch_add(1, Relaxed);
    let span = info_span!("link", link = number, %peer, visitor = Empty, role = Empty);
    let seat = shared.threads.seat();
    let (runtime, sent) = match seat.send(stream) {
        Ok(sent) => (seat.runtime(), sent),
        Err(error) => return debug!(%error, "the connection is gone already"),
    };
    let task = {
        let (shared, mut permit) = (Arc::clone(shared), permit);
        async move {
            let stream = match sent.arrive() {
                Ok(stream) => stream,
                Err(error) => {
                    return debug!(%error, "the connection cannot be served on its thread");
                }
            };
            // Boxed one by one, so that a link at rest keeps nothing of the beginnings of TLS and HTTP.
            let cut = permit.cut.clone();
            let negotiated = shared.draining.run_until_cancelled(Box::pin(negotiate(
                &shared,
                stream,
                peer,
                &mut permit,
            )));
            if let Some(Some(Some((socket, visitor)))) = cut.run_until_cancelled(negotiated).await {
                let ending = shared.ending.clone();
                let attended = ending.run_until_cancelled(Box::pin(attend(
                    shared, socket, number, visitor, &permit,
                )));
                cut.run_until_cancelled(attended).await;
            }
            if cut.is_cancelled() {
                debug!("cut: too many connections are no links yet");
            }
            drop((permit, seat));
        }
    };
    shared.tasks.spawn_on(task.instrument(span), &runtime);
}

/// A socket, and who is behind it.
type Negotiated = (MessageSocket, IpAddr);

/// The PROXY protocol and TLS, if they are configured, then HTTP up to the upgrade. The connection is counted as that of who is behind it.
async fn negotiate(
    shared: &Shared,
    mut stream: TcpStream,
    peer: SocketAddr,
    permit: &mut Permit,
) -> Option<Negotiated> {
    let prepared = tcp::prepare(&stream).and_then(|()| stream.local_addr());
    let local = prepared
        .inspect_err(|error| debug!(%error, "the connection is gone already"))
        .ok()?;
    let mut ends = Ends { peer, local };
    if shared.proxy_protocol
        && shared.front.trusted.trusts(peer.ip())
        && let Some(visitor) = announced(shared, &mut stream).await?
    {
        ends.peer = visitor;
        count(shared, permit, visitor.ip())?;
    }
    let (socket, visitor) = match &shared.tls {
        None => upgrade(shared, stream, ends).await?,
        Some(acceptor) => {
            let stream = secured(acceptor, stream, shared.tls_timeout).await?;
            Box::pin(upgrade(shared, stream, ends)).await?
        }
    };
    count(shared, permit, visitor)?;
    if visitor != peer.ip().to_canonical() {
        Span::current().record("visitor", tracing::field::display(visitor));
    }
    Some((socket, visitor))
}

/// For whom a trusted proxy says that it relays a connection.
async fn announced(shared: &Shared, stream: &mut TcpStream) -> Option<Option<SocketAddr>> {
    match tokio::time::timeout(shared.front.header_timeout, proxy_protocol::read(stream)).await {
        Ok(Ok(visitor)) => Some(visitor),
        Ok(Err(error)) => {
            warn!(%error, "refused: `proxy_protocol` is set, and this proxy of `trusted_proxies` does not speak it");
            None
        }
        Err(_) => {
            debug!("a trusted proxy sends no PROXY protocol's header");
            None
        }
    }
}

async fn secured(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    deadline: Duration,
) -> Option<TlsStream<ReadAhead<TcpStream>>> {
    match tokio::time::timeout(deadline, acceptor.accept(ReadAhead::new(stream))).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            debug!(%error, "the TLS handshake failed");
            None
        }
        Err(_) => {
            debug!("the TLS handshake took too long");
            None
        }
    }
}

async fn upgrade<S: ByteStream>(shared: &Shared, stream: S, ends: Ends) -> Option<Negotiated> {
    let Upgraded {
        stream,
        read,
        visitor,
    } = shared.front.serve(stream, ends).await?;
    Some((upgraded(stream, read), visitor))
}

/// Counts a connection as this visitor's.
fn count(shared: &Shared, permit: &mut Permit, visitor: IpAddr) -> Option<()> {
    let log = |full: &Full| {
        shared
            .log_limit
            .log(|left_out| warn!(%visitor, left_out, "connection refused: {full}"));
    };
    permit.assign(visitor).inspect_err(log).ok()
}
