//! Roles at their limit of open files. They log the limit, keep their links, and keep serving their
//! existing connections.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::json;

use crate::support::{
    daemon::Daemon,
    services,
    tunnel::{Front, Tunnel},
    wait,
};

/// The limit of open files. It is enough for a role with little load.
const LIMIT: usize = 64;

/// Opens connections until one is not answered in time. That one is the last of the returned
/// connections.
fn open_until_unanswered(
    address: SocketAddr,
    timeout: Duration,
) -> (Vec<TcpStream>, io::Result<()>) {
    let mut held = Vec::new();
    loop {
        let stream = services::connect(address);
        stream.set_read_timeout(Some(timeout)).unwrap();
        let answered = services::ping(&stream, b"first");
        stream.set_read_timeout(Some(wait::TIMEOUT)).unwrap();
        held.push(stream);
        if answered.is_err() {
            return (held, answered);
        }
        assert!(held.len() < LIMIT, "no connection was refused");
    }
}

/// Cuts all links. The roles redial without success for a moment before a master runs again.
fn cut(tunnel: &mut Tunnel, role: &Daemon) {
    tunnel.master.kill();
    role.wait_for_line(&["cannot reach the master"]);
    wait::throughout(
        "the role has descriptors for a dial",
        Duration::from_secs(1),
        || {
            !["Too many open files", "firewall"]
                .iter()
                .any(|words| role.log().contains(words))
        },
    );
    tunnel.restart_master();
}

fn count_lines(role: &Daemon, words: &str) -> usize {
    role.log()
        .lines()
        .filter(|line| line.contains(words))
        .count()
}

#[test]
fn a_client_at_its_limit_of_open_files_keeps_its_connections_when_its_link_is_cut() {
    let mut tunnel = Tunnel::start(Front::Direct, Vec::new());
    let port = tunnel.probe().at_another_address();
    let configuration = tunnel
        .testbed
        .client_configuration(std::slice::from_ref(&port), json!({}));
    let mut client = tunnel
        .testbed
        .limited_role("limited", &configuration, LIMIT);
    client.wait_ready(|| services::echoes(port.local));
    let (mut held, last) = open_until_unanswered(port.local, Duration::from_secs(3));
    let error = last.unwrap_err();
    assert!(
        matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        ),
        "the connection waits for acceptance: {error}"
    );
    // More connections than the client can ever hold.
    let waiting: Vec<TcpStream> = (0..LIMIT).map(|_| services::connect(port.local)).collect();
    client.wait_for_line(&[
        "cannot accept connections",
        &format!("limit of {LIMIT}"),
        "ulimit -n",
        "LimitNOFILE",
    ]);
    let late = held.pop().unwrap();
    cut(&mut tunnel, &client);
    services::ping(&held[0], b"still there").expect("the connection survived");
    drop(held.split_off(1));
    let mut first = [0; 5];
    io::Read::read_exact(&mut &late, &mut first).expect("the connection is accepted now");
    assert_eq!(&first, b"first");
    assert!(
        count_lines(&client, "cannot accept") < 10,
        "{}",
        client.log()
    );
    drop((held, waiting));
    wait::until_true("new connections are accepted", || {
        services::echoes(port.local)
    });
}

#[test]
fn a_server_at_its_limit_of_open_files_keeps_its_connections_when_its_link_is_cut() {
    let mut tunnel = Tunnel::start(Front::Direct, Vec::new());
    let (port, echo) = (tunnel.probe().clone(), tunnel.probe().local);
    tunnel.server.stop();
    let configuration = tunnel
        .testbed
        .server_configuration(std::slice::from_ref(&port), json!({}));
    let server = tunnel
        .testbed
        .limited_role("limited", &configuration, LIMIT);
    wait::until_true("the other server carries connections", || {
        services::echoes(echo)
    });
    let (mut held, last) = open_until_unanswered(echo, wait::TIMEOUT);
    assert_eq!(last.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    held.pop();
    server.wait_for_line(&[
        "cannot connect to local services",
        &format!("limit of {LIMIT}"),
        "ulimit -n",
        "LimitNOFILE",
    ]);
    (0..50).for_each(|_| assert!(!services::echoes(echo), "no descriptor is free"));
    cut(&mut tunnel, &server);
    held.iter().for_each(|stream| {
        services::ping(stream, b"still there").expect("the connection survived")
    });
    assert!(
        count_lines(&server, "cannot connect to local services") < 10,
        "{}",
        server.log()
    );
    drop(held);
    wait::until_true("new connections are served", || services::echoes(echo));
}
