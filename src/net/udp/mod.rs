//! UDP sockets: many datagrams in one system call where the platform can (recvmmsg, and segmentation
//! offload in both directions), and the local address of each datagram.
//!
//! ```text
//!  recv ◄── receive: splits what the kernel has joined
//!  send ──► transmit: joins equal datagrams, else sends one by one
//! ```

mod receive;
mod transmit;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use bytes::Bytes;
use quinn_udp::UdpSocketState;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{io::Interest, net::UdpSocket};

pub use self::receive::ReceivedDatagram;
use super::{file_limit, tcp::ListenerAddress};

/// The buffers that the kernel is asked for. It grants less, unless the operator has raised its
/// limit. They bridge the moments in which no task reads: 20 ms at 800 Mbit/s.
const KERNEL_BUFFER: usize = 2 * 1024 * 1024;

/// A UDP socket.
#[derive(Debug)]
pub struct DatagramSocket {
    io: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    /// The only peer of a connected socket.
    peer: Option<SocketAddr>,
}

/// A fault that the system reports about a peer, or about one datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatagramFault {
    /// No program has the port of the peer (ICMP port unreachable).
    Refused,
    /// The peer's host or network cannot be reached.
    Unreachable,
    /// The datagram is too long for the path.
    TooLong,
    /// Another error, such as a full queue or a firewall of this machine.
    Other,
}

impl DatagramFault {
    /// Returns the meaning of an error of a socket.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        use io::ErrorKind::{
            ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable,
        };
        match error.kind() {
            // Windows reports a reset.
            ConnectionRefused | ConnectionReset => Self::Refused,
            HostUnreachable | NetworkUnreachable => Self::Unreachable,
            _ if quinn_udp::is_msg_size_err(error) => Self::TooLong,
            _ => Self::Other,
        }
    }

    /// Returns whether the peer will not receive other datagrams either.
    #[must_use]
    pub fn is_about_peer(self) -> bool {
        matches!(self, Self::Refused | Self::Unreachable)
    }
}

/// The outcome of sending datagrams.
#[derive(Debug, Default)]
pub struct SendSummary {
    /// How many the system did not take.
    pub dropped: u64,
    /// The last error.
    pub error: Option<io::Error>,
}

impl SendSummary {
    fn fail(&mut self, datagrams: usize, error: io::Error) {
        self.dropped = self.dropped.saturating_add(datagrams as u64);
        self.error = Some(error);
    }
}

impl DatagramSocket {
    /// Opens a socket at `address`, one of `all` addresses at which the process listens.
    ///
    /// # Errors
    /// If the address is in use, or not an address of this machine.
    pub fn bind(address: SocketAddr, all: &[SocketAddr]) -> io::Result<Self> {
        let socket = new_socket(address)?;
        if address.is_ipv6() {
            socket.set_only_v6(ListenerAddress::new(address, all).is_only_v6())?;
        }
        socket.bind(&address.into())?;
        Self::new(socket, None)
    }

    /// Opens a socket that exchanges datagrams with `peer` alone. Leaves the descriptors that are
    /// reserved for links.
    ///
    /// # Errors
    /// If no descriptor is free, or there is no route to the peer.
    pub fn connect(peer: SocketAddr) -> io::Result<Self> {
        file_limit::check_available()?;
        let socket = new_socket(peer)?;
        socket.connect(&peer.into())?;
        let socket = Self::new(socket, Some(peer))?;
        file_limit::record_datagram_socket(&socket.io);
        Ok(socket)
    }

    fn new(socket: Socket, peer: Option<SocketAddr>) -> io::Result<Self> {
        // Best effort: the system may have other limits.
        let _ = socket.set_recv_buffer_size(KERNEL_BUFFER);
        let _ = socket.set_send_buffer_size(KERNEL_BUFFER);
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?;
        let local = local
            .as_socket()
            .ok_or_else(|| io::Error::other("the socket has no IP address"))?;
        let state = socket_state(&socket, local)?;
        Ok(DatagramSocket {
            io: UdpSocket::from_std(socket.into())?,
            state,
            local,
            peer,
        })
    }

    /// Returns the local address, with the port that the system chose.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Waits for datagrams, and appends those that have arrived.
    ///
    /// # Errors
    /// The error of the system. [`DatagramFault`] tells whether it is about the peer.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn recv(&self, datagrams: &mut Vec<ReceivedDatagram>) -> io::Result<()> {
        let receive = || receive::receive(&self.state, &self.io, datagrams);
        // An ICMP error alone does not make a socket readable on Linux.
        let interest = Interest::READABLE.add(Interest::ERROR);
        self.io.async_io(interest, receive).await
    }

    /// Sends datagrams to `address`, from `local_ip` if the socket has no address itself. An error
    /// that is about one datagram does not keep the others back.
    ///
    /// # Cancel safety
    /// Some datagrams may have been sent when the future is dropped.
    pub async fn send_to(
        &self,
        address: SocketAddr,
        local_ip: Option<IpAddr>,
        datagrams: &[Bytes],
    ) -> SendSummary {
        let is_usable = |ip: &IpAddr| self.local.ip().is_unspecified() && !is_of_many(*ip);
        let local_ip = local_ip.filter(is_usable);
        self.transmit_all(address, local_ip, datagrams).await
    }

    /// Sends datagrams to the peer of a connected socket, as [`DatagramSocket::send_to`] does.
    ///
    /// # Cancel safety
    /// Some datagrams may have been sent when the future is dropped.
    pub async fn send(&self, datagrams: &[Bytes]) -> SendSummary {
        match self.peer {
            Some(peer) => self.transmit_all(peer, None, datagrams).await,
            None => SendSummary {
                dropped: datagrams.len() as u64,
                error: Some(io::ErrorKind::NotConnected.into()),
            },
        }
    }
}

/// Returns whether an address belongs to several machines, so that none can send from it.
fn is_of_many(address: IpAddr) -> bool {
    address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )
}

/// Prepares a socket for batches. The library forbids fragments, as QUIC needs. The datagrams of
/// other protocols may be longer than a packet, so the system must be able to fragment them.
fn socket_state(socket: &Socket, local: SocketAddr) -> io::Result<UdpSocketState> {
    let can_revoke = cfg!(any(target_os = "linux", target_os = "android")) && local.is_ipv4();
    if can_revoke || local.ip().is_unspecified() {
        let state = UdpSocketState::new(socket.into())?;
        allow_fragments(socket);
        return Ok(state);
    }
    // No safe interface revokes the option of IPv6. It is set at another socket, as are those that
    // tell the local address and join datagrams: a socket with an address needs only the latter, and
    // works without. A wildcard socket keeps all options: it refuses datagrams that are longer than
    // the path takes.
    let unused = new_socket(local)?;
    UdpSocketState::new((&unused).into())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn allow_fragments(socket: &Socket) {
    use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
    // The default of the system. A failure concerns datagrams that are longer than a packet.
    let _ = set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::WANT);
}

/// Does nothing: this system has no such option.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn allow_fragments(_: &Socket) {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    /// Receives this many datagrams.
    async fn receive(socket: &DatagramSocket, count: usize) -> Vec<ReceivedDatagram> {
        let mut datagrams = Vec::new();
        let receiving = async {
            while datagrams.len() < count {
                socket.recv(&mut datagrams).await.expect("received");
            }
        };
        tokio::time::timeout(Duration::from_secs(10), receiving)
            .await
            .expect("in time");
        datagrams
    }

    fn lengths(datagrams: &[ReceivedDatagram]) -> Vec<usize> {
        datagrams.iter().map(|one| one.bytes.len()).collect()
    }

    #[tokio::test]
    async fn datagrams_of_every_length_keep_their_boundaries_in_both_directions() {
        let service = DatagramSocket::bind(loopback(), &[]).expect("bound");
        let client = DatagramSocket::connect(service.local_addr()).expect("connected");
        for sizes in [
            vec![0, 1, 0],
            vec![1200; 60],
            vec![1200, 1200, 7, 1200, 1300],
            vec![65_507, 1_472, 65_507],
        ] {
            let sent: Vec<Bytes> = sizes
                .iter()
                .enumerate()
                .map(|(number, size)| Bytes::from(vec![number as u8; *size]))
                .collect();
            let summary = client.send(&sent).await;
            assert_eq!(summary.dropped, 0, "{:?}", summary.error);
            let arrived = receive(&service, sizes.len()).await;
            assert_eq!(lengths(&arrived), sizes);
            let source = client.local_addr();
            for (datagram, sent) in arrived.iter().zip(&sent) {
                assert_eq!((datagram.source, &datagram.bytes), (source, sent));
            }
            let answered = service.send_to(source, None, &sent).await;
            assert_eq!(answered.dropped, 0, "{:?}", answered.error);
            assert_eq!(lengths(&receive(&client, sizes.len()).await), sizes);
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_wildcard_socket_answers_from_the_address_that_was_asked() {
        let wildcard = SocketAddr::from(([0, 0, 0, 0], 0));
        let service = DatagramSocket::bind(wildcard, &[]).expect("bound");
        let asked = SocketAddr::from(([127, 0, 0, 7], service.local_addr().port()));
        // A connected socket receives nothing from another address.
        let client = DatagramSocket::connect(asked).expect("connected");
        client.send(&[Bytes::from_static(b"question")]).await;
        let question = receive(&service, 1).await.remove(0);
        assert_eq!(question.local_ip, Some(asked.ip()));
        let answer = [Bytes::from_static(b"answer")];
        let summary = service
            .send_to(question.source, question.local_ip, &answer)
            .await;
        assert_eq!(summary.dropped, 0, "{:?}", summary.error);
        assert_eq!(receive(&client, 1).await.remove(0).bytes, "answer");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_broadcast_is_answered_from_an_address_of_this_machine() {
        let wildcard = SocketAddr::from(([0, 0, 0, 0], 0));
        let service = DatagramSocket::bind(wildcard, &[]).expect("bound");
        let port = service.local_addr().port();
        let client = UdpSocket::bind(loopback()).await.expect("bound");
        client.set_broadcast(true).expect("allowed");
        let all = SocketAddr::from(([127, 255, 255, 255], port));
        client.send_to(b"question", all).await.expect("sent");
        let question = receive(&service, 1).await.remove(0);
        assert_eq!(question.local_ip, Some(all.ip()));
        let limited = Some(IpAddr::V4(Ipv4Addr::BROADCAST));
        for local_ip in [question.local_ip, limited] {
            let answer = [Bytes::from_static(b"answer")];
            let summary = service.send_to(question.source, local_ip, &answer).await;
            assert_eq!(summary.dropped, 0, "{:?}", summary.error);
            let mut content = [0; 16];
            let answered = client.recv_from(&mut content);
            let answered = tokio::time::timeout(Duration::from_secs(10), answered).await;
            let (length, source) = answered.expect("in time").expect("received");
            assert_eq!(&content[..length], b"answer");
            assert_eq!(source, SocketAddr::from(([127, 0, 0, 1], port)));
        }
    }

    #[tokio::test]
    async fn a_datagram_beyond_the_limit_of_udp_is_dropped_alone() {
        let service = DatagramSocket::bind(loopback(), &[]).expect("bound");
        let client = DatagramSocket::connect(service.local_addr()).expect("connected");
        let sent = [vec![1; 10], vec![2; 65_508], vec![3; 20]].map(Bytes::from);
        let summary = client.send(&sent).await;
        assert_eq!(summary.dropped, 1);
        let fault = summary.error.as_ref().map(DatagramFault::of);
        assert_eq!(fault, Some(DatagramFault::TooLong));
        assert_eq!(lengths(&receive(&service, 2).await), [10, 20]);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_closed_port_refuses() {
        let closed = DatagramSocket::bind(loopback(), &[])
            .expect("bound")
            .local_addr();
        let client = DatagramSocket::connect(closed).expect("connected");
        client.send(&[Bytes::from_static(b"lost")]).await;
        let refused = client.recv(&mut Vec::new()).await.expect_err("refused");
        assert_eq!(DatagramFault::of(&refused), DatagramFault::Refused);
        assert!(DatagramFault::of(&refused).is_about_peer());
    }

    #[tokio::test]
    async fn a_second_socket_at_an_address_is_an_error() {
        let first = DatagramSocket::bind(loopback(), &[]).expect("bound");
        let error = DatagramSocket::bind(first.local_addr(), &[]).expect_err("in use");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(DatagramFault::of(&error), DatagramFault::Other);
    }
}
