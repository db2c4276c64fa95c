//! Clients that hold a port key, and what they make the server hold.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use report::{crypto::PortKeys, frame::Code};
use serde_json::json;
use socket2::{Domain, Socket, Type};

use super::{Bystander, KIB, LOG, MIB, quiet, tunnel};
use crate::support::{
    attack::{HostileLink, RawTunnel, Watch, tunnel_frames},
    files, services,
    tunnel::{Methods, Port, Tunnel},
    wait,
};

/// A message of one byte that is neither MOVED nor MOVE.
const ONE_BYTE: &[u8] = &[0x0b];

/// A tunnel on the middle of a move: the first attachment has not said MOVED.
fn in_a_move(tunnel: &Tunnel) -> (HostileLink, RawTunnel) {
    let keys = PortKeys::derive(&tunnel.probe().key);
    let mut link = HostileLink::stranger(tunnel.scene.master_address());
    let mut first = RawTunnel::attach(&mut link, 1, &keys);
    first.wait_handled(&mut link);
    let mut second = first.moved(&mut link, 2, &keys);
    // Its first message takes the tunnel over.
    let message = second.sealed(&tunnel_frames::ping(1));
    link.send([message]);
    (link, second)
}

#[test]
fn empty_messages_end_a_tunnel_that_moves() {
    let tunnel = tunnel(Vec::new(), json!({}));
    let bystander = Bystander::of(&tunnel);
    let (mut link, mut attacker) = in_a_move(&tunnel);
    let watch = Watch::over(&tunnel.server);
    link.send((0..10_000).map(|_| attacker.sealed(b"")));
    let code = link.wait_until("the channel is closed", |link| link.closed.get(&2).copied());
    assert_eq!(code, Code::Protocol);
    bystander.is_served(&tunnel);
    let cost = watch.cost(&tunnel.server);
    assert!(
        cost.memory < 8 * MIB && cost.files < 100 && cost.log < LOG,
        "{cost:?}"
    );
}

#[test]
fn messages_of_one_byte_that_a_move_holds_are_bounded() {
    const AT_ONCE: usize = 4000;
    /// What a move may hold, and twice that for what surrounds each message.
    const HELD: u64 = 34 * MIB;
    let tunnel = tunnel(Vec::new(), json!({}));
    let bystander = Bystander::of(&tunnel);
    let (mut link, mut attacker) = in_a_move(&tunnel);
    let watch = Watch::over(&tunnel.server);
    let mut sent = 0;
    while link.may_send(2) {
        assert!(sent < 1_000_000, "there is no bound");
        link.send((0..AT_ONCE).map(|_| attacker.sealed(ONE_BYTE)));
        sent += AT_ONCE;
    }
    println!("{sent} messages");
    // A busy machine may need longer for as many messages than the move may take.
    assert!(
        matches!(link.closed.get(&2), Some(Code::FlowControl | Code::Timeout)),
        "{:?}",
        link.closed
    );
    bystander.is_served(&tunnel);
    let cost = watch.cost(&tunnel.server);
    assert!(
        cost.memory < 2 * HELD + 16 * MIB && cost.files < 100 && cost.log < LOG,
        "{cost:?}"
    );
}

#[test]
fn small_pieces_do_not_keep_the_large_messages_that_they_came_in() {
    const TUNNELS: u32 = 4;
    /// Smaller pieces are joined with others.
    const PIECE: u64 = 2049;
    const REPEATED: usize = 2048;
    const MESSAGE: usize = 64 * KIB as usize;
    let tunnel = tunnel(Vec::new(), json!({}));
    let bystander = Bystander::of(&tunnel);
    let keys = PortKeys::derive(&tunnel.probe().key);
    let mut link = HostileLink::stranger(tunnel.scene.master_address());
    let mut tunnels: Vec<_> = (1..=TUNNELS)
        .map(|channel| RawTunnel::attach(&mut link, channel, &keys))
        .collect();
    let watch = Watch::over(&tunnel.server);
    let (mut counted, mut sent) = (0, 0);
    for (attacker, channel) in tunnels.iter_mut().zip(1..) {
        let (window, of_stream) = (
            attacker.grant.tunnel_window,
            attacker.grant.stream_window / PIECE,
        );
        let streams = window / PIECE / of_stream + 1;
        // What comes back has no credit, so that the server takes nothing more.
        let opens: Vec<u8> = (0..streams)
            .flat_map(|stream| tunnel_frames::open(2 * stream, br#"{"bench":"echo"}"#))
            .collect();
        let opens = attacker.sealed(&opens);
        link.send([opens]);
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
                assert!(link.may_send(channel), "{:?}", link.closed);
            }
        }
    }
    tunnels
        .iter_mut()
        .for_each(|attacker| attacker.wait_handled(&mut link));
    let cost = watch.cost(&tunnel.server);
    println!("{sent} bytes were sent, of which the windows count {counted}");
    assert!(
        sent > 4 * (2 * counted + 16 * MIB),
        "there is something to keep"
    );
    assert!(
        cost.memory < 2 * counted + 16 * MIB && cost.files < 100 && cost.log < LOG,
        "{cost:?}"
    );
    bystander.is_served(&tunnel);
}

/// A service whose connections are made by the kernel, and read by nobody.
fn deaf() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket
        .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .unwrap();
    socket.listen(4096).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

#[test]
fn the_connections_of_one_client_leave_descriptors_to_the_other_ports_and_to_the_link() {
    const LIMIT: usize = 1024;
    const STREAMS: u64 = 3000;
    let (_service, address) = deaf();
    let shared = Port::new("shared", address, Methods::USUAL);
    let mut tunnel = tunnel(vec![shared.clone()], json!({}));
    tunnel.server.stop();
    let ports = [shared.clone(), tunnel.probe().clone()];
    let configuration = tunnel.scene.server_configuration(&ports, quiet(json!({})));
    tunnel.server = tunnel.scene.limited_role("limited", &configuration, LIMIT);
    tunnel.wait_until_joined();
    let (bystander, watch) = (Bystander::of(&tunnel), Watch::over(&tunnel.server));
    let mut link = HostileLink::stranger(tunnel.scene.master_address());
    let mut attacker = RawTunnel::attach(&mut link, 1, &PortKeys::derive(&shared.key));
    let opens: Vec<u8> = (0..STREAMS)
        .flat_map(|stream| tunnel_frames::open(2 * stream, b""))
        .collect();
    let opens = attacker.sealed(&opens);
    link.send([opens]);
    attacker.wait_handled(&mut link);
    let of_server = || files::open_files(tunnel.server.pid());
    wait::until_true("the client has all connections that it may have", || {
        of_server() > LIMIT / 4
    });
    bystander.is_served(&tunnel);
    assert!(
        of_server() > LIMIT / 4,
        "the connections of the attack are there"
    );
    tunnel.master.kill();
    tunnel.restart_master();
    let again = wait::within(Duration::from_secs(15), || {
        services::echoes(tunnel.probe().local).then_some(())
    });
    assert!(again.is_some(), "the server has a link again");
    bystander.is_served(&tunnel);
    let cost = watch.cost(&tunnel.server);
    assert!(
        cost.memory < 32 * MIB && cost.files < LIMIT && cost.log < LOG,
        "{cost:?}"
    );
}
