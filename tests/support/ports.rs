//! Loopback ports that no other test uses.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Mutex, PoisonError},
};

use socket2::{Domain, Socket, Type};

/// The range is below the one from which the kernel takes the ports of outgoing connections (32768
/// and up by default). So no connection can take a port between its choice and the daemon's bind.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

/// The address at which test processes on this machine reserve ports. A UDP socket with the port
/// number means that the port is taken.
const RESERVATION: Ipv4Addr = Ipv4Addr::new(127, 77, 77, 77);

struct Taken {
    numbers: HashSet<u16>,
    reservations: Vec<UdpSocket>,
}

static TAKEN: Mutex<Option<Taken>> = Mutex::new(None);

/// An address on 127.0.0.1 that is free now. While this process lives, no other caller in this or
/// another test process gets it.
pub(crate) fn free() -> SocketAddr {
    free_range(1)
}

/// The first of this many such addresses with successive ports.
pub(crate) fn free_range(count: u16) -> SocketAddr {
    super::watchdog::watch();
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    let taken = taken.get_or_insert_with(|| Taken {
        numbers: HashSet::new(),
        reservations: Vec::new(),
    });
    for _ in 0..10_000 {
        let first = fastrand::u16(RANGE.start..=RANGE.end - count);
        let ports = first..first + count;
        if ports.clone().any(|port| taken.numbers.contains(&port)) {
            continue;
        }
        let Some(reservations) = ports.clone().map(reserve).collect::<Option<Vec<_>>>() else {
            continue;
        };
        taken.numbers.extend(ports);
        taken.reservations.extend(reservations);
        return SocketAddr::from((Ipv4Addr::LOCALHOST, first));
    }
    panic!("no {count} free ports in {RANGE:?}");
}

/// Reserves a port, if it is free.
fn reserve(port: u16) -> Option<UdpSocket> {
    let reservation = UdpSocket::bind((RESERVATION, port)).ok()?;
    is_free(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).then_some(reservation)
}

/// Whether a listener could bind the address. The socket that shows it does not listen, so it keeps
/// no listener from the address: a child process of another test holds a copy of it until it has
/// started its program.
fn is_free(address: SocketAddr) -> bool {
    let bind = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())
    };
    bind().is_ok()
}

/// Whether a process listens at the address. The kernel's table answers, so the listener sees no
/// connection.
pub(crate) fn has_listener_at(address: SocketAddr) -> bool {
    // 0A is the state LISTEN.
    is_in_table("tcp", address, "0A")
}

/// Whether a process has a UDP socket at the address that is not connected.
pub(crate) fn has_udp_socket_at(address: SocketAddr) -> bool {
    // 07 is the state CLOSE.
    is_in_table("udp", address, "07")
}

fn is_in_table(protocol: &str, address: SocketAddr, state: &str) -> bool {
    // The kernel prints the address as numbers in the byte order of this machine.
    let (family, octets) = match address.ip() {
        IpAddr::V4(ip) => ("", ip.octets().to_vec()),
        IpAddr::V6(ip) => ("6", ip.octets().to_vec()),
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
    let table = format!("/proc/net/{protocol}{family}");
    let sockets = std::fs::read_to_string(table).unwrap_or_default();
    sockets.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(&local) && fields.nth(1) == Some(state)
    })
}
