//! Loopback ports that nobody else has.

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    sync::{Mutex, PoisonError},
};

/// Below the range from which the kernel draws the ports of outgoing connections (32768 and up unless configured), so that no connection
/// can take one between its choice and the daemon's bind.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// Where other test processes on this machine see that a port is taken: a UDP socket with that number on an address that nothing else uses.
const RESERVATION: Ipv4Addr = Ipv4Addr::new(127, 77, 77, 77);

struct Taken {
    numbers: HashSet<u16>,
    reservations: Vec<UdpSocket>,
}

static TAKEN: Mutex<Option<Taken>> = Mutex::new(None);

/// An address on 127.0.0.1 that is free now, and that no other caller, in this process or another test process, is given while this
/// process lives.
pub fn free() -> SocketAddr {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let taken = taken.get_or_insert_with(|| Taken { numbers: HashSet::new(), reservations: Vec::new() });
    for _ in 0..10_000 {
        let port = fastrand::u16(RANGE);
        if taken.numbers.contains(&port) {
            continue;
        }
        let (Ok(reservation), Ok(_)) = (UdpSocket::bind((RESERVATION, port)), TcpListener::bind((Ipv4Addr::LOCALHOST, port)))
        else {
            continue;
        };
        taken.numbers.insert(port);
        taken.reservations.push(reservation);
        return SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    }
    panic!("no free port in {RANGE:?}");
}
