//! A path that drops large packets and does not say so: small messages are answered, and whatever is large is lost each time.

use std::{fs, net::SocketAddr, process::Command};

use serde_json::{Value, json};

use crate::support::{
    daemon::Daemon,
    nginx, ports, programs,
    proxies::networks::{GATE, Networks, Place, ROOM},
    tunnel::{Front, Methods, Port, REPORT, Scene},
};

fn role(
    networks: &Networks,
    place: Place,
    scene: &Scene,
    name: &str,
    configuration: &Value,
) -> Daemon {
    let path = scene.write(name, configuration);
    let mut command: Command = programs::within(&networks.within(place), REPORT);
    command.arg("--config").arg(path);
    Daemon::start(name, scene.folder(), &mut command)
}

/// From now on no packet to the gate is larger than 1,300 bytes.
fn drop_large_packets(networks: &Networks) {
    let route = networks
        .run(
            Place::Room,
            &["ip", "-o", "route", "get", &GATE.to_string()],
        )
        .succeeded()
        .text();
    let device = route
        .split_whitespace()
        .skip_while(|word| *word != "dev")
        .nth(1)
        .expect("a device")
        .to_owned();
    // Otherwise the filter would see several segments as one packet.
    networks
        .run(
            Place::Room,
            &["ip", "link", "set", &device, "gso_max_segs", "1"],
        )
        .succeeded();
    // At the other end, where the sender does not see it.
    let rule = [
        "iptables",
        "-A",
        "INPUT",
        "-s",
        &ROOM.to_string(),
        "-m",
        "length",
        "--length",
        "1300:",
        "-j",
        "DROP",
    ];
    networks.run(Place::Gate, &rule).succeeded();
}

#[test]
fn a_path_that_drops_large_packets_is_named_and_gets_small_ones() {
    let networks = Networks::new();
    let scene = Scene::new(Front::Direct);
    fs::write(scene.folder().join("file"), "through the black hole").unwrap();
    let [web, master] = [(); 2].map(|()| SocketAddr::from((GATE, ports::free().port())));
    let port = Port::new("web", web, Methods::USUAL);
    let listens = |address| networks.is_listened_at(Place::Gate, address);
    let within = networks.within(Place::Gate);
    let _web = nginx::file_server_within(
        &within,
        || listens(web),
        scene.folder(),
        web,
        scene.folder(),
    );
    let at_master = json!({"listen_at": master.to_string()});
    let mut master_role = role(
        &networks,
        Place::Gate,
        &scene,
        "master",
        &scene.master_configuration(at_master),
    );
    master_role.wait_ready(|| listens(master));
    let to_master = json!({"master": master.to_string()});
    let server = scene.server_configuration(std::slice::from_ref(&port), to_master.clone());
    let _server = role(&networks, Place::Gate, &scene, "server", &server);
    let client = scene.client_configuration(std::slice::from_ref(&port), to_master);
    let mut client = role(&networks, Place::Room, &scene, "client", &client);
    client.wait_ready(|| networks.is_listened_at(Place::Room, port.local));
    client.wait_for_line(&["attached to a server"]);
    drop_large_packets(&networks);

    let file = scene.folder().join("client.json");
    let doctor = networks.run(
        Place::Room,
        &[
            REPORT,
            "doctor",
            "--json",
            "--config",
            &file.display().to_string(),
        ],
    );
    let told: Value = serde_json::from_slice(&doctor.out)
        .unwrap_or_else(|error| panic!("{error}: {}", doctor.text()));
    let failed = told["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .find(|step| step["name"] == "large_messages");
    let remedy = failed
        .and_then(|step| step["remedy"].as_str())
        .unwrap_or_else(|| panic!("{told}"));
    assert!(remedy.contains("MTU") && remedy.contains("MSS"), "{remedy}");

    let (url, header) = (
        format!("http://{}/file", port.local),
        format!("X-Large: {}", "x".repeat(4000)),
    );
    let fetch = [
        "curl",
        "--silent",
        "--show-error",
        "--fail",
        "--noproxy",
        "*",
        "--max-time",
        "90",
        "--header",
        &header,
        &url,
    ];
    assert_eq!(
        networks.run(Place::Room, &fetch).succeeded().text(),
        "through the black hole"
    );
    let line = client.wait_for_line(&["MTU black hole"]);
    assert!(line.contains("clamp the MSS"), "{line}");
}
