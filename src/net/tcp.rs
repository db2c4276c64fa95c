//! TCP sockets: the options of link connections, and the listeners of masters and clients.

use std::{io, net::SocketAddr, time::Duration};

#[cfg(unix)]
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use super::passed_sockets;
use crate::diagnosis::{Diagnosis, DiagnosisCode};

/// The length of the accept queue. After a restart all links reconnect at once, and browsers open
/// many connections at a time.
pub const BACKLOG: i32 = 4096;

/// The idle time before the kernel sends keep-alive probes. They matter only before a link is up,
/// because a link has its own keep-alive.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The kernel ends a connection whose data stays unacknowledged for this long: the timeout of a
/// link (PROTOCOL 12, `LINK_TIMEOUT`).
const USER_TIMEOUT: Duration = Duration::from_secs(45);

/// The number of unsent bytes that the kernel accepts. It is small, because the order of sending is
/// decided above the socket, as late as possible.
const NOT_SENT_LOWAT: u32 = 128 * 1024;

/// Sets the options of a link's connection: no delay of small messages, detection of dead peers,
/// and a short send queue in the kernel.
///
/// # Errors
/// If `TCP_NODELAY` cannot be set. The other options are best effort, because not every platform
/// has them.
pub fn set_link_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE / 3),
    );
    #[cfg(any(target_os = "android", target_os = "linux"))]
    {
        let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
        let _ = socket.set_tcp_notsent_lowat(NOT_SENT_LOWAT);
    }
    Ok(())
}

/// The segment size for a path that drops large packets, in bytes. With its headers, a segment fits
/// into the 1,280 bytes that IPv6 requires of every path.
pub const SMALL_SEGMENT: u32 = 1200;

/// Returns the diagnosis of an MTU black hole, for logs and the doctor.
#[must_use]
pub fn black_hole(evidence: impl Into<String>) -> Diagnosis {
    Diagnosis::new(
        DiagnosisCode::LargeMessagesLost,
        evidence,
        "the path drops large packets without an ICMP error (an MTU black hole)",
        BLACK_HOLE_REMEDY,
    )
}

/// The remedy for an MTU black hole.
const BLACK_HOLE_REMEDY: &str = "lower the MTU of this machine's network interface (1280 fits everywhere), or clamp the MSS at the router \
     (iptables -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu)";

/// Limits the segment size of a connection to [`SMALL_SEGMENT`], before it is made. The limit
/// applies in both directions, because the handshake announces it. Best effort.
#[cfg(unix)]
pub fn limit_segments(socket: &impl AsFd) {
    let _ = SockRef::from(socket).set_tcp_mss(SMALL_SEGMENT);
}

/// Does nothing: this system lacks the option.
#[cfg(not(unix))]
pub fn limit_segments<S>(_socket: &S) {}

/// An address to listen at. An IPv6 wildcard also accepts IPv4, unless the process listens at an IPv4
/// address with the same port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerAddress {
    address: SocketAddr,
    is_only_v6: bool,
}

impl ListenerAddress {
    /// Creates one of `all` addresses at which the process listens.
    #[must_use]
    pub fn new(address: SocketAddr, all: &[SocketAddr]) -> Self {
        let mut others = all.iter();
        ListenerAddress {
            address,
            is_only_v6: address.is_ipv6()
                && others.any(|other| other.is_ipv4() && other.port() == address.port()),
        }
    }

    /// Returns all addresses at which the process listens.
    pub fn all(addresses: &[SocketAddr]) -> impl Iterator<Item = Self> {
        addresses
            .iter()
            .map(move |address| ListenerAddress::new(*address, addresses))
    }

    /// Returns the address without its relation to the others.
    #[must_use]
    pub fn socket_addr(self) -> SocketAddr {
        self.address
    }

    /// Returns whether a listener at the address leaves IPv4 to another one.
    pub(super) fn is_only_v6(self) -> bool {
        self.is_only_v6
    }

    /// Returns the port.
    #[must_use]
    pub fn port(self) -> u16 {
        self.address.port()
    }
}

/// Listens at `address`, one of `all` addresses at which the process listens. See [`listen_at`].
///
/// # Errors
/// If the address is in use, or not an address of this machine.
pub fn listen(address: SocketAddr, all: &[SocketAddr]) -> io::Result<TcpListener> {
    listen_at(ListenerAddress::new(address, all))
}

/// Listens at `address`. Takes over the listener that another process has passed for this address,
/// if there is one.
///
/// # Errors
/// If the address is in use, or not an address of this machine.
pub fn listen_at(
    ListenerAddress {
        address,
        is_only_v6,
    }: ListenerAddress,
) -> io::Result<TcpListener> {
    if let Some(passed) = passed_sockets::take_tcp(address) {
        passed.set_nonblocking(true)?;
        return TcpListener::from_std(passed);
    }
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(is_only_v6)?;
    }
    // A restarted master can bind its address despite connections in TIME_WAIT. (On Windows this
    // option would let two processes share the address.)
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Returns whether an error of `accept` concerns one connection, whose peer left before it was
/// accepted, and not the listener.
#[must_use]
pub fn is_single_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}
