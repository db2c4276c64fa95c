//! Several servers under one port key: which of them a client uses.

use std::{
    fs,
    io::Read as _,
    net::{SocketAddr, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use serde_json::json;

use super::IMMEDIATE;
use crate::support::{
    daemon::Daemon,
    ports,
    services::{self, Ending, Service},
    tunnel::{Front, Methods, Port, Testbed},
    wait,
};

/// A service that sends its name to each connection.
fn name_service(name: &'static str) -> Service {
    services::source_that_stays(name.as_bytes().to_vec())
}

fn read_name(address: SocketAddr) -> String {
    read_name_within(wait::TIMEOUT, address)
}

/// Reads the name of the service, or nothing if it does not arrive in time.
fn read_name_within(timeout: Duration, address: SocketAddr) -> String {
    let mut name = [0; 3];
    let read = TcpStream::connect(address).and_then(|mut stream| {
        stream.set_read_timeout(Some(timeout))?;
        stream.read_exact(&mut name)
    });
    read.map(|()| String::from_utf8_lossy(&name).into_owned())
        .unwrap_or_default()
}

/// Whether the server has logged its registration.
fn is_registered(folder: &Path, server: &str) -> bool {
    fs::read_to_string(folder.join(format!("{server}.log")))
        .is_ok_and(|log| log.contains("registered"))
}

#[test]
fn several_servers_under_one_port_key_share_its_tunnels() {
    let testbed = Testbed::new(Front::Direct);
    let _master = testbed.master(json!({}));
    let (one, two) = (name_service("one"), name_service("two"));
    let port = Port::new("shared", one.address(), Methods::DEFAULT);
    let _first = testbed.server("first", std::slice::from_ref(&port), json!({}));
    let mut second = testbed.server(
        "second",
        &[Port {
            service: two.address().to_string(),
            ..port.clone()
        }],
        json!({}),
    );
    for server in ["first", "second"] {
        wait::until_true("both servers are registered", || {
            is_registered(testbed.folder(), server)
        });
    }
    let elsewhere = port.at_another_address();
    let _near = testbed.client("near", std::slice::from_ref(&port), json!({}));
    let near = read_name(port.local);
    let _far = testbed.client("far", std::slice::from_ref(&elsewhere), json!({}));
    let mut names = [near, read_name(elsewhere.local)];
    names.sort();
    assert_eq!(names, ["one", "two"]);
    second.kill();
    // A connection that entered the tunnel before the client knew of its loss waits for the server.
    let try_for = Duration::from_secs(2);
    wait::until_true("both clients reach the remaining server", || {
        [port.local, elsewhere.local]
            .into_iter()
            .all(|local| read_name_within(try_for, local) == "one")
    });
}

/// Starts the master, then one server after the other. The servers lead the port to these
/// addresses.
fn start_servers(testbed: &Testbed, port: &Port, services: &[SocketAddr]) -> Vec<Daemon> {
    let mut daemons = vec![testbed.master(json!({}))];
    for (number, service) in services.iter().enumerate() {
        let name = format!("server{number}");
        daemons.push(testbed.server(
            &name,
            &[Port {
                service: service.to_string(),
                ..port.clone()
            }],
            json!({}),
        ));
        wait::until_true("the server is registered", || {
            is_registered(testbed.folder(), &name)
        });
    }
    daemons
}

/// The number of clients that attached to a server.
fn attach_count(server: &Daemon) -> usize {
    server.log().matches("client attached").count()
}

#[test]
fn connections_avoid_a_server_whose_service_is_down() {
    let testbed = Testbed::new(Front::Direct);
    let up = name_service("two");
    let port = Port::new("shared", up.address(), Methods::DEFAULT);
    let dead = ports::free();
    let daemons = start_servers(&testbed, &port, &[dead, dead, up.address()]);
    let client = testbed.client("client", std::slice::from_ref(&port), json!({}));
    client.wait_for_line(&["attached to a server"]);
    // The master selects the server that registered first. A busy machine writes the server's log
    // later than the client's.
    daemons[1].wait_for_line(&["client attached"]);
    assert_eq!(attach_count(&daemons[1]), 1);
    let mut refused = 0;
    while read_name(port.local) != "two" {
        refused += 1;
        assert!(
            refused <= 2,
            "at most one connection per server whose service is down"
        );
    }
    for connection in 0..20 {
        assert_eq!(read_name(port.local), "two", "connection {connection}");
    }
    // A new client learns it too.
    let elsewhere = port.at_another_address();
    let _other = testbed.client("other", std::slice::from_ref(&elsewhere), json!({}));
    wait::until_true("the other client reaches the service", || {
        read_name(elsewhere.local) == "two"
    });
    assert!((0..20).all(|_| read_name(elsewhere.local) == "two"));
}

#[test]
fn a_client_does_not_switch_servers_endlessly_when_all_services_are_down() {
    for servers in [1, 2] {
        let testbed = Testbed::new(Front::Direct);
        let port = Port::new("shared", ports::free(), Methods::DEFAULT);
        let dead = ports::free();
        let daemons = start_servers(&testbed, &port, &vec![dead; servers]);
        let client = testbed.client("client", std::slice::from_ref(&port), json!({}));
        client.wait_for_line(&["attached to a server"]);
        for _ in 0..50 {
            let start = Instant::now();
            assert_eq!(read_name(port.local), "");
            assert!(start.elapsed() < IMMEDIATE, "no connection is held");
        }
        let tunnels: usize = daemons[1..].iter().map(attach_count).sum();
        assert!(
            tunnels <= servers + 1,
            "{tunnels} tunnels at {servers} servers: one each, and one attempt at another server"
        );
        // The service comes back. The tunnel that was kept leads to it.
        let service = Service::at(dead, |mut stream| {
            let _ = std::io::Write::write_all(&mut stream, b"two");
            Ending::Clean
        });
        wait::until_true("the service is reached", || read_name(port.local) == "two");
        drop(service);
    }
}
