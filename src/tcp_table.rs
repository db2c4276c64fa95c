//! The kernel's view of TCP connections: whether their peers acknowledge data. Available only on
//! Linux, from the tables in /proc. Counters of one connection are in `net::tcp_stats`.

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

#[cfg(target_os = "linux")]
use std::num::NonZeroU32;

#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::{net::TcpStream, sync::Mutex};

/// A TCP connection, identified by its two addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpConnection {
    /// The local address.
    pub local: SocketAddr,
    /// The peer's address.
    pub peer: SocketAddr,
    /// The index of the interface that the local socket is bound to, or 0. The kernel finds such a
    /// connection only by its interface.
    pub interface: u32,
}

/// The number of retransmissions after which a connection counts as stuck.
const STUCK_RETRANSMISSIONS: u32 = 2;

/// The number of unanswered retransmissions, or window probes, after which a peer counts as
/// vanished: at least six seconds of silence.
const VANISHED_RETRANSMISSIONS: u32 = 5;

/// The maximum age of cached tables in the search for vanished peers. Reading the tables takes time
/// when thousands of connections are stalled.
const TABLE_MAX_AGE: Duration = Duration::from_secs(5);

impl TcpConnection {
    /// Returns the connection of a connected stream.
    #[must_use]
    pub fn of(stream: &TcpStream) -> Option<Self> {
        Some(TcpConnection {
            local: stream.local_addr().ok()?,
            peer: stream.peer_addr().ok()?,
            interface: bound_interface(stream),
        })
    }

    /// Returns whether the kernel retransmits the oldest data repeatedly without an
    /// acknowledgement. Reads a file in /proc, so call it rarely.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        let file = if self.local.is_ipv4() { IPV4 } else { IPV6 };
        std::fs::read_to_string(file).is_ok_and(|table| self.is_stuck_in(&table))
    }

    /// Evaluates the lines of that file.
    fn is_stuck_in(&self, table: &str) -> bool {
        let (local, peer) = self.proc_addresses();
        let is_this = |entry: &TcpTableEntry<'_>| entry.local == local && entry.peer == peer;
        table.lines().filter_map(TcpTableEntry::read).any(|entry| {
            is_this(&entry)
                && entry.has_unacknowledged_data()
                && entry.retransmissions >= STUCK_RETRANSMISSIONS
        })
    }

    /// Returns whether data is waiting and the peer answers neither retransmissions nor window
    /// probes. If only the application stopped reading, its system still answers probes.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn has_vanished(&self) -> bool {
        static TABLE: Mutex<Option<Vanished>> = Mutex::const_new(None);
        let mut table = TABLE.lock().await;
        if table
            .as_ref()
            .is_none_or(|(read_at, _)| read_at.elapsed() > TABLE_MAX_AGE)
        {
            let vanished = tokio::task::spawn_blocking(|| {
                [IPV4, IPV6]
                    .map(std::fs::read_to_string)
                    .iter()
                    .flat_map(vanished)
                    .collect()
            });
            *table = Some((Instant::now(), vanished.await.unwrap_or_default()));
        }
        table
            .as_ref()
            .is_some_and(|(_, vanished)| vanished.contains(&self.proc_addresses()))
    }

    fn proc_addresses(&self) -> (String, String) {
        (proc_address(self.local), proc_address(self.peer))
    }
}

/// Returns the index of the interface that a socket is bound to, or 0.
#[cfg(target_os = "linux")]
fn bound_interface(stream: &TcpStream) -> u32 {
    // On Linux the option is that of the socket, for both address families.
    let index = SockRef::from(stream).device_index_v4().ok().flatten();
    index.map_or(0, NonZeroU32::get)
}

/// Returns 0: only Linux reads statistics by interface.
#[cfg(not(target_os = "linux"))]
fn bound_interface(_: &TcpStream) -> u32 {
    0
}

/// The connections whose peers have vanished, with addresses as in /proc, and the time of the read.
type Vanished = (Instant, HashSet<(String, String)>);

pub(crate) const IPV4: &str = "/proc/self/net/tcp";
pub(crate) const IPV6: &str = "/proc/self/net/tcp6";

/// A connection in a table.
pub(crate) struct TcpTableEntry<'a> {
    pub(crate) local: &'a str,
    pub(crate) peer: &'a str,
    pub(crate) state: &'a str,
    /// The number of bytes awaiting acknowledgement.
    unacknowledged: u32,
    retransmissions: u32,
    probes: u32,
    /// `0` if no process owns the connection.
    pub(crate) inode: &'a str,
}

impl<'a> TcpTableEntry<'a> {
    pub(crate) fn read(line: &'a str) -> Option<Self> {
        let number = |text: &str, radix| u32::from_str_radix(text, radix).unwrap_or_default();
        // Number, local and remote address, state, queues, timer, retransmissions, user, probes,
        // inode.
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, peer, state, queues) = (
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
        );
        let (retransmissions, probes, inode) = (fields.nth(1)?, fields.nth(1)?, fields.next()?);
        let (retransmissions, probes) = (number(retransmissions, 16), number(probes, 10));
        Some(TcpTableEntry {
            local,
            peer,
            state,
            unacknowledged: number(queues.split(':').next()?, 16),
            retransmissions,
            probes,
            inode,
        })
    }

    fn has_unacknowledged_data(&self) -> bool {
        self.unacknowledged > 0
    }
}

/// Returns the connections in a table whose peers have vanished. Ignores lines that cannot be
/// parsed.
fn vanished(table: &io::Result<String>) -> Vec<(String, String)> {
    let entries = table
        .iter()
        .flat_map(|table| table.lines())
        .filter_map(TcpTableEntry::read);
    let vanished = entries.filter(|entry| {
        entry.has_unacknowledged_data()
            && entry.retransmissions.max(entry.probes) >= VANISHED_RETRANSMISSIONS
    });
    vanished
        .map(|entry| (entry.local.to_owned(), entry.peer.to_owned()))
        .collect()
}

/// Formats an address as in /proc: 32-bit words in the machine's byte order.
fn proc_address(address: SocketAddr) -> String {
    let words = |octets: &[u8]| -> String {
        octets
            .as_chunks()
            .0
            .iter()
            .map(|word| format!("{:08X}", u32::from_ne_bytes(*word)))
            .collect()
    };
    match address {
        SocketAddr::V4(address) => {
            format!("{}:{:04X}", words(&address.ip().octets()), address.port())
        }
        SocketAddr::V6(address) => {
            format!("{}:{:04X}", words(&address.ip().octets()), address.port())
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn retransmissions_mark_a_connection_stuck_and_silence_marks_the_peer_vanished() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:A8E3 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 543980 1
   1: 026433C6:A8E4 017100CB:01BB 01 00001F40:00000000 01:00000200 00000005     0        0 543981 1
   2: 026433C6:A8E5 017100CB:01BB 01 00001F40:00000000 01:00000200 00000001     0        0 543982 1
   3: 026433C6:A8E6 017100CB:01BB 01 00000000:00000000 01:00000200 00000005     0        0 543983 1
   4: 026433C6:A8E8 017100CB:01BB 01 00001F40:00000000 04:00000200 00000000     0        7 543984 1
   5: 026433C6:A8E9 017100CB:01BB 01 00001F40:00000000 04:00000200 00000000     0        1 543985 1
";
        let connection = |port| {
            let local = SocketAddr::from(([198, 51, 100, 2], port));
            TcpConnection {
                local,
                peer: SocketAddr::from(([203, 0, 113, 1], 443)),
                interface: 0,
            }
        };
        let stuck = |port| connection(port).is_stuck_in(table);
        assert!(stuck(0xa8e4));
        assert!(!stuck(0xa8e5), "one retransmission is ordinary loss");
        assert!(!stuck(0xa8e6), "no unacknowledged data");
        assert!(!stuck(0xa8e7), "not in the table");
        let found = vanished(&Ok(table.to_owned()));
        assert_eq!(
            found,
            [
                connection(0xa8e4).proc_addresses(),
                connection(0xa8e8).proc_addresses()
            ],
            "a closed window with answered probes does not count"
        );
        assert_eq!(
            proc_address("[2001:db8::1]:443".parse().unwrap()),
            "B80D0120000000000000000001000000:01BB"
        );
    }

    #[tokio::test]
    async fn working_connection_is_not_stuck() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let connection = TcpConnection::of(&stream).unwrap();
        assert!(!connection.is_stuck() && !connection.has_vanished().await);
    }
}
