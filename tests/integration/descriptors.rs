//! Roles at their limit of open files: they say so, keep their links, and carry on with the connections that they have.

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

/// The limit of open files: enough for a role that has little to do.
const LIMIT: usize = 64;

/// Opens connections until one is not answered in time, which is the last.
fn fill(address: SocketAddr, patience: Duration) -> (Vec<TcpStream>, io::Result<()>) {
    let mut held = Vec::new();
    loop {
        let stream = services::connect(address);
        stream.set_read_timeout(Some(patience)).unwrap();
        let answered = services::ping(&stream, b"first");
        stream.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        held.push(stream);
        if answered.is_err() {
            return (held, answered);
        }
        assert!(held.len() < LIMIT, "there is no limit");
    }
}

/// Cuts all links, and lets the roles dial in vain for a moment before there is a master again.
fn cut(tunnel: &mut Tunnel, role: &Daemon) {
    tunnel.master.kill();
    role.wait_for_line(&["cannot reach the master"]);
    wait::throughout(
        "the role has descriptors to dial",
        Duration::from_secs(1),
        || {
            !["Too many open files", "firewall"]
                .iter()
                .any(|words| role.log().contains(words))
        },
    );
    tunnel.restart_master();
}

fn lines(role: &Daemon, words: &str) -> usize {
    role.log()
        .lines()
        .filter(|line| line.contains(words))
        .count()
}

#[test]
fn a_client_at_its_limit_of_open_files_keeps_its_connections_when_its_link_is_cut() {
    let mut tunnel = Tunnel::start(Front::Direct, Vec::new());
    let port = tunnel.probe().elsewhere();
    let configuration = tunnel
        .scene
        .client_configuration(std::slice::from_ref(&port), json!({}));
    let mut client = tunnel.scene.limited_role("limited", &configuration, LIMIT);
    client.wait_ready(|| services::echoes(port.local));
    let (mut held, last) = fill(port.local, Duration::from_secs(3));
    let error = last.unwrap_err();
    assert!(
        matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        ),
        "it waits for its turn: {error}"
    );
    // More than there will ever be room for.
    let waiting: Vec<TcpStream> = (0..LIMIT).map(|_| services::connect(port.local)).collect();
    client.wait_for_line(&[
        "cannot accept connections",
        &format!("limit of {LIMIT}"),
        "ulimit -n",
        "LimitNOFILE",
    ]);
    let late = held.pop().unwrap();
    cut(&mut tunnel, &client);
    services::ping(&held[0], b"still there").expect("it has survived");
    drop(held.split_off(1));
    let mut first = [0; 5];
    io::Read::read_exact(&mut &late, &mut first).expect("its turn has come");
    assert_eq!(&first, b"first");
    assert!(lines(&client, "cannot accept") < 10, "{}", client.log());
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
        .scene
        .server_configuration(std::slice::from_ref(&port), json!({}));
    let server = tunnel.scene.limited_role("limited", &configuration, LIMIT);
    wait::until_true("the other server carries connections", || {
        services::echoes(echo)
    });
    let (mut held, last) = fill(echo, wait::PATIENCE);
    assert_eq!(last.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    held.pop();
    server.wait_for_line(&[
        "cannot connect to local services",
        &format!("limit of {LIMIT}"),
        "ulimit -n",
        "LimitNOFILE",
    ]);
    (0..50).for_each(|_| assert!(!services::echoes(echo), "there is no room"));
    cut(&mut tunnel, &server);
    held.iter()
        .for_each(|stream| services::ping(stream, b"still there").expect("it has survived"));
    assert!(
        lines(&server, "cannot connect to local services") < 10,
        "{}",
        server.log()
    );
    drop(held);
    wait::until_true("new connections are served", || services::echoes(echo));
}
