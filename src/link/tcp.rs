//! TCP sockets: the options of a connection that carries a link, and the listeners of masters and clients.

use std::{io, net::SocketAddr, time::Duration};

#[cfg(unix)]
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections that the kernel holds until they are accepted: after a restart all links come back at once, and browsers come in bursts.
const BACKLOG: i32 = 4096;

/// After this long without traffic the kernel asks whether the peer is there: only of use where nothing above does, before a link is up.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Sent bytes that nobody acknowledges for this long end the connection: as long as a link waits for its peer (PROTOCOL 12, `LINK_TIMEOUT`).
const USER_TIMEOUT: Duration = Duration::from_secs(45);

/// Unsent bytes that the kernel takes before it says that the socket is full: the order of sending is decided above it, as late as can be.
const NOT_SENT_LOWAT: u32 = 128 * 1024;

/// Sets the options that a link needs on `stream`: no delay of small messages, a dead peer is noticed, a short queue in the kernel.
///
/// # Errors
/// When the kernel refuses to send small messages at once; the other options are best effort, since not every platform has them.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
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

/// The largest segment on a path that loses large packets, in bytes: with its headers it fits into the 1,280 bytes that IPv6 demands of every path.
pub const SMALL_SEGMENT: u32 = 1200;

/// What an MTU black hole is, for logs and the doctor.
pub const BLACK_HOLE_CAUSE: &str =
    "the path drops large packets and does not say so (an MTU black hole)";

/// What can be done about one.
pub const BLACK_HOLE_REMEDY: &str = "lower the MTU of this machine's network interface (1280 fits everywhere), or clamp the MSS at the router \
     (iptables -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu)";

/// Limits the segments of a connection that is to be made to [`SMALL_SEGMENT`], in both directions: the peer learns of it. Best effort.
#[cfg(unix)]
pub fn limit_segments(socket: &impl AsFd) {
    let _ = SockRef::from(socket).set_tcp_mss(SMALL_SEGMENT);
}

/// Not every system has the option.
#[cfg(not(unix))]
pub fn limit_segments<S>(_socket: &S) {}

/// A listener at `address`. An IPv6 wildcard takes IPv4 too, unless an IPv4 address with its port is among `all`.
///
/// # Errors
/// When the address is in use, or not of this machine.
pub fn listen(address: SocketAddr, all: &[SocketAddr]) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        let beside = all
            .iter()
            .any(|other| other.is_ipv4() && other.port() == address.port());
        socket.set_only_v6(beside)?;
    }
    // A restarted master takes its address back from connections in TIME_WAIT. (On Windows the option would let two processes share it.)
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Whether an error of `accept` is of one connection, whose peer was gone before it was accepted, and not of the listener.
#[must_use]
pub fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}
