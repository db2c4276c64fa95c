//! A master behind other people's front ends, each with the file under nginx/ as it is shipped: what goes through, how long it may rest, what a reload
//! does, who is seen, and the web site beside it.

use std::{fs, time::Duration};

use serde_json::{Value, json};

use crate::{
    proxies::bed::Bed,
    support::{
        daemon::Daemon,
        fronts::{Front, Kind, Place},
        nginx, ports, programs,
        tunnel::{Fields, Front as AtMaster, Scene, with},
    },
};

/// Longer than the idle limits that the tests set.
const REST: Duration = Duration::from_secs(8);

const PAGE: &str = "the web site beside the tunnel\n";

/// A tunnel through a front.
struct Behind {
    bed: Bed,
    front: Front,
    _site: Daemon,
}

impl Behind {
    fn new(kind: Kind, instead: &[(&'static str, &'static str)], heartbeat: &str) -> Behind {
        let scene = Scene::new(AtMaster::Direct);
        let root = scene.folder().join("www");
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join("index.html"), PAGE).unwrap();
        let site = ports::free();
        let _site = nginx::file_server(scene.folder(), site, &root);
        let place = Place {
            folder: scene.folder(),
            master: scene.master_address(),
            site,
            root: &root,
            leaf: scene.leaf(),
        };
        let front = Front::start(kind, &place, instead);
        let role = json!({
            "master": format!("wss://localhost:{}/tunnel", front.address.port()),
            "tls": {"ca": scene.authority().path()}, "heartbeat": heartbeat, "log_level": "info",
        });
        // What a visitor invents; to be seen as coming from another address than the front's own.
        let client = json!({
            "bind_address": "127.0.0.9",
            "headers": {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9"},
        });
        let fields = Fields {
            master: master(kind, &scene, site),
            server: role.clone(),
            client: with(role, client),
        };
        Behind {
            bed: Bed::with_roles(scene, fields),
            front,
            _site,
        }
    }

    /// What a browser gets: the page, and the status on a line of its own.
    fn page(&self, path: &str) -> String {
        let mut curl = programs::command("curl");
        curl.args([
            "--silent",
            "--noproxy",
            "*",
            "--write-out",
            "%{http_code}\n",
            "--cacert",
        ]);
        curl.arg(self.bed.tunnel.scene.authority().path());
        programs::run(curl.arg(format!(
            "https://localhost:{}{path}",
            self.front.address.port()
        )))
        .succeeded()
        .text()
    }
}

/// What the shipped file says that the master is to have.
fn master(kind: Kind, scene: &Scene, site: std::net::SocketAddr) -> Value {
    // The file under nginx/ takes the path away; loopback is the visitor's network in a test, and only the front is to be trusted.
    let path = if kind == Kind::Nginx { "/" } else { "/tunnel" };
    let fields = json!({"path": path, "trusted_proxies": ["127.0.0.1"]});
    if !kind.relays_connections() {
        return fields;
    }
    let leaf = scene.leaf();
    let tls = json!({
        "tls": {"cert": leaf.cert, "key": leaf.key}, "proxy_protocol": true,
        "fallback": {"server": format!("http://{site}")},
    });
    with(fields, tls)
}

/// A transfer, a rest above the front's idle limit with a heartbeat below it, the site, and the visitor's address.
fn serves(kind: Kind, idle: &[(&'static str, &'static str)]) {
    let behind = Behind::new(kind, idle, "1s");
    behind.bed.carries(&format!("{kind:?}, wss"));
    behind.bed.stays_linked_while_idle(REST);
    assert_eq!(behind.page("/"), format!("{PAGE}200\n"));
    let missing = behind.page("/none");
    assert!(missing.ends_with("404\n"), "{missing}");
    // Without an upgrade the path is one like any other, but with nginx's file, which sends all of it to the master.
    let plain = behind.page("/tunnel");
    assert!(
        if kind == Kind::Nginx {
            plain.ends_with("404\n")
        } else {
            plain == missing
        },
        "{plain}"
    );
    let line =
        behind
            .bed
            .tunnel
            .master
            .wait_for_line(&["link up", "visitor=127.0.0.9", "role=client"]);
    println!("{line}");
    assert!(
        !behind.bed.tunnel.master.log().contains("203.0.113.9"),
        "an invented address is not believed"
    );
}

/// A rest above the front's idle limit with a heartbeat above it as well.
fn cuts_the_idle(kind: Kind, idle: &[(&'static str, &'static str)]) {
    Behind::new(kind, idle, "20s")
        .bed
        .is_cut_while_idle_and_survives();
}

/// Two reloads in the middle of a transfer.
fn is_reloaded(kind: Kind) {
    let behind = Behind::new(kind, &[], "1s");
    behind
        .bed
        .survives(&format!("{kind:?}, reloaded twice"), || {
            behind.front.reload()
        });
    crate::support::wait::until_true("the old configuration's links are gone", || {
        behind.bed.links().iter().all(|links| *links >= 2)
    });
}

const HAPROXY_IDLE: &[(&str, &str)] = &[("timeout tunnel 1h", "timeout tunnel 3s")];
const HAPROXY_TCP_IDLE: &[(&str, &str)] = &[
    ("timeout client 1h", "timeout client 3s"),
    ("timeout server 1h", "timeout server 3s"),
];
const NGINX_IDLE: &[(&str, &str)] = &[("proxy_read_timeout 1h", "proxy_read_timeout 3s")];
const NGINX_STREAM_IDLE: &[(&str, &str)] = &[("proxy_timeout 1h", "proxy_timeout 3s")];

#[test]
fn haproxy_serves_the_tunnel_and_a_site_beside_it() {
    serves(Kind::Haproxy, HAPROXY_IDLE);
}

#[test]
fn haproxy_cuts_links_whose_heartbeat_is_too_slow_and_no_connection() {
    cuts_the_idle(Kind::Haproxy, HAPROXY_IDLE);
}

#[test]
fn a_transfer_survives_reloads_of_haproxy() {
    is_reloaded(Kind::Haproxy);
}

#[test]
fn haproxy_relays_connections_and_says_for_whom() {
    serves(Kind::HaproxyTcp, HAPROXY_TCP_IDLE);
}

#[test]
fn haproxy_that_relays_connections_cuts_links_whose_heartbeat_is_too_slow_and_no_connection() {
    cuts_the_idle(Kind::HaproxyTcp, HAPROXY_TCP_IDLE);
}

#[test]
fn a_transfer_survives_reloads_of_haproxy_that_relays_connections() {
    is_reloaded(Kind::HaproxyTcp);
}

/// Caddy lets a WebSocket rest for as long as it likes: there is no limit to be below.
#[test]
fn caddy_serves_the_tunnel_and_a_site_beside_it() {
    serves(Kind::Caddy, &[]);
}

#[test]
fn a_transfer_survives_reloads_of_caddy() {
    is_reloaded(Kind::Caddy);
}

#[test]
fn nginx_serves_the_tunnel_and_a_site_beside_it() {
    serves(Kind::Nginx, NGINX_IDLE);
}

#[test]
fn nginx_cuts_links_whose_heartbeat_is_too_slow_and_no_connection() {
    cuts_the_idle(Kind::Nginx, NGINX_IDLE);
}

#[test]
fn a_transfer_survives_reloads_of_nginx() {
    is_reloaded(Kind::Nginx);
}

#[test]
fn nginx_relays_connections_and_says_for_whom() {
    serves(Kind::NginxStream, NGINX_STREAM_IDLE);
}

#[test]
fn nginx_that_relays_connections_cuts_links_whose_heartbeat_is_too_slow_and_no_connection() {
    cuts_the_idle(Kind::NginxStream, NGINX_STREAM_IDLE);
}

#[test]
fn a_transfer_survives_reloads_of_nginx_that_relays_connections() {
    is_reloaded(Kind::NginxStream);
}
