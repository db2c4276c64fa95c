//! A path that silently drops large packets (an MTU black hole). Small messages are answered, every
//! large one is lost.

use std::{fs, net::SocketAddr, process::Command};

use serde_json::{Value, json};

use crate::support::{
    daemon::Daemon,
    nginx, ports, programs,
    proxies::networks::{GATEWAY, INSIDE, Namespace, Networks},
    tunnel::{Front, Methods, Port, REPORT, Testbed},
};

fn role(
    networks: &Networks,
    namespace: Namespace,
    testbed: &Testbed,
    name: &str,
    configuration: &Value,
) -> Daemon {
    let path = testbed.write(name, configuration);
    let mut command: Command = programs::within(&networks.within(namespace), REPORT);
    command.arg("--config").arg(path);
    Daemon::start(name, testbed.folder(), &mut command)
}

/// Drops all packets to the gateway that are larger than 1,300 bytes.
fn drop_large_packets(networks: &Networks) {
    let route = networks
        .run(
            Namespace::Inside,
            &["ip", "-o", "route", "get", &GATEWAY.to_string()],
        )
        .succeeded()
        .text();
    let device = route
        .split_whitespace()
        .skip_while(|word| *word != "dev")
        .nth(1)
        .expect("a device")
        .to_owned();
    // Otherwise the filter sees several segments as one packet.
    networks
        .run(
            Namespace::Inside,
            &["ip", "link", "set", &device, "gso_max_segs", "1"],
        )
        .succeeded();
    // The receiving end drops the packets, so the sender gets no error.
    let rule = [
        "iptables",
        "-A",
        "INPUT",
        "-s",
        &INSIDE.to_string(),
        "-m",
        "length",
        "--length",
        "1300:",
        "-j",
        "DROP",
    ];
    networks.run(Namespace::Gateway, &rule).succeeded();
}

#[test]
fn an_mtu_black_hole_is_reported_and_gets_small_packets() {
    let networks = Networks::new();
    let testbed = Testbed::new(Front::Direct);
    fs::write(testbed.folder().join("file"), "through the black hole").unwrap();
    let [web, master] = [(); 2].map(|()| SocketAddr::from((GATEWAY, ports::free().port())));
    let port = Port::new("web", web, Methods::DEFAULT);
    let listens = |address| networks.has_listener_at(Namespace::Gateway, address);
    let within = networks.within(Namespace::Gateway);
    let _web = nginx::file_server_within(
        &within,
        || listens(web),
        testbed.folder(),
        web,
        testbed.folder(),
    );
    let at_master = json!({"listen_at": master.to_string()});
    let mut master_role = role(
        &networks,
        Namespace::Gateway,
        &testbed,
        "master",
        &testbed.master_configuration(at_master),
    );
    master_role.wait_ready(|| listens(master));
    let to_master = json!({"master": master.to_string()});
    let server = testbed.server_configuration(std::slice::from_ref(&port), to_master.clone());
    let _server = role(&networks, Namespace::Gateway, &testbed, "server", &server);
    let client = testbed.client_configuration(std::slice::from_ref(&port), to_master);
    let mut client = role(&networks, Namespace::Inside, &testbed, "client", &client);
    client.wait_ready(|| networks.has_listener_at(Namespace::Inside, port.local));
    client.wait_for_line(&["attached to a server"]);
    drop_large_packets(&networks);

    let file = testbed.folder().join("client.json");
    let doctor = networks.run(
        Namespace::Inside,
        &[
            REPORT,
            "doctor",
            "--json",
            "--config",
            &file.display().to_string(),
        ],
    );
    let document: Value = serde_json::from_slice(&doctor.out)
        .unwrap_or_else(|error| panic!("{error}: {}", doctor.text()));
    let failed = document["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .find(|step| step["name"] == "large_messages");
    let remedy = failed
        .and_then(|step| step["remedy"].as_str())
        .unwrap_or_else(|| panic!("{document}"));
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
        networks.run(Namespace::Inside, &fetch).succeeded().text(),
        "through the black hole"
    );
    let line = client.wait_for_line(&["MTU black hole"]);
    assert!(line.contains("clamp the MSS"), "{line}");
}
