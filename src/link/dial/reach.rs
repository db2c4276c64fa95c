//! From the host of a master or a proxy to a TCP connection, from where we are to dial.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::Instant,
};

use super::{
    error::{DialError, Peer},
    stage::{Layer, Stage},
};
use crate::{
    link::{
        connect::{alternate, race},
        files::OutOfFiles,
        resolve::look_up,
        tcp,
    },
    tcp_table::Connection,
};

/// From where to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bind {
    /// From this address, and to addresses of its family alone.
    Address(IpAddr),
    /// Through this interface.
    Interface(String),
}

impl Bind {
    /// Whether it can be dialled from there now; connects to nothing.
    ///
    /// # Errors
    /// What the system says against it: [`io::ErrorKind::Unsupported`] where it never can.
    pub fn try_now(&self) -> io::Result<()> {
        let socket = match self {
            Bind::Address(IpAddr::V6(_)) => TcpSocket::new_v6(),
            Bind::Address(IpAddr::V4(_)) => TcpSocket::new_v4(),
            Bind::Interface(_) => TcpSocket::new_v4().or_else(|_| TcpSocket::new_v6()),
        };
        self.apply(&socket?)
    }

    fn apply(&self, socket: &TcpSocket) -> io::Result<()> {
        match self {
            Bind::Address(from) => socket.bind(SocketAddr::new(*from, 0)),
            Bind::Interface(name) => bind_to(socket, name),
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Address(from) => from.fmt(formatter),
            Bind::Interface(name) => name.fmt(formatter),
        }
    }
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
    pub async fn connect(
        &self,
        peer: Peer,
        host: &str,
        port: u16,
        stage: &Stage,
    ) -> Result<TcpStream, DialError> {
        let addresses = self.resolve(peer, host, port, stage).await?;
        stage.set(peer, Layer::Tcp);
        let stream = self.race(peer, addresses).await?;
        stage.connected(Connection::of(&stream));
        Ok(stream)
    }

    /// What becomes of a connection to each of the addresses, all at a time: how long it took, or why there is none.
    pub async fn survey(
        &self,
        addresses: Vec<SocketAddr>,
    ) -> Vec<(SocketAddr, io::Result<Duration>)> {
        let attempts = addresses.into_iter().map(|address| async move {
            let begun = Instant::now();
            let attempt =
                tokio::time::timeout(self.deadline, connect(address, self.bind.as_ref(), false))
                    .await;
            let attempt = attempt.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            (address, attempt.map(|_| begun.elapsed()))
        });
        futures_util::future::join_all(attempts).await
    }

    /// The host's addresses, in the order in which they are to be tried.
    pub async fn resolve(
        &self,
        peer: Peer,
        host: &str,
        port: u16,
        stage: &Stage,
    ) -> Result<Vec<SocketAddr>, DialError> {
        stage.set(peer, Layer::Name);
        let failed = |reason: String| DialError::Name {
            peer,
            host: host.to_owned(),
            reason,
            out_of_files: None,
        };
        let found = look_up(host, port).await.map_err(|error| {
            let out_of_files = OutOfFiles::of(&error).or_else(OutOfFiles::now);
            DialError::Name {
                peer,
                host: host.to_owned(),
                reason: error.to_string(),
                out_of_files,
            }
        })?;
        let fits = |address: &SocketAddr| match &self.bind {
            Some(Bind::Address(from)) => from.is_ipv6() == address.is_ipv6(),
            _ => true,
        };
        let (addresses, others): (Vec<_>, Vec<_>) = found.into_iter().partition(fits);
        match (addresses.is_empty(), others.is_empty()) {
            (true, true) => Err(failed("it has no address".to_owned())),
            (true, false) => Err(failed(
                "it has no address of the family of `bind_address`".to_owned(),
            )),
            (false, _) => Ok(alternate(addresses)),
        }
    }

    /// The first connection that is established.
    pub async fn race(
        &self,
        peer: Peer,
        addresses: Vec<SocketAddr>,
    ) -> Result<TcpStream, DialError> {
        let is_narrow = self.is_narrow.load(Ordering::Relaxed);
        let connecting = |address| {
            let bind = self.bind.clone();
            async move { connect(address, bind.as_ref(), is_narrow).await }
        };
        let stream = race(addresses, self.stagger, connecting)
            .await
            .map_err(|attempts| DialError::Connect { peer, attempts })?;
        // Without its options a connection still works.
        let _ = tcp::prepare(&stream);
        Ok(stream)
    }
}

async fn connect(
    address: SocketAddr,
    bind: Option<&Bind>,
    is_narrow: bool,
) -> io::Result<TcpStream> {
    let socket = if address.is_ipv6() {
        TcpSocket::new_v6()?
    } else {
        TcpSocket::new_v4()?
    };
    if is_narrow {
        tcp::limit_segments(&socket);
    }
    let Some(bind) = bind else {
        return socket.connect(address).await;
    };
    let bound = bind.apply(&socket);
    bound.map_err(|error| {
        io::Error::new(
            error.kind(),
            NoSuchPlace {
                from: bind.to_string(),
                error,
            },
        )
    })?;
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
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "this system dials from addresses only: write one in `bind_address`",
    ))
}
