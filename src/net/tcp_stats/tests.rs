//! Reads the statistics of connections over the loopback interface.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

use super::*;
use crate::tcp_table::TcpConnection;

/// The bytes that a test sends from the dialled end to the accepted one, and back. Small enough for
/// the buffers of a socket.
const SENT: usize = 50_000;
const ANSWERED: usize = 700;

/// Connects to `address` at a listener, moves the bytes, and returns both ends.
async fn exchange(listener: &TcpListener, address: SocketAddr) -> (TcpStream, TcpStream) {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    };
    exchange_from(socket.unwrap(), listener, address).await
}

async fn exchange_from(
    socket: TcpSocket,
    listener: &TcpListener,
    address: SocketAddr,
) -> (TcpStream, TcpStream) {
    let (dialled, accepted) = tokio::join!(socket.connect(address), listener.accept());
    let (mut dialled, (mut accepted, _)) = (dialled.unwrap(), accepted.unwrap());
    dialled.write_all(&[1; SENT]).await.unwrap();
    accepted.read_exact(&mut [0; SENT]).await.unwrap();
    // The answer also acknowledges what was sent.
    accepted.write_all(&[2; ANSWERED]).await.unwrap();
    dialled.read_exact(&mut [0; ANSWERED]).await.unwrap();
    (dialled, accepted)
}

fn read(stream: &TcpStream) -> TcpStats {
    let connection = TcpConnection::of(stream).unwrap();
    let mut reader = TcpStatsReader::open().unwrap();
    reader
        .read(&connection)
        .unwrap_or_else(|| panic!("no statistics of {connection:?}"))
}

/// Checks the statistics of both ends after [`exchange`].
fn assert_moved((dialled, accepted): &(TcpStream, TcpStream)) {
    let (sender, receiver) = (read(dialled), read(accepted));
    // The SYN counts as one byte at the end that dialled.
    let acknowledged = sender.acknowledged_bytes;
    assert!(
        (SENT as u64..=SENT as u64 + 1).contains(&acknowledged),
        "{sender:?}"
    );
    assert_eq!(sender.received_bytes, ANSWERED as u64);
    assert_eq!(receiver.received_bytes, SENT as u64);
    assert_eq!(sender.sent_segments, receiver.received_segments);
    assert!(sender.sent_segments > 0 && sender.received_segments > 0);
    for stats in [sender, receiver] {
        assert_eq!(
            (stats.out_of_order_segments, stats.retransmitted_segments),
            (0, 0),
            "{stats:?}"
        );
        assert_eq!(stats.not_sent_bytes, 0);
        assert!(Duration::ZERO < stats.min_rtt && stats.min_rtt <= stats.rtt);
    }
    assert!(sender.rtt < Duration::from_secs(1) && sender.delivery_rate > 0);
}

#[tokio::test]
async fn ipv4_connection_reports_the_bytes_that_it_moved() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    assert_moved(&exchange(&listener, address).await);
}

#[tokio::test]
async fn ipv6_connection_reports_the_bytes_that_it_moved() {
    let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await else {
        eprintln!("skipped: no IPv6 here");
        return;
    };
    let address = listener.local_addr().unwrap();
    assert_moved(&exchange(&listener, address).await);
}

#[tokio::test]
async fn mapped_connection_reports_the_bytes_that_it_moved() {
    let Ok(listener) = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await else {
        eprintln!("skipped: no IPv6 here");
        return;
    };
    let port = listener.local_addr().unwrap().port();
    let ends = exchange(&listener, (Ipv4Addr::LOCALHOST, port).into()).await;
    assert!(
        ends.1.peer_addr().unwrap().is_ipv6(),
        "the accepted end has mapped addresses"
    );
    assert_moved(&ends);
}

#[tokio::test]
async fn connection_bound_to_an_interface_is_found() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    SockRef::from(&socket).bind_device(Some(b"lo")).unwrap();
    let address = listener.local_addr().unwrap();
    let ends = exchange_from(socket, &listener, address).await;
    assert_ne!(TcpConnection::of(&ends.0).unwrap().interface, 0);
    assert_moved(&ends);
}

#[tokio::test]
async fn queries_of_one_reader_are_independent() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (dialled, accepted) = exchange(&listener, address).await;
    let mut reader = TcpStatsReader::open().unwrap();
    for _ in 0..3 {
        let mut received = |stream| {
            let stats = reader.read(&TcpConnection::of(stream).unwrap());
            stats.map(|stats| stats.received_bytes)
        };
        assert_eq!(received(&dialled), Some(ANSWERED as u64));
        assert_eq!(received(&accepted), Some(SENT as u64));
    }
}

#[tokio::test]
async fn absent_connection_has_no_statistics() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (dialled, accepted) = exchange(&listener, address).await;
    let connection = TcpConnection::of(&accepted).unwrap();
    let mut reader = TcpStatsReader::open().unwrap();
    assert!(reader.read(&connection).is_some());
    // The kernel offers the listener in place of a connection that does not exist.
    let listening = TcpConnection {
        peer: (Ipv4Addr::LOCALHOST, 1).into(),
        ..connection
    };
    assert_eq!(reader.read(&listening), None);
    let elsewhere = TcpConnection {
        local: (Ipv4Addr::LOCALHOST, 1).into(),
        ..listening
    };
    assert_eq!(reader.read(&elsewhere), None);
    // A reset leaves no state behind.
    SockRef::from(&accepted)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop((accepted, dialled));
    assert_eq!(reader.read(&connection), None);
    assert!(
        reader.query(&elsewhere).unwrap().is_none(),
        "an absent connection is no error"
    );
}
