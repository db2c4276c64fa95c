//! Sends datagrams. Those of equal length that follow one another leave in one system call, if the
//! system can split them again.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;
use quinn_udp::Transmit;
use tokio::io::Interest;

use super::{DatagramFault, DatagramSocket, SendSummary};

/// The longest datagrams that are joined. Longer ones do not fit into a packet of Ethernet, which the
/// system cannot split them into.
const JOINED_LENGTH_MAX: usize = 1_452;

/// The most bytes in one system call.
const JOINED_BYTES_MAX: usize = 65_000;

/// Whether a connected socket accepts the address of its peer in a system call.
const TAKES_PEER: bool = cfg!(any(target_os = "linux", target_os = "android"));

impl DatagramSocket {
    /// Sends datagrams one after another.
    pub(super) async fn transmit_all(
        &self,
        address: SocketAddr,
        local_ip: Option<IpAddr>,
        mut datagrams: &[Bytes],
    ) -> SendSummary {
        let mut summary = SendSummary::default();
        if address.port() == 0 {
            // Only forged sources have no port. The error of Linux would look as if it could not split
            // joined datagrams, and the socket would join none again.
            summary.fail(datagrams.len(), io::ErrorKind::AddrNotAvailable.into());
            return summary;
        }
        let mut joined = Vec::new();
        while let Some(first) = datagrams.first() {
            let (batch, rest) = datagrams.split_at(joinable(datagrams, self.joined_max()));
            datagrams = rest;
            if batch.len() > 1 {
                joined.clear();
                batch.iter().for_each(|one| joined.extend_from_slice(one));
                let transmit = transmit(address, local_ip, &joined, Some(first.len()));
                match self.transmit(&transmit).await {
                    Ok(()) => continue,
                    Err(error) if DatagramFault::of(&error).is_about_peer() => {
                        summary.fail(batch.len(), error);
                        continue;
                    }
                    // Some network adapters cannot split.
                    Err(_) => {}
                }
            }
            for datagram in batch {
                if let Err(error) = self.transmit_one(address, local_ip, datagram).await {
                    summary.fail(1, error);
                }
            }
        }
        summary
    }

    /// Returns how many datagrams one system call takes.
    fn joined_max(&self) -> usize {
        if self.peer.is_some() && !TAKES_PEER {
            1
        } else {
            self.state.max_gso_segments()
        }
    }

    /// Sends a datagram. If it cannot leave from `local_ip`, such as the address of a broadcast, the
    /// system chooses the address.
    async fn transmit_one(
        &self,
        address: SocketAddr,
        local_ip: Option<IpAddr>,
        datagram: &Bytes,
    ) -> io::Result<()> {
        let sent = self
            .transmit(&transmit(address, local_ip, datagram, None))
            .await;
        match sent {
            Err(error) if local_ip.is_some() && is_about_local_address(&error) => {
                self.transmit(&transmit(address, None, datagram, None))
                    .await
            }
            sent => sent,
        }
    }

    async fn transmit(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.peer.is_some() && !TAKES_PEER {
            return self.io.send(transmit.contents).await.map(|_| ());
        }
        let send = || self.state.try_send((&self.io).into(), transmit);
        self.io.async_io(Interest::WRITABLE, send).await
    }
}

/// Returns whether an error may mean that the local address cannot be used.
fn is_about_local_address(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput
            | io::ErrorKind::AddrNotAvailable
            // There is no route from the address of a limited broadcast.
            | io::ErrorKind::NetworkUnreachable
    )
}

fn transmit(
    destination: SocketAddr,
    src_ip: Option<IpAddr>,
    contents: &[u8],
    segment_size: Option<usize>,
) -> Transmit<'_> {
    Transmit {
        destination,
        ecn: None,
        contents,
        segment_size,
        src_ip,
    }
}

/// Returns how many of the first datagrams may leave in one system call: those of one length, and a
/// shorter one behind them. At least one, unless there is none.
fn joinable(datagrams: &[Bytes], most: usize) -> usize {
    let length = datagrams.first().map_or(0, Bytes::len);
    if length == 0 || length > JOINED_LENGTH_MAX {
        return datagrams.len().min(1);
    }
    let most = most.min(JOINED_BYTES_MAX / length).max(1);
    let equal = datagrams
        .iter()
        .take(most)
        .take_while(|datagram| datagram.len() == length)
        .count();
    let is_shorter = |next: &Bytes| (1..length).contains(&next.len());
    let has_end = equal < most && datagrams.get(equal).is_some_and(is_shorter);
    equal.saturating_add(usize::from(has_end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_source_without_a_port_gets_no_answer_and_costs_others_nothing() {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let socket = DatagramSocket::bind(loopback, &[]).expect("bound");
        let before = socket.joined_max();
        let answers = [Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        let summary = socket.send_to(loopback, None, &answers).await;
        assert_eq!(summary.dropped, 2);
        assert_eq!(socket.joined_max(), before);
    }

    #[test]
    fn equal_datagrams_and_one_shorter_behind_them_are_joined() {
        let count = |lengths: &[usize], most| {
            let datagrams: Vec<Bytes> = lengths
                .iter()
                .map(|length| Bytes::from(vec![0; *length]))
                .collect();
            joinable(&datagrams, most)
        };
        for (lengths, most, joined) in [
            (&[][..], 64, 0),
            (&[5], 64, 1),
            (&[5, 5, 5], 64, 3),
            (&[5, 5, 5], 2, 2),
            (&[5, 5, 5], 1, 1),
            (&[5, 5, 3, 5], 64, 3),
            (&[5, 5, 3], 2, 2),
            (&[5, 6, 5], 64, 1),
            (&[5, 0, 5], 64, 1),
            (&[0, 0], 64, 1),
            (&[1_453, 1_453], 64, 1),
            (&[1_452; 64], 64, 44),
        ] {
            assert_eq!(count(lengths, most), joined, "{lengths:?} {most}");
        }
    }
}
