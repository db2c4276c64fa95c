//! Clients that hold a port key, and the resources that they make the server hold.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use report_proto::crypto::PortKeys;
use serde_json::json;
use socket2::{Domain, Socket, Type};

use super::{Bystander, KIB, LOG_LIMIT, MIB, tunnel, with_default_log_level};
use crate::support::{
    attack::{HostileLink, RawTunnel, ResourceMonitor, tunnel_frames},
    files, services,
    tunnel::{Methods, Port},
    wait,
};

/// Fills the window of a tunnel with small pieces of data. Each piece is in a large message, and
/// the rest of the message repeats data. Returns the bytes that count in the window, and those that
/// were sent.
fn fill_window(link: &mut HostileLink, attacker: &mut RawTunnel, channel: u32) -> [u64; 2] {
    /// Smaller pieces are merged with others.
    const PIECE: u64 = 2049;
    const REPEATED: usize = 2048;
    const MESSAGE: usize = 64 * KIB as usize;
    let (window, of_stream) = (
        attacker.grant.tunnel_window,
        attacker.grant.stream_window / PIECE,
    );
    let streams = window / PIECE / of_stream + 1;
    // The echoes have no credit, so the server reads no more data from the streams.
    let opens: Vec<u8> = (0..streams)
        .flat_map(|stream| tunnel_frames::open(2 * stream, br#"{"bench":"echo"}"#))
        .collect();
    let opens = attacker.sealed(&opens);
    link.send([opens]);
    let (mut counted, mut sent) = (0, 0);
    for piece in 0..window / PIECE {
        let stream = 2 * (piece % streams);
        let mut message =
            tunnel_frames::data(stream, piece / streams * PIECE, &[1; PIECE as usize]);
        let ignored = tunnel_frames::data(stream, 0, &[2; REPEATED]);
        while message.len() + ignored.len() <= MESSAGE {
            message.extend_from_slice(&ignored);
        }
        (counted, sent) = (counted + PIECE, sent + message.len() as u64);
        let frame = attacker.sealed(&message);
        link.send([frame]);
        if piece % 8 == 7 {
            assert!(link.wait_until_sendable(channel), "{:?}", link.closed);
        }
    }
    [counted, sent]
}

#[test]
fn small_pieces_do_not_retain_their_large_messages() {
    const TUNNELS: u32 = 4;
    let tunnel = tunnel(Vec::new(), json!({}));
    let bystander = Bystander::of(&tunnel);
    let keys = PortKeys::derive(&tunnel.probe().key);
    let mut link = HostileLink::connect(tunnel.testbed.master_address());
    let mut tunnels: Vec<_> = (1..=TUNNELS)
        .map(|channel| RawTunnel::attach(&mut link, channel, &keys))
        .collect();
    let monitor = ResourceMonitor::start(&tunnel.server);
    let (mut counted, mut sent) = (0, 0);
    for (attacker, channel) in tunnels.iter_mut().zip(1..) {
        let [in_window, in_messages] = fill_window(&mut link, attacker, channel);
        (counted, sent) = (counted + in_window, sent + in_messages);
    }
    tunnels
        .iter_mut()
        .for_each(|attacker| attacker.wait_processed(&mut link));
    let cost = monitor.cost(&tunnel.server);
    println!("{sent} bytes were sent, of which {counted} count in the windows");
    assert!(
        sent > 4 * (2 * counted + 16 * MIB),
        "there is enough data to retain"
    );
    assert!(
        cost.memory < 2 * counted + 16 * MIB && cost.files < 100 && cost.log < LOG_LIMIT,
        "{cost:?}"
    );
    bystander.assert_served(&tunnel);
}

/// A service whose connections only the kernel accepts. No process reads them.
fn never_accepting_service() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .unwrap();
    socket.listen(4096).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

#[test]
fn one_clients_connections_leave_descriptors_for_other_ports_and_the_link() {
    const LIMIT: usize = 1024;
    const STREAMS: u64 = 3000;
    let (_service, address) = never_accepting_service();
    let shared = Port::new("shared", address, Methods::DEFAULT);
    let mut tunnel = tunnel(vec![shared.clone()], json!({}));
    tunnel.server.stop();
    let ports = [shared.clone(), tunnel.probe().clone()];
    let configuration = tunnel
        .testbed
        .server_configuration(&ports, with_default_log_level(json!({})));
    tunnel.server = tunnel
        .testbed
        .limited_role("limited", &configuration, LIMIT);
    tunnel.wait_until_connected();
    let (bystander, monitor) = (
        Bystander::of(&tunnel),
        ResourceMonitor::start(&tunnel.server),
    );
    let mut link = HostileLink::connect(tunnel.testbed.master_address());
    let mut attacker = RawTunnel::attach(&mut link, 1, &PortKeys::derive(&shared.key));
    let opens: Vec<u8> = (0..STREAMS)
        .flat_map(|stream| tunnel_frames::open(2 * stream, b""))
        .collect();
    let opens = attacker.sealed(&opens);
    link.send([opens]);
    attacker.wait_processed(&mut link);
    let server_files = || files::open_files(tunnel.server.pid());
    wait::until_true("the client has all its allowed connections", || {
        server_files() > LIMIT / 4
    });
    bystander.assert_served(&tunnel);
    assert!(
        server_files() > LIMIT / 4,
        "the attack's connections are open"
    );
    tunnel.master.kill();
    tunnel.restart_master();
    let again = wait::within(Duration::from_secs(15), || {
        services::echoes(tunnel.probe().local).then_some(())
    });
    assert!(again.is_some(), "the server has a new link");
    bystander.assert_served(&tunnel);
    let cost = monitor.cost(&tunnel.server);
    assert!(
        cost.memory < 32 * MIB && cost.files < LIMIT && cost.log < LOG_LIMIT,
        "{cost:?}"
    );
}
