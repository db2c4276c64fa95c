//! Ranges of ports: each port of the client leads to the port with the same number at the server.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpListener},
};

use serde_json::{Value, json};

use crate::support::{
    daemon::Daemon,
    ports,
    services::{self, Ending, Service},
    tunnel::{Front, Testbed},
    wait,
};

const PORT_KEY: &str = "the port key of the ranges 0123456789";

/// The number of ports in a range.
const COUNT: u16 = 3;

/// The address with this number in a range.
fn at(first: SocketAddr, number: u16) -> SocketAddr {
    SocketAddr::new(first.ip(), first.port() + number)
}

/// The roles' fields with a port of this many addresses.
fn with_range(first: SocketAddr, count: u16) -> Value {
    let range = format!("{first}-{}", at(first, count - 1).port());
    json!({"ports": [{"mark": "calls", "local_address": range, "port_key": PORT_KEY}]})
}

/// A service that sends its number.
fn service(address: SocketAddr, number: u16) -> Service {
    Service::at(address, move |mut stream| {
        match stream.write_all(format!("service {number}").as_bytes()) {
            Ok(()) => Ending::Clean,
            Err(error) => error.into(),
        }
    })
}

/// A master and a server with a range. The client comes from the test.
struct Served {
    _master: Daemon,
    server: Daemon,
    services: Vec<Service>,
    testbed: Testbed,
    local: SocketAddr,
}

impl Served {
    fn new() -> Served {
        let testbed = Testbed::new(Front::Direct);
        let (first, local) = (ports::free_range(COUNT), ports::free_range(COUNT));
        let services = (0..COUNT).map(|number| service(at(first, number), number));
        Served {
            services: services.collect(),
            _master: testbed.master(json!({})),
            server: testbed.server("server", &[], with_range(first, COUNT)),
            testbed,
            local,
        }
    }

    /// Starts a client that listens at this many ports.
    fn client(&self, count: u16) -> Daemon {
        let fields = with_range(self.local, count);
        let configuration = self.testbed.client_configuration(&[], fields);
        let mut client = self.testbed.role("client", &configuration);
        client.wait_ready(|| ports::has_listener_at(self.local));
        client
    }

    /// Returns the data that a connection to a port of the client receives, and how it ends.
    fn received(&self, number: u16) -> (String, Ending) {
        let address = at(self.local, number);
        wait::until_true("the client listens", || ports::has_listener_at(address));
        let (content, ending) = services::read_to_ending(&services::connect(address));
        (String::from_utf8(content).expect("text"), ending)
    }

    #[track_caller]
    fn assert_reaches(&self, number: u16) {
        let expected = (format!("service {number}"), Ending::Clean);
        assert_eq!(self.received(number), expected);
    }
}

#[test]
fn each_port_of_a_range_leads_to_its_own_service() {
    let mut served = Served::new();
    let client = served.client(COUNT);
    for number in [2, 0, 1, 2] {
        served.assert_reaches(number);
    }
    client.wait_for_line(&[
        "listening",
        "port=calls+2",
        &at(served.local, 2).to_string(),
    ]);
    let stopped = served.services.remove(1);
    let address = stopped.address().to_string();
    drop(stopped);
    assert_eq!(served.received(1), (String::new(), Ending::Reset));
    served
        .server
        .wait_for_line(&["cannot reach the local service", &address, "refused"]);
    served.assert_reaches(0);
    served.assert_reaches(2);
}

#[test]
fn a_client_starts_without_a_port_that_is_in_use_and_listens_there_later() {
    let served = Served::new();
    let occupied = TcpListener::bind(at(served.local, 1)).expect("free");
    let client = served.client(COUNT);
    client.wait_for_line(&["calls", "in use", "retries"]);
    served.assert_reaches(0);
    served.assert_reaches(2);
    drop(occupied);
    // The log tells, because a child process of another test may hold the old listener until it has
    // started its program.
    client.wait_for_line(&["listening", "port=calls+1"]);
    served.assert_reaches(1);
}

#[test]
fn ranges_of_different_sizes_are_refused_and_both_sizes_are_logged() {
    let served = Served::new();
    let client = served.client(COUNT - 1);
    served.server.wait_for_line(&[
        "client refused",
        "`local_address` has 3",
        "2 at the other end",
    ]);
    client.wait_for_line(&["`local_address` has 2", "3 at the other end"]);
}

#[test]
fn a_client_without_any_free_port_of_its_range_ends_and_says_why() {
    let testbed = Testbed::new(Front::Direct);
    let local = ports::free_range(COUNT);
    let _occupied: Vec<TcpListener> = (0..COUNT)
        .map(|number| TcpListener::bind(at(local, number)).expect("free"))
        .collect();
    let configuration = testbed.client_configuration(&[], with_range(local, COUNT));
    let mut client = testbed.role("client", &configuration);
    let status = client.wait_for_end(wait::TIMEOUT).expect("the client ends");
    assert_ne!(status.code(), Some(0));
    client.wait_for_line(&[
        &local.to_string(),
        "in use",
        "2 other ports of its range are unavailable too",
    ]);
}
