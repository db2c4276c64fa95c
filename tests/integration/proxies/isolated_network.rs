//! A network that only a proxy can leave. A direct dial fails there, and a client through the proxy
//! reaches a web server outside.

use std::{fs, net::SocketAddr};

use serde_json::{Value, json};

use super::{proxied_tunnel::links_of, transfer};
use crate::support::{
    bytes,
    daemon::Daemon,
    nginx, ports,
    proxies::{
        networks::{GATEWAY, Namespace, Networks, OUTSIDE},
        squid::{Setup, Squid},
    },
    tunnel::{Front, Methods, Port, Testbed, with},
    wait,
};

/// The daemons outside, the proxy at the gateway, and the configuration of clients inside.
struct IsolatedNetwork {
    squid: Squid,
    master: SocketAddr,
    port: Port,
    _outside: [Daemon; 3],
    testbed: Testbed,
    networks: Networks,
}

impl IsolatedNetwork {
    /// Starts a web server with this file, a server and a master outside, and squid at the gateway.
    fn new(content: &[u8]) -> IsolatedNetwork {
        let networks = Networks::new();
        let testbed = Testbed::new(Front::Direct);
        fs::write(testbed.folder().join("file"), content).unwrap();
        let at = |ip| SocketAddr::from((ip, ports::free().port()));
        let (web, master) = (at(OUTSIDE), at(OUTSIDE));
        let port = Port::new("web", web, Methods::DEFAULT);
        let listens = |address| networks.has_listener_at(Namespace::Outside, address);
        let folder = testbed.folder();
        let within = networks.within(Namespace::Outside);
        let web_server = nginx::file_server_within(&within, || listens(web), folder, web, folder);
        let master_role = networks.master(Namespace::Outside, &testbed, master);
        let fields = json!({"master": master.to_string()});
        let server_role = networks.server(Namespace::Outside, &testbed, &port, fields);
        let setup = Setup {
            within: networks.within(Namespace::Gateway),
            address: Some(at(GATEWAY)),
            ..Setup::default()
        };
        let squid = Squid::start(folder, setup.basic());
        IsolatedNetwork {
            squid,
            master,
            port,
            _outside: [server_role, master_role, web_server],
            testbed,
            networks,
        }
    }

    /// The proxy's URL as clients inside see it.
    fn proxy(&self) -> String {
        self.squid.url().replace("localhost", &GATEWAY.to_string())
    }

    /// Starts a client inside.
    fn client(&self, name: &str, fields: Value, environment: &[(&str, &str)]) -> Daemon {
        let fields = with(
            json!({"master": self.master.to_string(), "connect_timeout": "2s"}),
            fields,
        );
        self.networks
            .client(&self.testbed, name, &self.port, fields, environment)
    }

    /// Runs a client that dials directly, and curl without a proxy. Neither reaches the outside.
    fn assert_no_direct_path(&self) {
        let mut alone = self.client("alone", json!({"proxy": "none"}), &[]);
        println!(
            "{}",
            alone.wait_for_line(&[
                "cannot reach the master: TCP:",
                "no firewall blocks the port"
            ])
        );
        let url = format!("http://{}/", self.port.service);
        let curl = self.networks.run(
            Namespace::Inside,
            &[
                "curl",
                "--silent",
                "--noproxy",
                "*",
                "--max-time",
                "2",
                &url,
            ],
        );
        assert_ne!(
            curl.code,
            Some(0),
            "other programs have no path either: {curl:?}"
        );
        alone.stop();
        assert_eq!(links_of(&alone), 0);
    }

    /// Fetches the file through this client and compares it with `content`. Stops the client.
    fn assert_file_arrives(&self, name: &str, mut client: Daemon, content: &[u8]) {
        client.wait_for_line(&["attached to a server"]);
        let url = format!("http://{}/file", self.port.local);
        let fetched = self.networks.fetch_inside("60", &[&url]).succeeded().out;
        let digests = [content, &fetched].map(bytes::sha256);
        println!(
            "{name}: {} bytes fetched; SHA-256 there {}, here {}",
            fetched.len(),
            digests[0],
            digests[1]
        );
        assert_eq!(digests[0], digests[1]);
        client.stop();
    }

    /// The number of tunnels of the authenticated user in squid's log.
    fn authenticated_tunnels(&self) -> usize {
        self.squid
            .access_log()
            .lines()
            .filter(|line| line.contains(" 200 ann Basic"))
            .count()
    }
}

#[test]
fn a_client_leaves_an_isolated_network_only_through_the_proxy() {
    let content = bytes::mixed(
        fastrand::u64(..),
        usize::try_from(transfer::length()).unwrap(),
    );
    let network = IsolatedNetwork::new(&content);
    let proxy = network.proxy();
    network.assert_no_direct_path();

    let exempt = [
        ("ALL_PROXY", proxy.as_str()),
        ("NO_PROXY", "10.0.0.0/8, 203.0.113.0/24"),
    ];
    let mut exempted = network.client("exempted", json!({}), &exempt);
    exempted.wait_for_line(&["cannot reach the master: TCP:"]);
    exempted.stop();
    assert_eq!(links_of(&exempted), 0);

    let unset: [(&str, &str); 0] = [];
    let proxied = [("HTTP_PROXY", proxy.as_str()), ("NO_PROXY", "10.0.0.0/8")];
    for (name, fields, environment) in [
        ("configured", json!({"proxy": proxy}), &unset[..]),
        ("environment", json!({}), &proxied),
    ] {
        let client = network.client(name, fields, environment);
        network.assert_file_arrives(name, client, &content);
    }
    wait::until_true("squid has logged both tunnels", || {
        network.authenticated_tunnels() == 2
    });
    println!("{}", network.squid.access_log());
}
