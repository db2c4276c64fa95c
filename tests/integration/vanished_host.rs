//! A service whose machine vanishes while data for it is queued. The connection ends long before
//! the kernel would give up.

use std::{net::SocketAddr, process::Command, time::Duration};

use serde_json::json;

use crate::support::{
    daemon::Daemon,
    ports, programs,
    proxies::networks::{GATEWAY, Namespace, Networks},
    tunnel::{Front, Methods, Port, Testbed},
    wait,
};

/// A keepalive of one second and five unanswered retransmissions take about ten seconds. The kernel
/// alone would take a quarter of an hour.
const DETECTION_TIME: Duration = Duration::from_secs(60);

fn within(networks: &Networks, namespace: Namespace, program: &str, arguments: &[&str]) -> Command {
    let mut command = programs::within(&networks.within(namespace), program);
    command.args(arguments);
    command
}

/// Starts a service at the gateway that accepts one connection and reads from it.
fn start_sink(networks: &Networks, testbed: &Testbed, address: SocketAddr) -> Daemon {
    let script = format!("nc -l {} {} > /dev/null", address.ip(), address.port());
    let mut sink = Daemon::start(
        "sink",
        testbed.folder(),
        &mut within(networks, Namespace::Gateway, "sh", &["-c", &script]),
    );
    sink.wait_ready(|| networks.has_listener_at(Namespace::Gateway, address));
    sink
}

/// Starts an application inside that sends data to this address without end.
fn start_application(networks: &Networks, testbed: &Testbed, address: SocketAddr) -> Daemon {
    let script = format!("cat /dev/zero | nc {} {}", address.ip(), address.port());
    Daemon::start(
        "application",
        testbed.folder(),
        &mut within(networks, Namespace::Inside, "bash", &["-c", &script]),
    )
}

/// Drops all packets to this port of the gateway.
fn drop_packets_to(networks: &Networks, port: u16) {
    let port = port.to_string();
    networks
        .run(
            Namespace::Gateway,
            &[
                "iptables", "-A", "INPUT", "-p", "tcp", "--dport", &port, "-j", "DROP",
            ],
        )
        .succeeded();
}

#[test]
fn a_vanished_service_with_queued_data_ends_its_connection() {
    let networks = Networks::new();
    let testbed = Testbed::new(Front::Direct);
    let service = SocketAddr::from((GATEWAY, ports::free().port()));
    let port = Port::new("sink", service, Methods::DEFAULT);
    let _sink = start_sink(&networks, &testbed, service);
    let _master = networks.master(Namespace::Inside, &testbed, testbed.master_address());
    let fields = json!({"tcp_keepalive": "1s"});
    let _server = networks.server(Namespace::Inside, &testbed, &port, fields);
    let client = networks.client(&testbed, "client", &port, json!({}), &[]);
    client.wait_for_line(&["attached to a server"]);

    let mut application = start_application(&networks, &testbed, port.local);
    wait::pause(Duration::from_secs(1));
    assert!(!application.has_ended(), "{}", application.log());
    drop_packets_to(&networks, service.port());
    assert!(
        application.wait_for_end(DETECTION_TIME).is_some(),
        "the connection is still there"
    );
}
