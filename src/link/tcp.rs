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
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3));
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
pub const BLACK_HOLE_CAUSE: &str = "the path drops large packets and does not say so (an MTU black hole)";

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

/// The two addresses of a connection, by which the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Here.
    pub local: SocketAddr,
    /// There.
    pub peer: SocketAddr,
}

/// A connection is stuck when its oldest bytes have been sent again at least this many times without effect.
const STUCK_RETRANSMISSIONS: u32 = 2;

impl Connection {
    /// That of a stream, while it is connected.
    #[must_use]
    pub fn of(stream: &TcpStream) -> Option<Self> {
        Some(Connection { local: stream.local_addr().ok()?, peer: stream.peer_addr().ok()? })
    }

    /// Whether the kernel sends the oldest bytes again and again, and the peer does not acknowledge them. Known on Linux alone; reads a file of
    /// /proc, so it is for rare moments.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        let file = if self.local.is_ipv4() { "/proc/self/net/tcp" } else { "/proc/self/net/tcp6" };
        std::fs::read_to_string(file).is_ok_and(|table| self.is_stuck_in(&table))
    }

    /// The same, by the lines of that file.
    fn is_stuck_in(&self, table: &str) -> bool {
        let (local, peer) = (in_proc(self.local), in_proc(self.peer));
        let number = |text: Option<&str>| text.and_then(|text| u32::from_str_radix(text, 16).ok()).unwrap_or_default();
        table.lines().any(|line| {
            // Number, local and remote address, state, queues, timer, retransmissions.
            let fields: Vec<&str> = line.split_whitespace().take(7).collect();
            let &[_, here, there, _, queues, _, retransmissions] = fields.as_slice() else { return false };
            let unacknowledged = number(queues.split(':').next());
            here == local && there == peer && unacknowledged > 0 && number(Some(retransmissions)) >= STUCK_RETRANSMISSIONS
        })
    }
}

/// An address as the kernel writes it in /proc: words of 32 bits in the byte order of the machine.
fn in_proc(address: SocketAddr) -> String {
    let words = |octets: &[u8]| -> String {
        octets.as_chunks().0.iter().map(|word| format!("{:08X}", u32::from_ne_bytes(*word))).collect()
    };
    match address {
        SocketAddr::V4(address) => format!("{}:{:04X}", words(&address.ip().octets()), address.port()),
        SocketAddr::V6(address) => format!("{}:{:04X}", words(&address.ip().octets()), address.port()),
    }
}

/// A listener at `address`. An IPv6 wildcard takes IPv4 too, unless an IPv4 address with its port is among `all`.
///
/// # Errors
/// When the address is in use, or not of this machine.
pub fn listen(address: SocketAddr, all: &[SocketAddr]) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        let beside = all.iter().any(|other| other.is_ipv4() && other.port() == address.port());
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
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn a_connection_that_sends_the_same_bytes_again_is_stuck() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:A8E3 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 543980 1
   1: 026433C6:A8E4 017100CB:01BB 01 00001F40:00000000 01:00000200 00000005     0        0 543981 1
   2: 026433C6:A8E5 017100CB:01BB 01 00001F40:00000000 01:00000200 00000001     0        0 543982 1
   3: 026433C6:A8E6 017100CB:01BB 01 00000000:00000000 01:00000200 00000005     0        0 543983 1
";
        let stuck = |port| {
            let local = SocketAddr::from(([198, 51, 100, 2], port));
            Connection { local, peer: SocketAddr::from(([203, 0, 113, 1], 443)) }.is_stuck_in(table)
        };
        assert!(stuck(0xa8e4));
        assert!(!stuck(0xa8e5), "once is a loss");
        assert!(!stuck(0xa8e6), "nothing waits");
        assert!(!stuck(0xa8e7), "it is not there");
        assert_eq!(in_proc("[2001:db8::1]:443".parse().unwrap()), "B80D0120000000000000000001000000:01BB");
    }

    #[tokio::test]
    async fn a_connection_that_works_is_not_stuck() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(!Connection::of(&stream).unwrap().is_stuck());
    }
}
