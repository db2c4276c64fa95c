//! A master behind common reverse proxies, each with the shipped file under nginx/. The tests cover
//! traffic, idle time, reloads, the visible client address and the web site beside the tunnel.

use std::{fs, time::Duration};

use serde_json::{Value, json};

use crate::{
    proxies::proxied_tunnel::ProxiedTunnel,
    support::{
        daemon::Daemon,
        fronts::{ReverseProxy, ReverseProxyConfig, ReverseProxyKind},
        nginx, ports, programs,
        tunnel::{Fields, Front as AtMaster, Testbed, with},
    },
};

/// Longer than the idle limits that the tests set.
const IDLE_TIME: Duration = Duration::from_secs(8);

const PAGE: &str = "the web site beside the tunnel\n";

/// A tunnel through a reverse proxy.
pub(crate) struct FrontedTunnel {
    pub proxied: ProxiedTunnel,
    pub front: ReverseProxy,
    _site: Daemon,
}

impl FrontedTunnel {
    fn new(
        kind: ReverseProxyKind,
        replacements: &[(&'static str, &'static str)],
        heartbeat: &str,
    ) -> FrontedTunnel {
        let fields = json!({"heartbeat": heartbeat, "log_level": "info"});
        FrontedTunnel::with_fields(kind, replacements, fields)
    }

    /// Starts it with these fields at client and server.
    pub(crate) fn with_fields(
        kind: ReverseProxyKind,
        replacements: &[(&'static str, &'static str)],
        fields: Value,
    ) -> FrontedTunnel {
        let testbed = Testbed::new(AtMaster::Direct);
        let root = testbed.folder().join("www");
        fs::create_dir_all(&root).unwrap();
        fs::write(root.join("index.html"), PAGE).unwrap();
        let site = ports::free();
        let _site = nginx::file_server(testbed.folder(), site, &root);
        let config = ReverseProxyConfig {
            folder: testbed.folder(),
            master: testbed.master_address(),
            site,
            root: &root,
            leaf: testbed.leaf(),
        };
        let front = ReverseProxy::start(kind, &config, replacements);
        let role = json!({
            "master": format!("wss://localhost:{}/tunnel", front.address.port()),
            "tls": {"ca": testbed.authority().path()},
        });
        let role = with(role, fields);
        // The client's forged headers. It binds to another address than the reverse proxy's own, so
        // that the master can tell the two apart.
        let client = json!({
            "bind_address": "127.0.0.9",
            "headers": {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9"},
        });
        let fields = Fields {
            master: master(kind, &testbed, site),
            server: role.clone(),
            client: with(role, client),
        };
        FrontedTunnel {
            proxied: ProxiedTunnel::with_roles(testbed, fields),
            front,
            _site,
        }
    }

    /// The page as a browser receives it, then the status on a separate line.
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
        curl.arg(self.proxied.tunnel.testbed.authority().path());
        programs::run(curl.arg(format!(
            "https://localhost:{}{path}",
            self.front.address.port()
        )))
        .succeeded()
        .text()
    }
}

/// The master's configuration as the comments of the shipped file require it.
fn master(kind: ReverseProxyKind, testbed: &Testbed, site: std::net::SocketAddr) -> Value {
    // The file under nginx/ strips the path. In a test the client's network is loopback too, so the
    // master trusts only the reverse proxy's address.
    let path = if kind == ReverseProxyKind::Nginx {
        "/"
    } else {
        "/tunnel"
    };
    let fields = json!({"path": path, "trusted_proxies": ["127.0.0.1"]});
    if !kind.relays_connections() {
        return fields;
    }
    let leaf = testbed.leaf();
    let tls = json!({
        "tls": {"cert": leaf.cert, "key": leaf.key}, "proxy_protocol": true,
        "fallback": {"server": format!("http://{site}")},
    });
    with(fields, tls)
}

/// Checks a transfer, the web site, and the client address in the master's log. A link must also
/// survive a rest above the idle limit, with a keep-alive below it.
fn check_front(kind: ReverseProxyKind, idle: &[(&'static str, &'static str)]) {
    let fronted = FrontedTunnel::new(kind, idle, "1s");
    fronted.proxied.assert_transfer(&format!("{kind:?}, wss"));
    fronted.proxied.assert_links_stay_while_idle(IDLE_TIME);
    assert_eq!(fronted.page("/"), format!("{PAGE}200\n"));
    let missing = fronted.page("/none");
    assert!(missing.ends_with("404\n"), "{missing}");
    // Without an upgrade the tunnel's path is an ordinary path. Only nginx's file sends all its
    // requests to the master.
    let plain = fronted.page("/tunnel");
    assert!(
        if kind == ReverseProxyKind::Nginx {
            plain.ends_with("404\n")
        } else {
            plain == missing
        },
        "{plain}"
    );
    let line = fronted.proxied.tunnel.master.wait_for_line(&[
        "link up",
        "visitor=127.0.0.9",
        "role=client",
    ]);
    println!("{line}");
    assert!(
        !fronted.proxied.tunnel.master.log().contains("203.0.113.9"),
        "the master ignores a forged address"
    );
}

/// A rest above the idle limit with a keep-alive that is above it as well.
fn check_idle_cut(kind: ReverseProxyKind, idle: &[(&'static str, &'static str)]) {
    FrontedTunnel::new(kind, idle, "20s")
        .proxied
        .assert_survives_idle_cut();
}

/// Reloads the reverse proxy twice in the middle of a transfer.
fn check_reloads(kind: ReverseProxyKind) {
    let fronted = FrontedTunnel::new(kind, &[], "1s");
    fronted
        .proxied
        .assert_survives(&format!("{kind:?}, reloaded twice"), || {
            fronted.front.reload()
        });
    crate::support::wait::until_true("the links of the old configuration have ended", || {
        fronted.proxied.links().iter().all(|links| *links >= 2)
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
fn haproxy_serves_the_tunnel_and_a_web_site() {
    check_front(ReverseProxyKind::Haproxy, HAPROXY_IDLE);
}

#[test]
fn a_slow_keep_alive_behind_haproxy_costs_links_but_no_connection() {
    check_idle_cut(ReverseProxyKind::Haproxy, HAPROXY_IDLE);
}

#[test]
fn a_transfer_survives_reloads_of_haproxy() {
    check_reloads(ReverseProxyKind::Haproxy);
}

#[test]
fn haproxy_relays_connections_with_client_addresses() {
    check_front(ReverseProxyKind::HaproxyTcp, HAPROXY_TCP_IDLE);
}

#[test]
fn a_slow_keep_alive_behind_relaying_haproxy_costs_links_but_no_connection() {
    check_idle_cut(ReverseProxyKind::HaproxyTcp, HAPROXY_TCP_IDLE);
}

#[test]
fn a_transfer_survives_reloads_of_haproxy_that_relays_connections() {
    check_reloads(ReverseProxyKind::HaproxyTcp);
}

/// Caddy has no idle limit for a WebSocket, so there is no limit to test.
#[test]
fn caddy_serves_the_tunnel_and_a_web_site() {
    check_front(ReverseProxyKind::Caddy, &[]);
}

#[test]
fn a_transfer_survives_reloads_of_caddy() {
    check_reloads(ReverseProxyKind::Caddy);
}

#[test]
fn nginx_serves_the_tunnel_and_a_web_site() {
    check_front(ReverseProxyKind::Nginx, NGINX_IDLE);
}

#[test]
fn a_slow_keep_alive_behind_nginx_costs_links_but_no_connection() {
    check_idle_cut(ReverseProxyKind::Nginx, NGINX_IDLE);
}

#[test]
fn a_transfer_survives_reloads_of_nginx() {
    check_reloads(ReverseProxyKind::Nginx);
}

#[test]
fn nginx_relays_connections_with_client_addresses() {
    check_front(ReverseProxyKind::NginxStream, NGINX_STREAM_IDLE);
}

#[test]
fn a_slow_keep_alive_behind_relaying_nginx_costs_links_but_no_connection() {
    check_idle_cut(ReverseProxyKind::NginxStream, NGINX_STREAM_IDLE);
}

#[test]
fn a_transfer_survives_reloads_of_nginx_that_relays_connections() {
    check_reloads(ReverseProxyKind::NginxStream);
}
