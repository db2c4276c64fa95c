//! A path that silently drops large packets (an MTU black hole). Small messages are answered, every
//! large one is lost.

use std::{fs, net::SocketAddr};

use serde_json::json;

use crate::support::{
    daemon::Daemon,
    nginx, ports,
    proxies::networks::{GATEWAY, INSIDE, Namespace, Networks},
    tunnel::{Front, Methods, Port, REPORT, Testbed},
};

/// The content of the file that the web server has.
const CONTENT: &str = "through the black hole";

/// A client inside, whose master, server and web server are at the gateway.
struct TunnelToGateway {
    client: Daemon,
    port: Port,
    _at_gateway: [Daemon; 3],
    testbed: Testbed,
    networks: Networks,
}

impl TunnelToGateway {
    /// Starts all programs and waits until the client is attached.
    fn new() -> TunnelToGateway {
        let networks = Networks::new();
        let testbed = Testbed::new(Front::Direct);
        fs::write(testbed.folder().join("file"), CONTENT).unwrap();
        let [web, master] = [(); 2].map(|()| SocketAddr::from((GATEWAY, ports::free().port())));
        let port = Port::new("web", web, Methods::DEFAULT);
        let web_server = nginx::file_server_within(
            &networks.within(Namespace::Gateway),
            || networks.has_listener_at(Namespace::Gateway, web),
            testbed.folder(),
            web,
            testbed.folder(),
        );
        let master_role = networks.master(Namespace::Gateway, &testbed, master);
        let to_master = json!({"master": master.to_string()});
        let server = networks.server(Namespace::Gateway, &testbed, &port, to_master.clone());
        let client = networks.client(&testbed, "client", &port, to_master, &[]);
        client.wait_for_line(&["attached to a server"]);
        TunnelToGateway {
            client,
            port,
            _at_gateway: [server, master_role, web_server],
            testbed,
            networks,
        }
    }

    /// What the doctor says to do about large messages.
    fn remedy_for_large_messages(&self) -> String {
        let file = self.testbed.folder().join("client.json");
        let file = file.display().to_string();
        let doctor = self.networks.run(
            Namespace::Inside,
            &[REPORT, "doctor", "--json", "--config", &file],
        );
        let document = doctor.json();
        let failed = document["steps"]
            .as_array()
            .expect("steps")
            .iter()
            .find(|step| step["name"] == "large_messages");
        failed
            .and_then(|step| step["remedy"].as_str())
            .unwrap_or_else(|| panic!("{document}"))
            .to_owned()
    }
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
    let tunnel = TunnelToGateway::new();
    drop_large_packets(&tunnel.networks);

    let remedy = tunnel.remedy_for_large_messages();
    assert!(remedy.contains("MTU") && remedy.contains("MSS"), "{remedy}");

    let url = format!("http://{}/file", tunnel.port.local);
    let header = format!("X-Large: {}", "x".repeat(4000));
    let fetched = tunnel
        .networks
        .fetch_inside("90", &["--header", &header, &url]);
    assert_eq!(fetched.succeeded().text(), CONTENT);
    let line = tunnel.client.wait_for_line(&["MTU black hole"]);
    assert!(line.contains("clamp the MSS"), "{line}");
}
