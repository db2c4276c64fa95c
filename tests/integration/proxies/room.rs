//! A network that nothing leaves but through the proxy: direct dialling fails there, and a client through the proxy reaches a web server outside.

use std::{fs, net::SocketAddr, process::Command};

use serde_json::{Value, json};

use super::{bed::links_of, transfer};
use crate::support::{
    bytes,
    daemon::Daemon,
    nginx, ports, programs,
    proxies::{
        networks::{GATE, Networks, OUTSIDE, Place},
        squid::{Setup, Squid},
    },
    tunnel::{Front, Methods, Port, REPORT, Scene, with},
    wait,
};

/// What is outside, what stands at the gate, and what the client in the room is told.
struct World {
    squid: Squid,
    master: SocketAddr,
    port: Port,
    _outside: [Daemon; 3],
    scene: Scene,
    networks: Networks,
}

impl World {
    /// A web server with this file, a server and a master outside, and squid at the gate.
    fn new(content: &[u8]) -> World {
        let networks = Networks::new();
        let scene = Scene::new(Front::Direct);
        fs::write(scene.folder().join("file"), content).unwrap();
        let at = |ip| SocketAddr::from((ip, ports::free().port()));
        let (web, master) = (at(OUTSIDE), at(OUTSIDE));
        let port = Port::new("web", web, Methods::USUAL);
        let listens = |address| networks.is_listened_at(Place::Outside, address);
        let folder = scene.folder();
        let within = networks.within(Place::Outside);
        let web_server = nginx::file_server_within(&within, || listens(web), folder, web, folder);
        let there = json!({"listen_at": master.to_string()});
        let mut master_role = role(
            &networks,
            Place::Outside,
            &scene,
            "master",
            scene.master_configuration(there),
            &[],
        );
        master_role.wait_ready(|| listens(master));
        let server = scene.server_configuration(
            std::slice::from_ref(&port),
            json!({"master": master.to_string()}),
        );
        let server_role = role(&networks, Place::Outside, &scene, "server", server, &[]);
        let setup = Setup {
            within: networks.within(Place::Gate),
            address: Some(at(GATE)),
            ..Setup::default()
        };
        let squid = Squid::start(folder, setup.basic());
        World {
            squid,
            master,
            port,
            _outside: [server_role, master_role, web_server],
            scene,
            networks,
        }
    }

    /// The proxy as the room knows it.
    fn proxy(&self) -> String {
        self.squid.url().replace("localhost", &GATE.to_string())
    }

    /// A client in the room.
    fn client(&self, name: &str, fields: Value, environment: &[(&str, &str)]) -> Daemon {
        let fields = with(
            json!({"master": self.master.to_string(), "connect_timeout": "2s"}),
            fields,
        );
        let configuration = self
            .scene
            .client_configuration(std::slice::from_ref(&self.port), fields);
        let mut client = role(
            &self.networks,
            Place::Room,
            &self.scene,
            name,
            configuration,
            environment,
        );
        client.wait_ready(|| self.networks.is_listened_at(Place::Room, self.port.local));
        client
    }

    /// The file as somebody in the room fetches it from this address.
    fn fetch(&self, address: impl std::fmt::Display) -> programs::Ran {
        let url = format!("http://{address}/file");
        self.networks.run(
            Place::Room,
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
    place: Place,
    scene: &Scene,
    name: &str,
    configuration: Value,
    environment: &[(&str, &str)],
) -> Daemon {
    let path = scene.write(name, &configuration);
    let mut command: Command = programs::within(&networks.within(place), REPORT);
    command
        .arg("--config")
        .arg(path)
        .envs(environment.iter().copied());
    Daemon::start(name, scene.folder(), &mut command)
}

#[test]
fn where_nothing_but_a_proxy_leads_out_a_client_gets_out_through_it_alone() {
    let content = bytes::mixed(
        fastrand::u64(..),
        usize::try_from(transfer::length()).unwrap(),
    );
    let world = World::new(&content);
    let (proxy, direct) = (world.proxy(), json!({"proxy": "none"}));

    let mut alone = world.client("alone", direct, &[]);
    println!(
        "{}",
        alone.wait_for_line(&[
            "cannot reach the master: TCP:",
            "does a firewall let the port through?"
        ])
    );
    let curl = world.networks.run(
        Place::Room,
        &[
            "curl",
            "--silent",
            "--noproxy",
            "*",
            "--max-time",
            "2",
            &format!("http://{}/", world.port.service),
        ],
    );
    assert_ne!(curl.code, Some(0), "nothing else gets out either: {curl:?}");
    alone.stop();
    assert_eq!(links_of(&alone), 0);

    let exempt = [
        ("ALL_PROXY", proxy.as_str()),
        ("NO_PROXY", "10.0.0.0/8, 203.0.113.0/24"),
    ];
    let mut exempted = world.client("exempted", json!({}), &exempt);
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
        let mut client = world.client(name, fields, &environment);
        client.wait_for_line(&["attached to a server"]);
        let fetched = world.fetch(world.port.local).succeeded().out;
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
    let let_in = || {
        world
            .squid
            .access_log()
            .lines()
            .filter(|line| line.contains(" 200 ann Basic"))
            .count()
    };
    wait::until_true("squid has written down both tunnels", || let_in() == 2);
    println!("{}", world.squid.access_log());
}
