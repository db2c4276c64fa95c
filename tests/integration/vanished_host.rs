//! A service whose machine vanishes while data for it is queued. The connection ends long before
//! the kernel would give up.

use std::{net::SocketAddr, process::Command, time::Duration};

use serde_json::{Value, json};

use crate::support::{
    daemon::Daemon,
    ports, programs,
    proxies::networks::{GATEWAY, Namespace, Networks},
    tunnel::{Front, Methods, Port, REPORT, Testbed},
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

fn role(networks: &Networks, testbed: &Testbed, name: &str, configuration: &Value) -> Daemon {
    let path = testbed.write(name, configuration).display().to_string();
    Daemon::start(
        name,
        testbed.folder(),
        &mut within(networks, Namespace::Inside, REPORT, &["--config", &path]),
    )
}

#[test]
fn a_vanished_service_with_queued_data_ends_its_connection() {
    let networks = Networks::new();
    let testbed = Testbed::new(Front::Direct);
    let service = SocketAddr::from((GATEWAY, ports::free().port()));
    let port = Port::new("sink", service, Methods::DEFAULT);
    let script = format!("nc -l {} {} > /dev/null", service.ip(), service.port());
    let mut sink = Daemon::start(
        "sink",
        testbed.folder(),
        &mut within(&networks, Namespace::Gateway, "sh", &["-c", &script]),
    );
    sink.wait_ready(|| networks.has_listener_at(Namespace::Gateway, service));
    let mut master = role(
        &networks,
        &testbed,
        "master",
        &testbed.master_configuration(json!({})),
    );
    master.wait_ready(|| networks.has_listener_at(Namespace::Inside, testbed.master_address()));
    let ports = std::slice::from_ref(&port);
    let _server = role(
        &networks,
        &testbed,
        "server",
        &testbed.server_configuration(ports, json!({"tcp_keepalive": "1s"})),
    );
    let mut client = role(
        &networks,
        &testbed,
        "client",
        &testbed.client_configuration(ports, json!({})),
    );
    client.wait_ready(|| networks.has_listener_at(Namespace::Inside, port.local));
    client.wait_for_line(&["attached to a server"]);

    let script = format!(
        "cat /dev/zero | nc {} {}",
        port.local.ip(),
        port.local.port()
    );
    let mut application = Daemon::start(
        "application",
        testbed.folder(),
        &mut within(&networks, Namespace::Inside, "bash", &["-c", &script]),
    );
    wait::pause(Duration::from_secs(1));
    assert!(!application.has_ended(), "{}", application.log());
    let port = service.port().to_string();
    networks
        .run(
            Namespace::Gateway,
            &[
                "iptables", "-A", "INPUT", "-p", "tcp", "--dport", &port, "-j", "DROP",
            ],
        )
        .succeeded();
    assert!(
        application.wait_for_end(DETECTION_TIME).is_some(),
        "the connection is still there"
    );
}
