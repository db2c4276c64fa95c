//! Reads TCP statistics through sock_diag, the netlink interface that `ss` uses (`man 7
//! sock_diag`). One query names one connection by its addresses. The kernel finds it in a hash
//! table, so the number of other connections does not matter.
//!
//! The kernel handles a query inside the system call that sends it. The answer is therefore ready
//! when `send` returns, and the socket never waits: a missing answer is an error. A query takes
//! some microseconds, so it may run on a thread of the async runtime.

use std::{io, net::IpAddr, sync::Once, time::Duration};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{
        ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags,
        nlas::{Nla, TcpInfo},
    },
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use tracing::debug;

use super::TcpStats;
use crate::tcp_table::TcpConnection;

/// The size of the buffer for an answer, in bytes. An answer about one connection has about 400.
const MAX_ANSWER: usize = 4096;

/// The number of datagrams to read for one query. More than one is only there if an earlier query
/// failed before it read its answer.
const MAX_DATAGRAMS: usize = 4;

/// The cookie that matches any socket (`INET_DIAG_NOCOOKIE`).
const ANY_COOKIE: [u8; 8] = [0xff; 8];

/// Reads the statistics of TCP connections in the network namespace of this process.
#[derive(Debug)]
pub struct TcpStatsReader {
    socket: Socket,
    /// The number of the latest query. Its answer has the same number.
    sequence: u32,
}

impl TcpStatsReader {
    /// Opens a reader. Returns `None` if the system does not permit it. The first error of the
    /// process is logged.
    #[must_use]
    pub fn open() -> Option<Self> {
        let opened = open_socket().inspect_err(log_first);
        opened.ok().map(|socket| TcpStatsReader {
            socket,
            sequence: 0,
        })
    }

    /// Returns the statistics of a connection, or `None` if there is no such connection or the
    /// kernel does not report them. The first error of the process is logged.
    pub fn read(&mut self, connection: &TcpConnection) -> Option<TcpStats> {
        let answer = self.query(connection).inspect_err(log_first).ok()??;
        // Without a match the kernel may return a listener at the local address.
        if answer.header.socket_id.destination_port != connection.peer.port() {
            return None;
        }
        answer.nlas.iter().find_map(|attribute| match attribute {
            Nla::TcpInfo(info) => Some(TcpStats::from(info)),
            _ => None,
        })
    }

    /// Sends a query and reads its answer. Returns `None` if there is no such connection.
    pub(super) fn query(
        &mut self,
        connection: &TcpConnection,
    ) -> io::Result<Option<Box<InetResponse>>> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&encode(connection, self.sequence), 0)?;
        for _ in 0..MAX_DATAGRAMS {
            let mut datagram = Vec::with_capacity(MAX_ANSWER);
            self.socket.recv(&mut datagram, 0)?;
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(&datagram)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            if message.header.sequence_number != self.sequence {
                continue;
            }
            return match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    Ok(Some(response))
                }
                NetlinkPayload::Error(error) => match error.to_io() {
                    error if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    error => Err(error),
                },
                _ => Err(io::ErrorKind::InvalidData.into()),
            };
        }
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Opens a netlink socket to the kernel that does not block.
fn open_socket() -> io::Result<Socket> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.set_non_blocking(true)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Encodes the query for one connection.
fn encode(connection: &TcpConnection, sequence: u32) -> Vec<u8> {
    let (local, peer) = (connection.local.ip(), connection.peer.ip());
    // An IPv4 connection of an IPv6 socket has mapped addresses. The kernel finds it by IPv4 too.
    let (family, local, peer) = match (local.to_canonical(), peer.to_canonical()) {
        (local @ IpAddr::V4(_), peer @ IpAddr::V4(_)) => (AF_INET, local, peer),
        _ => (AF_INET6, local, peer),
    };
    let request = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::INFO,
        // A query for one socket ignores the states.
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: connection.local.port(),
            destination_port: connection.peer.port(),
            source_address: local,
            destination_address: peer,
            interface_id: connection.interface,
            cookie: ANY_COOKIE,
        },
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

impl From<&TcpInfo> for TcpStats {
    fn from(info: &TcpInfo) -> Self {
        let micros = |micros: u32| Duration::from_micros(micros.into());
        TcpStats {
            received_bytes: info.bytes_received,
            received_segments: info.data_segs_in,
            out_of_order_segments: info.rcv_ooopack,
            acknowledged_bytes: info.bytes_acked,
            sent_segments: info.data_segs_out,
            retransmitted_segments: info.total_retrans,
            not_sent_bytes: info.notsent_bytes,
            rtt: micros(info.rtt),
            // The kernel's minimum begins at the largest number.
            min_rtt: Some(info.min_rtt)
                .filter(|min| *min != u32::MAX)
                .map_or(Duration::ZERO, micros),
            delivery_rate: info.delivery_rate,
        }
    }
}

/// Logs the first error of the process. A system that lacks statistics fails each time.
fn log_first(error: &io::Error) {
    static LOGGED: Once = Once::new();
    LOGGED.call_once(|| debug!("no TCP statistics from the kernel: {error}"));
}
