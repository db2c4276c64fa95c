//! Reverse proxies in front of a master: HAProxy, Caddy and nginx. Each runs the shipped file under
//! nginx/ with changed addresses and paths, and with the changes that a test requests.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use super::{
    certificates::Leaf,
    daemon::{Daemon, Signal},
    nginx, ports, programs,
    shipped::ShippedFile,
};

/// A reverse proxy and its shipped file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReverseProxyKind {
    /// haproxy.cfg: HAProxy terminates TLS.
    Haproxy,
    /// haproxy-tcp.cfg: the master terminates TLS and gets client addresses from the PROXY
    /// protocol.
    HaproxyTcp,
    /// Caddyfile: Caddy terminates TLS.
    Caddy,
    /// report-tls.conf: nginx terminates TLS.
    Nginx,
    /// stream.conf: the master terminates TLS, as with [`ReverseProxyKind::HaproxyTcp`].
    NginxStream,
}

impl ReverseProxyKind {
    /// Whether the master terminates TLS.
    pub(crate) fn relays_connections(self) -> bool {
        matches!(
            self,
            ReverseProxyKind::HaproxyTcp | ReverseProxyKind::NginxStream
        )
    }

    fn file(self) -> &'static str {
        match self {
            ReverseProxyKind::Haproxy => "haproxy.cfg",
            ReverseProxyKind::HaproxyTcp => "haproxy-tcp.cfg",
            ReverseProxyKind::Caddy => "Caddyfile",
            ReverseProxyKind::Nginx => "report-tls.conf",
            ReverseProxyKind::NginxStream => "stream.conf",
        }
    }
}

/// The addresses and files that the reverse proxy needs.
pub(crate) struct ReverseProxyConfig<'a> {
    pub folder: &'a Path,
    pub master: SocketAddr,
    /// A web server, and the folder of its files, for the site beside the tunnel.
    pub site: SocketAddr,
    pub root: &'a Path,
    pub leaf: &'a Leaf,
}

/// A running reverse proxy.
pub(crate) struct ReverseProxy {
    pub kind: ReverseProxyKind,
    pub address: SocketAddr,
    pub daemon: Daemon,
    file: String,
    admin: SocketAddr,
}

impl ReverseProxy {
    /// Starts it. `replacements` has pairs of a text in the shipped file and its replacement.
    pub(crate) fn start(
        kind: ReverseProxyKind,
        config: &ReverseProxyConfig<'_>,
        replacements: &[(&'static str, &'static str)],
    ) -> ReverseProxy {
        let (address, admin) = (ports::free(), ports::free());
        let (daemon, file) = if kind == ReverseProxyKind::Nginx {
            (start_nginx(config, address, replacements), String::new())
        } else {
            let mut shipped = ShippedFile::read(kind.file());
            shipped.replace("127.0.0.1:51324", &config.master.to_string());
            for (text, replacement) in settings(kind, config, address, admin) {
                shipped.replace(text, &replacement);
            }
            for (text, replacement) in replacements {
                shipped.replace(text, replacement);
            }
            let file = config.folder.join(kind.file());
            fs::write(&file, shipped.into_text()).expect("the configuration is written");
            let file = file.display().to_string();
            let mut command = command(kind, config.folder, &file);
            let mut daemon = Daemon::start("front", config.folder, &mut command);
            daemon.wait_ready(|| ports::has_listener_at(address));
            (daemon, file)
        };
        ReverseProxy {
            kind,
            address,
            daemon,
            file,
            admin,
        }
    }

    /// Reloads the configuration. The old processes and their connections end about one second
    /// later.
    pub(crate) fn reload(&self) {
        match self.kind {
            ReverseProxyKind::Haproxy | ReverseProxyKind::HaproxyTcp => {
                self.daemon.signal(Signal::User2)
            }
            ReverseProxyKind::Nginx | ReverseProxyKind::NginxStream => {
                self.daemon.signal(Signal::Hangup)
            }
            ReverseProxyKind::Caddy => {
                let mut caddy = programs::command("caddy");
                caddy.args([
                    "reload",
                    "--force",
                    "--adapter",
                    "caddyfile",
                    "--config",
                    &self.file,
                ]);
                programs::run(caddy.args(["--address", &self.admin.to_string()])).succeeded();
            }
        }
    }
}

/// Starts nginx with its shipped file for TLS. After a reload, old processes end within a second.
fn start_nginx(
    config: &ReverseProxyConfig<'_>,
    address: SocketAddr,
    replacements: &[(&'static str, &'static str)],
) -> Daemon {
    let tuning = nginx::Tuning {
        main: "worker_shutdown_timeout 1s;",
        replacements: replacements.to_vec(),
    };
    let shipped = nginx::Shipped {
        file: ReverseProxyKind::Nginx.file(),
        master: config.master,
        leaf: Some(config.leaf),
        root: config.root,
        tuning: &tuning,
    };
    nginx::front(config.folder, address, &shipped)
}

/// The differences between a test's machine and an operator's, as pairs of a text in the shipped
/// file and its replacement.
fn settings(
    kind: ReverseProxyKind,
    config: &ReverseProxyConfig<'_>,
    address: SocketAddr,
    admin: SocketAddr,
) -> Vec<(&'static str, String)> {
    match kind {
        ReverseProxyKind::Haproxy => {
            let pem = config.folder.join("haproxy.pem");
            let both = [&config.leaf.cert, &config.leaf.key]
                .map(|file| fs::read_to_string(file).expect("the certificate's files"));
            fs::write(&pem, both.concat()).expect("both in one file");
            let tls_and_site = [
                ("/etc/ssl/report/haproxy.pem", pem.display().to_string()),
                ("127.0.0.1:8080", config.site.to_string()),
            ];
            [&haproxy_settings(address)[..], &tls_and_site].concat()
        }
        ReverseProxyKind::HaproxyTcp => haproxy_settings(address).to_vec(),
        ReverseProxyKind::Caddy => caddy_settings(config, address, admin).to_vec(),
        ReverseProxyKind::NginxStream => vec![
            ("listen 443", format!("listen {address}")),
            ("        listen [::]:443;\n", String::new()),
            (
                "stream {",
                format!("{}stream {{", nginx_around(config.folder)),
            ),
        ],
        ReverseProxyKind::Nginx => Vec::new(),
    }
}

/// The settings of both shipped files of HAProxy.
fn haproxy_settings(address: SocketAddr) -> [(&'static str, String); 3] {
    [
        ("bind :::443 v4v6", format!("bind {address}")),
        ("hard-stop-after 10m", "hard-stop-after 1s".to_owned()),
        ("maxconn 20000", "maxconn 200".to_owned()),
    ]
}

fn caddy_settings(
    config: &ReverseProxyConfig<'_>,
    address: SocketAddr,
    admin: SocketAddr,
) -> [(&'static str, String); 5] {
    let (port, ip) = (address.port(), address.ip());
    [
        (
            "\tgrace_period 10s",
            format!("\tgrace_period 1s\n\tauto_https disable_redirects\n\tadmin {admin}"),
        ),
        (
            "tunnel.example.com {",
            format!("https://localhost:{port} {{\n\tbind {ip}"),
        ),
        (
            "/etc/ssl/report/fullchain.pem",
            config.leaf.cert.display().to_string(),
        ),
        (
            "/etc/ssl/report/privkey.pem",
            config.leaf.key.display().to_string(),
        ),
        ("/var/www/html", config.root.display().to_string()),
    ]
}

/// The part of nginx.conf before the shipped file.
fn nginx_around(folder: &Path) -> String {
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\nuser root;\nworker_processes 1;\nworker_shutdown_timeout 1s;\n\
         pid {}/stream.pid;\nerror_log stderr;\nevents {{ worker_connections 2048; }}\n",
        folder.display()
    )
}

fn command(kind: ReverseProxyKind, folder: &Path, file: &str) -> Command {
    match kind {
        ReverseProxyKind::Haproxy | ReverseProxyKind::HaproxyTcp => {
            let mut haproxy = Command::new("haproxy");
            // In master-worker mode the master process receives the signal to reload.
            haproxy.args(["-W", "-f", file]);
            haproxy
        }
        ReverseProxyKind::Caddy => {
            let mut caddy = Command::new("caddy");
            // Keeps Caddy's state inside the test's folder.
            caddy.envs(["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"].map(|name| (name, folder)));
            caddy.args(["run", "--adapter", "caddyfile", "--config", file]);
            caddy
        }
        ReverseProxyKind::Nginx | ReverseProxyKind::NginxStream => {
            let mut nginx = Command::new("nginx");
            nginx
                .args(["-e", "stderr", "-p"])
                .arg(folder)
                .args(["-c", file, "-g", "daemon off;"]);
            nginx
        }
    }
}
