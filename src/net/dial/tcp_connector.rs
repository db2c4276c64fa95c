//! Connects to a master or a proxy over TCP, from the configured local address or interface.

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
use tokio::net::{TcpSocket, TcpStream};

use super::{
    address_spread::prefer_unused,
    error::DialError,
    step::{DialPeer, DialStep},
    trace::{DialEvent, DialProgress},
};
use crate::net::{
    congestion_control::LinkCongestionControl,
    connect::{ConnectFault, alternate, race, shuffle_within_families},
    resolve::{NameError, resolve},
    tcp,
};

/// The local end of outgoing connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bind {
    /// Dials from this address, and only to addresses of its family.
    Address(IpAddr),
    /// Dials through this interface.
    Interface(String),
}

impl Bind {
    /// Checks whether a socket can be bound here now. Connects to nothing.
    ///
    /// # Errors
    /// The system's error; [`io::ErrorKind::Unsupported`] if this system cannot bind to interfaces.
    pub fn check_bindable(&self) -> io::Result<()> {
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

/// Opens TCP connections to a host.
#[derive(Debug, Clone)]
pub(super) struct TcpConnector {
    pub stagger: Duration,
    pub deadline: Duration,
    pub bind: Option<Bind>,
    pub congestion_control: LinkCongestionControl,
    /// Whether to limit the segment size, because the path drops large packets.
    pub small_segments: Arc<AtomicBool>,
}

impl TcpConnector {
    /// Resolves the host and connects to one of its addresses, if possible to none of `used`.
    pub(super) async fn connect(
        &self,
        peer: DialPeer,
        host: &str,
        port: u16,
        used: &[IpAddr],
        progress: &DialProgress<'_>,
    ) -> Result<TcpStream, DialError> {
        let found = self.resolve(peer, host, port, progress).await?;
        let addresses = prefer_unused(found, used);
        progress.begin(peer, DialStep::Tcp);
        let stream = self.race(peer, addresses, progress).await?;
        let congestion_control = self.congestion_control.apply(&stream);
        progress.connected(&stream, congestion_control);
        Ok(stream)
    }

    /// Connects to one address within the deadline.
    pub(super) async fn connect_to(&self, address: SocketAddr) -> Result<TcpStream, ConnectFault> {
        let attempt = connect(address, self.bind.as_ref(), false);
        tokio::time::timeout(self.deadline, attempt)
            .await
            .unwrap_or(Err(ConnectFault::NoAnswer))
    }

    /// Resolves the host and returns its addresses in the order in which to try them: the families
    /// alternate, and the order within a family is random.
    pub(super) async fn resolve(
        &self,
        peer: DialPeer,
        host: &str,
        port: u16,
        progress: &DialProgress<'_>,
    ) -> Result<Vec<SocketAddr>, DialError> {
        progress.begin(peer, DialStep::Name);
        let failed = |source| DialError::Name {
            peer,
            host: host.to_owned(),
            source,
        };
        let found = resolve(host, port).await.map_err(failed)?;
        let fits = |address: &SocketAddr| match &self.bind {
            Some(Bind::Address(from)) => from.is_ipv6() == address.is_ipv6(),
            _ => true,
        };
        let addresses: Vec<_> = found.into_iter().filter(fits).collect();
        if addresses.is_empty() {
            return Err(failed(NameError::WrongFamily));
        }
        let addresses = alternate(shuffle_within_families(
            &addresses,
            &mut fastrand::Rng::new(),
        ));
        progress.record(DialEvent::Resolved(&addresses));
        Ok(addresses)
    }

    /// Races the addresses and returns the first established connection.
    pub(super) async fn race(
        &self,
        peer: DialPeer,
        addresses: Vec<SocketAddr>,
        progress: &DialProgress<'_>,
    ) -> Result<TcpStream, DialError> {
        let small_segments = self.small_segments.load(Ordering::Relaxed);
        let connecting = |address| {
            progress.record(DialEvent::Connecting(address));
            let bind = self.bind.clone();
            async move { connect(address, bind.as_ref(), small_segments).await }
        };
        let stream = race(addresses, self.stagger, connecting)
            .await
            .map_err(|attempts| DialError::Connect { peer, attempts })?;
        // The connection works without these options.
        let _ = tcp::set_link_options(&stream);
        Ok(stream)
    }
}

async fn connect(
    address: SocketAddr,
    bind: Option<&Bind>,
    small_segments: bool,
) -> Result<TcpStream, ConnectFault> {
    let socket = if address.is_ipv6() {
        TcpSocket::new_v6()?
    } else {
        TcpSocket::new_v4()?
    };
    if small_segments {
        tcp::limit_segments(&socket);
    }
    let Some(bind) = bind else {
        return Ok(socket.connect(address).await?);
    };
    bind.apply(&socket).map_err(|error| ConnectFault::Bind {
        from: bind.to_string(),
        error,
    })?;
    Ok(socket.connect(address).await?)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn bind_to(socket: &TcpSocket, interface: &str) -> io::Result<()> {
    SockRef::from(socket).bind_device(Some(interface.as_bytes()))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn bind_to(_: &TcpSocket, _: &str) -> io::Result<()> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "this system cannot bind to an interface: write an address in `bind_address`",
    ))
}
