//! What the kernel knows of TCP connections: whether their peers acknowledge what is sent. Known on Linux alone, from the tables in /proc.

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, sync::Mutex};

/// The two addresses of a connection, by which the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// Here.
    pub local: SocketAddr,
    /// There.
    pub peer: SocketAddr,
}

/// A connection is stuck when its oldest bytes have been sent again at least this many times without effect.
const STUCK: u32 = 2;

/// A peer has vanished that has answered none of so many retransmissions, or of so many probes of its closed window: six seconds of silence at least.
const VANISHED: u32 = 5;

/// How old the tables may be that are looked at for a peer that has vanished: with thousands of stalled connections, reading them takes time.
const FRESH: Duration = Duration::from_secs(5);

impl Connection {
    /// That of a stream, while it is connected.
    #[must_use]
    pub fn of(stream: &TcpStream) -> Option<Self> {
        Some(Connection {
            local: stream.local_addr().ok()?,
            peer: stream.peer_addr().ok()?,
        })
    }

    /// Whether the kernel sends the oldest bytes again and again, and the peer does not acknowledge them. Reads a file of /proc, so it is for rare moments.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        let file = if self.local.is_ipv4() { IPV4 } else { IPV6 };
        std::fs::read_to_string(file).is_ok_and(|table| self.is_stuck_in(&table))
    }

    /// The same, by the lines of that file.
    fn is_stuck_in(&self, table: &str) -> bool {
        let (local, peer) = self.in_proc();
        let is_this = |entry: &Entry<'_>| entry.local == local && entry.peer == peer;
        table
            .lines()
            .filter_map(Entry::read)
            .any(|entry| is_this(&entry) && entry.waits() && entry.retransmissions >= STUCK)
    }

    /// Whether data waits for the peer, and it answers neither retransmissions nor probes. An application that has stopped reading does: its
    /// system answers probes.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn has_vanished(&self) -> bool {
        static TABLE: Mutex<Option<Vanished>> = Mutex::const_new(None);
        let mut table = TABLE.lock().await;
        if table
            .as_ref()
            .is_none_or(|(read_at, _)| read_at.elapsed() > FRESH)
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
            .is_some_and(|(_, vanished)| vanished.contains(&self.in_proc()))
    }

    fn in_proc(&self) -> (String, String) {
        (in_proc(self.local), in_proc(self.peer))
    }
}

/// The connections whose peers have vanished, as the kernel writes their addresses, and when it was asked.
type Vanished = (Instant, HashSet<(String, String)>);

pub(crate) const IPV4: &str = "/proc/self/net/tcp";
pub(crate) const IPV6: &str = "/proc/self/net/tcp6";

/// A connection, as a line of a table has it.
pub(crate) struct Entry<'a> {
    pub(crate) local: &'a str,
    pub(crate) peer: &'a str,
    pub(crate) state: &'a str,
    /// Bytes that wait to be acknowledged.
    unacknowledged: u32,
    retransmissions: u32,
    probes: u32,
    /// `0` when no process has it.
    pub(crate) inode: &'a str,
}

impl<'a> Entry<'a> {
    pub(crate) fn read(line: &'a str) -> Option<Self> {
        let number = |text: &str, radix| u32::from_str_radix(text, radix).unwrap_or_default();
        // Number, local and remote address, state, queues, timer, retransmissions, user, probes, inode.
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, peer, state, queues) = (
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
        );
        let (retransmissions, probes, inode) = (fields.nth(1)?, fields.nth(1)?, fields.next()?);
        let (retransmissions, probes) = (number(retransmissions, 16), number(probes, 10));
        Some(Entry {
            local,
            peer,
            state,
            unacknowledged: number(queues.split(':').next()?, 16),
            retransmissions,
            probes,
            inode,
        })
    }

    fn waits(&self) -> bool {
        self.unacknowledged > 0
    }
}

/// The connections in a table whose peers have vanished. What cannot be read says nothing.
fn vanished(table: &io::Result<String>) -> Vec<(String, String)> {
    let entries = table
        .iter()
        .flat_map(|table| table.lines())
        .filter_map(Entry::read);
    let vanished = entries
        .filter(|entry| entry.waits() && entry.retransmissions.max(entry.probes) >= VANISHED);
    vanished
        .map(|entry| (entry.local.to_owned(), entry.peer.to_owned()))
        .collect()
}

/// An address as the kernel writes it in /proc: words of 32 bits in the byte order of the machine.
fn in_proc(address: SocketAddr) -> String {
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
    fn a_connection_that_sends_the_same_bytes_again_is_stuck_and_one_without_any_answer_has_lost_its_peer()
     {
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
            Connection {
                local,
                peer: SocketAddr::from(([203, 0, 113, 1], 443)),
            }
        };
        let stuck = |port| connection(port).is_stuck_in(table);
        assert!(stuck(0xa8e4));
        assert!(!stuck(0xa8e5), "once is a loss");
        assert!(!stuck(0xa8e6), "nothing waits");
        assert!(!stuck(0xa8e7), "it is not there");
        let found = vanished(&Ok(table.to_owned()));
        assert_eq!(
            found,
            [connection(0xa8e4).in_proc(), connection(0xa8e8).in_proc()],
            "a closed window that is answered for is none"
        );
        assert_eq!(
            in_proc("[2001:db8::1]:443".parse().unwrap()),
            "B80D0120000000000000000001000000:01BB"
        );
    }

    #[tokio::test]
    async fn a_connection_that_works_is_not_stuck() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let connection = Connection::of(&stream).unwrap();
        assert!(!connection.is_stuck() && !connection.has_vanished().await);
    }
}
