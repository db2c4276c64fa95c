//! Loopback ports that nobody else has.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
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
    super::watchdog::watch();
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let taken = taken.get_or_insert_with(|| Taken {
        numbers: HashSet::new(),
        reservations: Vec::new(),
    });
    for _ in 0..10_000 {
        let port = fastrand::u16(RANGE);
        if taken.numbers.contains(&port) {
            continue;
        }
        let (Ok(reservation), Ok(_)) = (
            UdpSocket::bind((RESERVATION, port)),
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)),
        ) else {
            continue;
        };
        taken.numbers.insert(port);
        taken.reservations.push(reservation);
        return SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    }
    panic!("no free port in {RANGE:?}");
}

/// Whether somebody listens at the address: asked of the kernel, so that no connection of ours reaches whoever it is.
pub fn is_listened_at(address: SocketAddr) -> bool {
    // The kernel prints the address as numbers of this machine's byte order, and 0A for the state LISTEN.
    let (table, octets) = match address.ip() {
        IpAddr::V4(ip) => ("/proc/net/tcp", ip.octets().to_vec()),
        IpAddr::V6(ip) => ("/proc/net/tcp6", ip.octets().to_vec()),
    };
    let numbers = octets
        .chunks(4)
        .map(|chunk| chunk.try_into().map_or(0, u32::from_ne_bytes));
    let local = format!(
        "{}:{:04X}",
        numbers
            .map(|number| format!("{number:08X}"))
            .collect::<String>(),
        address.port()
    );
    let sockets = std::fs::read_to_string(table).unwrap_or_default();
    sockets.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(&local) && fields.nth(1) == Some("0A")
    })
}
