//! The front door: takes connections, counts them, and makes a WebSocket of each that asks for one. Every connection is a task of its own:
//! who is slow or silent holds nobody else.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use tokio::net::{TcpListener, TcpStream};
use tracing::{Instrument, Span, debug, error, field::Empty, info_span, warn};

use super::{Shared, attend::attend, http::Upgraded, limits::Permit};
use crate::link::{MessageSocket, accept::upgraded, tcp, websocket::ByteStream};

/// How long nothing is accepted after the system had no room for another connection: it makes some only when others end.
const BACK_OFF: Duration = Duration::from_millis(100);

/// How often the same trouble at the door is logged, at most.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts until the master drains.
///
/// # Cancel safety
/// Safe: a connection is either handed to its task or still in the listener.
pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let mut trouble = Trouble::default();
    loop {
        let Some(accepted) = shared.draining.run_until_cancelled(listener.accept()).await else { return };
        match accepted {
            Ok((stream, peer)) => match shared.admission.admit(peer.ip()) {
                Ok(permit) => open(&shared, stream, peer, permit),
                Err(full) => trouble.log(|times| warn!(%peer, times, "connection refused: {full}")),
            },
            // The peer was gone before it was accepted.
            Err(error) if is_of_one_connection(&error) => debug!(%error, "a connection was not accepted"),
            Err(error) => {
                trouble.log(|times| error!(%error, times, "cannot accept; raise the limit of open files (ulimit -n)"));
                shared.draining.run_until_cancelled(tokio::time::sleep(BACK_OFF)).await;
            }
        }
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
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
        let shared = Arc::clone(shared);
        async move {
            let stream = match sent.arrive() {
                Ok(stream) => stream,
                Err(error) => return debug!(%error, "the connection cannot be served on its thread"),
            };
            // Boxed one by one, so that a link at rest keeps nothing of TLS's or hyper's beginnings.
            let negotiated = shared.draining.run_until_cancelled(Box::pin(negotiate(&shared, stream)));
            if let Some(Some((socket, forwarded_for))) = negotiated.await {
                let visitor = visitor(peer.ip(), forwarded_for);
                let ending = shared.ending.clone();
                ending.run_until_cancelled(Box::pin(attend(shared, socket, number, visitor))).await;
            }
            drop((permit, seat));
        }
    };
    shared.tasks.spawn_on(task.instrument(span), &runtime);
}

/// Who is behind a connection: the peer, or whom a proxy on this machine speaks for. Others could claim anything.
fn visitor(peer: IpAddr, forwarded_for: Option<IpAddr>) -> IpAddr {
    match forwarded_for {
        Some(visitor) if peer.to_canonical().is_loopback() => {
            Span::current().record("visitor", tracing::field::display(visitor));
            visitor
        }
        _ => peer,
    }
}

/// A socket, and for whom its peer says that it speaks.
type Negotiated = (MessageSocket, Option<IpAddr>);

/// TLS, if it is configured, then HTTP up to the upgrade.
async fn negotiate(shared: &Shared, stream: TcpStream) -> Option<Negotiated> {
    if let Err(error) = tcp::prepare(&stream) {
        debug!(%error, "the connection is gone already");
        return None;
    }
    let Some(acceptor) = &shared.tls else { return upgrade(shared, stream).await };
    match tokio::time::timeout(shared.tls_timeout, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Box::pin(upgrade(shared, stream)).await,
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

async fn upgrade<S: ByteStream>(shared: &Shared, stream: S) -> Option<Negotiated> {
    let Upgraded { stream, read, forwarded_for } = shared.endpoint.serve(stream).await?;
    Some((upgraded(stream, read), forwarded_for))
}

/// Logs trouble that may come a thousand times a second now and then, with its number of times.
#[derive(Default)]
struct Trouble {
    last: Option<Instant>,
    times: u64,
}

impl Trouble {
    fn log(&mut self, line: impl FnOnce(u64)) {
        self.times += 1;
        if self.last.is_none_or(|last| last.elapsed() >= LOG_INTERVAL) {
            line(self.times);
            *self = Trouble { last: Some(Instant::now()), times: 0 };
        }
    }
}
