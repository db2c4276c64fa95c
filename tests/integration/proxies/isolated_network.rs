//! A network that only a proxy can leave. A direct dial fails there, and a client through the proxy
//! reaches a web server outside.

use std::{fs, net::SocketAddr, process::Command};

use serde_json::{Value, json};

use super::{proxied_tunnel::links_of, transfer};
use crate::support::{
    bytes,
    daemon::Daemon,
    nginx, ports, programs,
    proxies::{
        networks::{GATEWAY, Namespace, Networks, OUTSIDE},
        squid::{Setup, Squid},
    },
    tunnel::{Front, Methods, Port, REPORT, Testbed, with},
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
        let there = json!({"listen_at": master.to_string()});
        let mut master_role = role(
            &networks,
            Namespace::Outside,
            &testbed,
            "master",
            testbed.master_configuration(there),
            &[],
        );
        master_role.wait_ready(|| listens(master));
        let server = testbed.server_configuration(
            std::slice::from_ref(&port),
            json!({"master": master.to_string()}),
        );
        let server_role = role(
            &networks,
            Namespace::Outside,
            &testbed,
            "server",
            server,
            &[],
        );
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
        let configuration = self
            .testbed
            .client_configuration(std::slice::from_ref(&self.port), fields);
        let mut client = role(
            &self.networks,
            Namespace::Inside,
            &self.testbed,
            name,
            configuration,
            environment,
        );
        client.wait_ready(|| {
            self.networks
                .has_listener_at(Namespace::Inside, self.port.local)
        });
        client
    }

    /// Fetches the file from this address, from inside.
    fn fetch(&self, address: impl std::fmt::Display) -> programs::ProgramOutput {
        let url = format!("http://{address}/file");
        self.networks.run(
            Namespace::Inside,
            &[
                "curl",
                "--silent",
                "--show-error",
                "--fail",
                "--noproxy",
                "*",
                "--max-time",
                "60",
                &url,
            ],
        )
    }
}

fn role(
    networks: &Networks,
    namespace: Namespace,
    testbed: &Testbed,
    name: &str,
    configuration: Value,
    environment: &[(&str, &str)],
) -> Daemon {
    let path = testbed.write(name, &configuration);
    let mut command: Command = programs::within(&networks.within(namespace), REPORT);
    command
        .arg("--config")
        .arg(path)
        .envs(environment.iter().copied());
    Daemon::start(name, testbed.folder(), &mut command)
}

#[test]
fn a_client_leaves_an_isolated_network_only_through_the_proxy() {
    let content = bytes::mixed(
        fastrand::u64(..),
        usize::try_from(transfer::length()).unwrap(),
    );
    let network = IsolatedNetwork::new(&content);
    let (proxy, direct) = (network.proxy(), json!({"proxy": "none"}));

    let mut alone = network.client("alone", direct, &[]);
    println!(
        "{}",
        alone.wait_for_line(&[
            "cannot reach the master: TCP:",
            "no firewall blocks the port"
        ])
    );
    let curl = network.networks.run(
        Namespace::Inside,
        &[
            "curl",
            "--silent",
            "--noproxy",
            "*",
            "--max-time",
            "2",
            &format!("http://{}/", network.port.service),
        ],
    );
    assert_ne!(
        curl.code,
        Some(0),
        "other programs have no path either: {curl:?}"
    );
    alone.stop();
    assert_eq!(links_of(&alone), 0);

    let exempt = [
        ("ALL_PROXY", proxy.as_str()),
        ("NO_PROXY", "10.0.0.0/8, 203.0.113.0/24"),
    ];
    let mut exempted = network.client("exempted", json!({}), &exempt);
    exempted.wait_for_line(&["cannot reach the master: TCP:"]);
    exempted.stop();
    assert_eq!(links_of(&exempted), 0);

    for (name, fields, environment) in [
        ("configured", json!({"proxy": proxy}), vec![]),
        (
            "environment",
            json!({}),
            vec![("HTTP_PROXY", proxy.as_str()), ("NO_PROXY", "10.0.0.0/8")],
        ),
    ] {
        let mut client = network.client(name, fields, &environment);
        client.wait_for_line(&["attached to a server"]);
        let fetched = network.fetch(network.port.local).succeeded().out;
        let digests = [&content, &fetched].map(|bytes| bytes::sha256(bytes));
        println!(
            "{name}: {} bytes fetched; SHA-256 there {}, here {}",
            fetched.len(),
            digests[0],
            digests[1]
        );
        assert_eq!(digests[0], digests[1]);
        client.stop();
    }
    let authenticated = || {
        network
            .squid
            .access_log()
            .lines()
            .filter(|line| line.contains(" 200 ann Basic"))
            .count()
    };
    wait::until_true("squid has logged both tunnels", || authenticated() == 2);
    println!("{}", network.squid.access_log());
}
