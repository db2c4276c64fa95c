//! Detects local connections whose application has closed them in both directions.
//!
//! TCP does not tell: the peer of a closed socket sees an end of file, as after a half-close. On
//! Linux the table of TCP sockets does tell, if the application runs on this machine: a socket that
//! no process owns has no inode there. A unix socket does tell.

use std::net::{IpAddr, SocketAddr};

use tokio::{net::TcpStream, time::Instant};

use crate::net::local_stream::LocalStream;

/// The local sockets that have sent FIN and belong to no process, as of the last read of the table.
#[derive(Default)]
pub(super) struct Orphans {
    #[cfg(target_os = "linux")]
    table: tokio::sync::Mutex<Option<linux::Table>>,
}

impl Orphans {
    /// Returns whether the peer of this connection is such a socket, or has closed its unix socket.
    /// `accepted` is when the connection was accepted. Returns `false` where this cannot be detected: on other systems,
    /// and for applications on other machines.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn has_peer_of(&self, socket: &LocalStream, accepted: Instant) -> bool {
        if let Some(is_closed) = socket.is_closed_by_peer().await {
            return is_closed;
        }
        let Some((peer, own)) = socket.tcp().and_then(local_pair) else {
            return false;
        };
        self.has(peer, own, accepted).await
    }

    #[cfg(target_os = "linux")]
    async fn has(&self, peer: SocketAddr, own: SocketAddr, accepted: Instant) -> bool {
        let mut table = self.table.lock().await;
        if table.as_ref().is_none_or(|table| !table.is_fresh(accepted)) {
            let read_at = Instant::now();
            // The table is long on a machine with many connections, so read it off the runtime
            // threads.
            let sockets = tokio::task::spawn_blocking(linux::orphans)
                .await
                .unwrap_or_default();
            *table = Some(linux::Table {
                read_at,
                took: read_at.elapsed(),
                sockets,
            });
        }
        table
            .as_ref()
            .is_some_and(|table| table.sockets.contains(&(peer, own)))
    }

    #[cfg(not(target_os = "linux"))]
    async fn has(&self, _peer: SocketAddr, _own: SocketAddr, _accepted: Instant) -> bool {
        false
    }
}

/// Returns the addresses of both ends, the peer's first, if the peer is on this machine.
fn local_pair(socket: &TcpStream) -> Option<(SocketAddr, SocketAddr)> {
    // An IPv6 listener reports IPv4 peers as mapped addresses.
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (peer, own) = (
        canonical(socket.peer_addr().ok()?),
        canonical(socket.local_addr().ok()?),
    );
    (peer.ip().is_loopback() || peer.ip() == own.ip()).then_some((peer, own))
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        collections::HashSet,
        fs::File,
        io::{BufRead as _, BufReader},
        net::{Ipv4Addr, Ipv6Addr},
        time::Duration,
    };

    use super::{Instant, IpAddr, SocketAddr};
    use crate::tcp_table::{IPV4, IPV6, TcpTableEntry};

    /// How long one table serves the connections of a batch. Long tables, which take longer to
    /// read, serve longer.
    const FRESH: Duration = Duration::from_millis(200);

    /// FIN_WAIT1 and FIN_WAIT2: the application's socket has sent FIN, and this end, which holds
    /// the connection, has not.
    const HAS_ENDED: [&str; 2] = ["04", "05"];

    pub(super) struct Table {
        pub read_at: Instant,
        pub took: Duration,
        /// The own and peer addresses of the sockets.
        pub sockets: HashSet<(SocketAddr, SocketAddr)>,
    }

    impl Table {
        /// Returns whether the table is recent and newer than the connection. An older table may
        /// describe a previous connection between the same ports.
        pub(super) fn is_fresh(&self, accepted: Instant) -> bool {
            self.read_at > accepted && self.read_at.elapsed() < FRESH + self.took * 5
        }
    }

    /// Reads all orphaned sockets. Unreadable lines and files are skipped.
    pub(super) fn orphans() -> HashSet<(SocketAddr, SocketAddr)> {
        let files = [IPV4, IPV6]
            .into_iter()
            .filter_map(|file| File::open(file).ok());
        let lines = files.flat_map(|file| {
            BufReader::with_capacity(64 * 1024, file)
                .lines()
                .map_while(Result::ok)
        });
        lines.filter_map(|line| orphan(&line)).collect()
    }

    /// Parses a line. Returns the addresses of a socket that has sent FIN and has no inode.
    pub(super) fn orphan(line: &str) -> Option<(SocketAddr, SocketAddr)> {
        let TcpTableEntry {
            local: own,
            peer,
            state,
            inode,
            ..
        } = TcpTableEntry::read(line)?;
        (HAS_ENDED.contains(&state) && inode == "0").then_some((address(own)?, address(peer)?))
    }

    /// Parses an address as the kernel prints it: 32-bit words in hexadecimal, each in native byte
    /// order.
    fn address(text: &str) -> Option<SocketAddr> {
        let (ip, port) = text.split_once(':')?;
        let word = |index: usize| {
            let digits = ip.get(index.checked_mul(8)?..)?.get(..8)?;
            Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
        };
        let ip = match ip.len() {
            8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
            32 => {
                let words = [word(0)?, word(1)?, word(2)?, word(3)?];
                let bytes: [u8; 16] = words.concat().try_into().ok()?;
                IpAddr::V6(Ipv6Addr::from(bytes))
            }
            _ => return None,
        };
        Some(SocketAddr::new(
            ip.to_canonical(),
            u16::from_str_radix(port, 16).ok()?,
        ))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{
        io::Write as _,
        net::{Shutdown, TcpStream as Application},
        time::Duration,
    };

    use tokio::net::TcpListener;

    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn a_table_line_is_parsed() {
        let line = |state: &str, inode: &str| {
            format!(
                "  12: 0100007F:C350 0200007F:1770 {state} 00000000:00000000 00:00000000 00000000  1000        0 {inode} 1 0000000000000000"
            )
        };
        let pair =
            |own: &str, peer: &str| Some((own.parse().expect(own), peer.parse().expect(peer)));
        assert_eq!(
            linux::orphan(&line("05", "0")),
            pair("127.0.0.1:50000", "127.0.0.2:6000")
        );
        assert_eq!(
            linux::orphan(&line("04", "0")),
            pair("127.0.0.1:50000", "127.0.0.2:6000")
        );
        for (state, inode) in [("05", "17957"), ("01", "17957"), ("06", "0"), ("09", "0")] {
            assert_eq!(linux::orphan(&line(state, inode)), None, "{state} {inode}");
        }
        let long = line("05", "0")
            .replace("0100007F:", "00000000000000000000000001000000:")
            .replace("0200007F:", "0000000000000000FFFF00000200007F:");
        assert_eq!(linux::orphan(&long), pair("[::1]:50000", "127.0.0.2:6000"));
        for bad in [
            "",
            "  sl  local_address rem_address   st",
            "a b c d",
            &line("05", "0").replace("7F:", "7:"),
        ] {
            assert_eq!(linux::orphan(bad), None, "{bad}");
        }
    }

    /// Waits until the socket's peer is an orphan. A table may be reused for a while.
    async fn becomes_orphan(orphans: &Orphans, socket: &LocalStream, accepted: Instant) {
        let seen = async {
            while !orphans.has_peer_of(socket, accepted).await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), seen)
            .await
            .expect("the application has closed it");
    }

    #[tokio::test]
    async fn a_closed_application_is_distinguished_from_a_half_closed_one() {
        for listening in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(listening).await else {
                assert_ne!(listening, "127.0.0.1:0", "only IPv6 may be missing");
                continue;
            };
            let mut address = listener.local_addr().expect("an address");
            if address.ip().is_unspecified() {
                address.set_ip([127, 0, 0, 1].into());
            }
            let mut accepted = Vec::new();
            for _ in 0..4 {
                let mut application = Application::connect(address).expect("connects");
                application.write_all(b"unread").expect("sent");
                accepted.push((
                    application,
                    LocalStream::from(listener.accept().await.expect("the connection").0),
                    Instant::now(),
                ));
            }
            let mut there = accepted.split_off(1);
            let (closing, closed, since) = accepted.remove(0);
            there[1].0.shutdown(Shutdown::Write).expect("half-closed");
            let orphans = Orphans::default();
            assert!(!orphans.has_peer_of(&closed, since).await, "it is open");
            drop(closing);
            becomes_orphan(&orphans, &closed, since).await;
            for (_, socket, since) in &there {
                assert!(!orphans.has_peer_of(socket, *since).await, "{listening}");
            }
            // A socket that is closed after its half-close.
            let (application, socket, since) = there.remove(1);
            drop(application);
            becomes_orphan(&orphans, &socket, since).await;
        }
    }
}
