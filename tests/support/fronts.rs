//! Reverse proxies in front of a master: HAProxy, Caddy and nginx. Each runs the shipped file under
//! nginx/ with changed addresses and paths, and with the changes that a test requests.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use super::{
    certificates::Leaf,
    daemon::{Daemon, Signal},
    nginx, ports, programs,
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
        if kind == ReverseProxyKind::Nginx {
            let tuning = nginx::Tuning {
                main: "worker_shutdown_timeout 1s;",
                replacements: replacements.to_vec(),
            };
            let leaf = Some(config.leaf);
            let shipped = nginx::Shipped {
                file: kind.file(),
                master: config.master,
                leaf,
                root: config.root,
                tuning: &tuning,
            };
            let daemon = nginx::front(config.folder, address, &shipped);
            return ReverseProxy {
                kind,
                address,
                daemon,
                file: String::new(),
                admin,
            };
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("nginx")
            .join(kind.file());
        let mut text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut replace = |shipped: &str, replacement: &str| {
            assert!(
                text.contains(shipped),
                "{} does not contain {shipped}",
                kind.file()
            );
            text = text.replace(shipped, replacement);
        };
        replace("127.0.0.1:51324", &config.master.to_string());
        settings(kind, config, address, admin)
            .iter()
            .for_each(|(shipped, replacement)| replace(shipped, replacement));
        replacements
            .iter()
            .for_each(|(shipped, replacement)| replace(shipped, replacement));
        let file = config.folder.join(kind.file());
        fs::write(&file, text).expect("the configuration is written");
        let file = file.display().to_string();
        let mut daemon = Daemon::start(
            "front",
            config.folder,
            &mut command(kind, config.folder, &file),
        );
        daemon.wait_ready(|| ports::has_listener_at(address));
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

/// The differences between a test's machine and an operator's, as pairs of a text in the shipped
/// file and its replacement.
fn settings(
    kind: ReverseProxyKind,
    config: &ReverseProxyConfig<'_>,
    address: SocketAddr,
    admin: SocketAddr,
) -> Vec<(&'static str, String)> {
    let ReverseProxyConfig {
        site,
        root,
        leaf,
        folder,
        ..
    } = config;
    match kind {
        ReverseProxyKind::Haproxy => {
            let pem = folder.join("haproxy.pem");
            let both = [&leaf.cert, &leaf.key]
                .map(|file| fs::read_to_string(file).expect("the certificate's files"));
            fs::write(&pem, both.concat()).expect("both in one file");
            vec![
                ("bind :::443 v4v6", format!("bind {address}")),
                ("/etc/ssl/report/haproxy.pem", pem.display().to_string()),
                ("127.0.0.1:8080", site.to_string()),
                ("hard-stop-after 10m", "hard-stop-after 1s".to_owned()),
                ("maxconn 20000", "maxconn 200".to_owned()),
            ]
        }
        ReverseProxyKind::HaproxyTcp => vec![
            ("bind :::443 v4v6", format!("bind {address}")),
            ("hard-stop-after 10m", "hard-stop-after 1s".to_owned()),
            ("maxconn 20000", "maxconn 200".to_owned()),
        ],
        ReverseProxyKind::Caddy => vec![
            (
                "\tgrace_period 10s",
                format!("\tgrace_period 1s\n\tauto_https disable_redirects\n\tadmin {admin}"),
            ),
            (
                "tunnel.example.com {",
                format!(
                    "https://localhost:{} {{\n\tbind {}",
                    address.port(),
                    address.ip()
                ),
            ),
            (
                "/etc/ssl/report/fullchain.pem",
                leaf.cert.display().to_string(),
            ),
            (
                "/etc/ssl/report/privkey.pem",
                leaf.key.display().to_string(),
            ),
            ("/var/www/html", root.display().to_string()),
        ],
        ReverseProxyKind::NginxStream => vec![
            ("listen 443", format!("listen {address}")),
            ("        listen [::]:443;\n", String::new()),
            ("stream {", format!("{}stream {{", nginx_around(folder))),
        ],
        ReverseProxyKind::Nginx => Vec::new(),
    }
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
