//! From a host to a TCP connection: its addresses, afresh each time, raced as RFC 8305 has it, from where we are to dial.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    task::JoinSet,
    time::Instant,
};

use super::{
    error::{DialError, Peer},
    stage::{Layer, Stage},
};
use crate::link::tcp;

/// From where to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bind {
    /// From this address, and to addresses of its family alone.
    Address(IpAddr),
    /// Through this interface.
    Interface(String),
}

/// How hosts are reached.
#[derive(Debug, Clone)]
pub(super) struct Reach {
    pub stagger: Duration,
    pub deadline: Duration,
    pub bind: Option<Bind>,
    /// Whether the path loses large packets, so that segments are small.
    pub is_narrow: Arc<AtomicBool>,
}

impl Reach {
    /// A connection to the host.
    pub async fn connect(&self, peer: Peer, host: &str, port: u16, stage: &Stage) -> Result<TcpStream, DialError> {
        let addresses = self.resolve(peer, host, port, stage).await?;
        stage.set(peer, Layer::Tcp);
        let stream = self.race(peer, addresses).await?;
        stage.connected(tcp::Connection::of(&stream));
        Ok(stream)
    }

    /// What becomes of a connection to each of the addresses, all at a time: how long it took, or why there is none.
    pub async fn survey(&self, addresses: Vec<SocketAddr>) -> Vec<(SocketAddr, io::Result<Duration>)> {
        let attempts = addresses.into_iter().map(|address| async move {
            let begun = Instant::now();
            let attempt = tokio::time::timeout(self.deadline, connect(address, self.bind.as_ref(), false)).await;
            let attempt = attempt.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            (address, attempt.map(|_| begun.elapsed()))
        });
        futures_util::future::join_all(attempts).await
    }

    /// The host's addresses, in the order in which they are to be tried.
    pub async fn resolve(&self, peer: Peer, host: &str, port: u16, stage: &Stage) -> Result<Vec<SocketAddr>, DialError> {
        stage.set(peer, Layer::Name);
        let failed = |reason: String| DialError::Name { peer, host: host.to_owned(), reason };
        let found = lookup_host((host, port)).await.map_err(|error| failed(error.to_string()))?;
        let fits = |address: &SocketAddr| match &self.bind {
            Some(Bind::Address(from)) => from.is_ipv6() == address.is_ipv6(),
            _ => true,
        };
        let (addresses, others): (Vec<_>, Vec<_>) = found.partition(fits);
        match (addresses.is_empty(), others.is_empty()) {
            (true, true) => Err(failed("it has no address".to_owned())),
            (true, false) => Err(failed("it has no address of the family of `bind_address`".to_owned())),
            (false, _) => Ok(alternate(addresses)),
        }
    }

    /// The first connection that stands. Addresses are tried one after the other, and the next one already when one has not answered for
    /// a moment.
    pub async fn race(&self, peer: Peer, addresses: Vec<SocketAddr>) -> Result<TcpStream, DialError> {
        let mut waiting = addresses.into_iter();
        let mut running = JoinSet::new();
        let mut attempts = Vec::new();
        let is_narrow = self.is_narrow.load(Ordering::Relaxed);
        loop {
            match waiting.next() {
                Some(address) => {
                    let bind = self.bind.clone();
                    running.spawn(async move { (address, connect(address, bind.as_ref(), is_narrow).await) });
                }
                None if running.is_empty() => return Err(DialError::Connect { peer, attempts }),
                None => {}
            }
            let patience = if waiting.len() > 0 { self.stagger } else { self.deadline };
            match tokio::time::timeout(patience, running.join_next()).await {
                Ok(Some(Ok((_, Ok(stream))))) => {
                    // Without its options a connection still works.
                    let _ = tcp::prepare(&stream);
                    return Ok(stream);
                }
                Ok(Some(Ok((address, Err(error))))) => attempts.push((address, error)),
                Ok(Some(Err(_)) | None) | Err(_) => {}
            }
        }
    }
}

async fn connect(address: SocketAddr, bind: Option<&Bind>, is_narrow: bool) -> io::Result<TcpStream> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    if is_narrow {
        tcp::limit_segments(&socket);
    }
    let Some(bind) = bind else { return socket.connect(address).await };
    let (bound, from) = match bind {
        Bind::Address(from) => (socket.bind(SocketAddr::new(*from, 0)), from.to_string()),
        Bind::Interface(name) => (bind_to(&socket, name), name.clone()),
    };
    bound.map_err(|error| io::Error::new(error.kind(), NoSuchPlace { from, error }))?;
    socket.connect(address).await
}

/// It cannot be dialled from there.
#[derive(Debug, thiserror::Error)]
#[error("not from {from}: {error}")]
pub(super) struct NoSuchPlace {
    from: String,
    error: io::Error,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn bind_to(socket: &TcpSocket, interface: &str) -> io::Result<()> {
    SockRef::from(socket).bind_device(Some(interface.as_bytes()))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn bind_to(_: &TcpSocket, _: &str) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system dials from addresses only: write one in `bind_address`"))
}

/// The families take turns, beginning with that of the resolver's first answer: a dead one costs one wait, not all.
pub(super) fn alternate(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    first.reverse();
    second.reverse();
    let mut alternated = Vec::new();
    while !(first.is_empty() && second.is_empty()) {
        alternated.extend(first.pop());
        alternated.extend(second.pop());
    }
    alternated
}
