//! A service whose machine vanishes while data waits for it: the connection ends, and does not stay until the kernel gives up.

use std::{net::SocketAddr, process::Command, time::Duration};

use serde_json::{Value, json};

use crate::support::{
    daemon::Daemon,
    ports, programs,
    proxies::networks::{GATE, Networks, Place},
    tunnel::{Front, Methods, Port, REPORT, Scene},
    wait,
};

/// Keepalive of one second, and five retransmissions without an answer: some ten seconds. The kernel alone would take a quarter of an hour.
const NOTICED: Duration = Duration::from_secs(60);

fn within(networks: &Networks, place: Place, program: &str, arguments: &[&str]) -> Command {
    let mut command = programs::within(&networks.within(place), program);
    command.args(arguments);
    command
}

fn role(networks: &Networks, scene: &Scene, name: &str, configuration: &Value) -> Daemon {
    let path = scene.write(name, configuration).display().to_string();
    Daemon::start(
        name,
        scene.folder(),
        &mut within(networks, Place::Room, REPORT, &["--config", &path]),
    )
}

#[test]
fn a_service_that_vanishes_while_data_waits_for_it_ends_its_connection() {
    let networks = Networks::new();
    let scene = Scene::new(Front::Direct);
    let service = SocketAddr::from((GATE, ports::free().port()));
    let port = Port::new("sink", service, Methods::USUAL);
    let script = format!("nc -l {} {} > /dev/null", service.ip(), service.port());
    let mut sink = Daemon::start(
        "sink",
        scene.folder(),
        &mut within(&networks, Place::Gate, "sh", &["-c", &script]),
    );
    sink.wait_ready(|| networks.is_listened_at(Place::Gate, service));
    let mut master = role(
        &networks,
        &scene,
        "master",
        &scene.master_configuration(json!({})),
    );
    master.wait_ready(|| networks.is_listened_at(Place::Room, scene.master_address()));
    let ports = std::slice::from_ref(&port);
    let _server = role(
        &networks,
        &scene,
        "server",
        &scene.server_configuration(ports, json!({"tcp_keepalive": "1s"})),
    );
    let mut client = role(
        &networks,
        &scene,
        "client",
        &scene.client_configuration(ports, json!({})),
    );
    client.wait_ready(|| networks.is_listened_at(Place::Room, port.local));
    client.wait_for_line(&["attached to a server"]);

    let script = format!(
        "cat /dev/zero | nc {} {}",
        port.local.ip(),
        port.local.port()
    );
    let mut application = Daemon::start(
        "application",
        scene.folder(),
        &mut within(&networks, Place::Room, "bash", &["-c", &script]),
    );
    wait::pause(Duration::from_secs(1));
    assert!(!application.has_ended(), "{}", application.log());
    let port = service.port().to_string();
    networks
        .run(
            Place::Gate,
            &[
                "iptables", "-A", "INPUT", "-p", "tcp", "--dport", &port, "-j", "DROP",
            ],
        )
        .succeeded();
    assert!(
        application.wait_for_end(NOTICED).is_some(),
        "the connection is still there"
    );
}
