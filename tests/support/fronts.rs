//! What stands in front of a master on the public port: HAProxy, Caddy and nginx with the files under nginx/ as they are shipped, but for addresses,
//! paths and what a test sets otherwise.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use super::{
    certificates::Leaf,
    daemon::{Daemon, Signal},
    nginx, ports, programs,
};

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// haproxy.cfg: TLS ends here.
    Haproxy,
    /// haproxy-tcp.cfg: TLS ends at the master, which is told of visitors by the PROXY protocol.
    HaproxyTcp,
    /// Caddyfile: TLS ends here.
    Caddy,
    /// report-tls.conf: TLS ends here.
    Nginx,
    /// stream.conf: TLS ends at the master, as with [`Kind::HaproxyTcp`].
    NginxStream,
}

impl Kind {
    /// Whether TLS ends at the master.
    pub fn relays_connections(self) -> bool {
        matches!(self, Kind::HaproxyTcp | Kind::NginxStream)
    }

    fn file(self) -> &'static str {
        match self {
            Kind::Haproxy => "haproxy.cfg",
            Kind::HaproxyTcp => "haproxy-tcp.cfg",
            Kind::Caddy => "Caddyfile",
            Kind::Nginx => "report-tls.conf",
            Kind::NginxStream => "stream.conf",
        }
    }
}

/// What it is to stand between.
pub struct Place<'a> {
    pub folder: &'a Path,
    pub master: SocketAddr,
    /// A web server, and the folder of its files, for the site beside the tunnel.
    pub site: SocketAddr,
    pub root: &'a Path,
    pub leaf: &'a Leaf,
}

/// A front that runs.
pub struct Front {
    pub kind: Kind,
    pub address: SocketAddr,
    pub daemon: Daemon,
    file: String,
    admin: SocketAddr,
}

impl Front {
    /// Starts it; `instead` is what stands in the shipped file, and what stands there in its place.
    pub fn start(kind: Kind, place: &Place<'_>, instead: &[(&'static str, &'static str)]) -> Front {
        let (address, admin) = (ports::free(), ports::free());
        if kind == Kind::Nginx {
            let tuning = nginx::Tuning {
                main: "worker_shutdown_timeout 1s;",
                instead: instead.to_vec(),
            };
            let leaf = Some(place.leaf);
            let shipped = nginx::Shipped {
                file: kind.file(),
                master: place.master,
                leaf,
                root: place.root,
                tuning: &tuning,
            };
            let daemon = nginx::front(place.folder, address, &shipped);
            return Front {
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
        let mut put = |shipped: &str, meant: &str| {
            assert!(text.contains(shipped), "{} names {shipped}", kind.file());
            text = text.replace(shipped, meant);
        };
        put("127.0.0.1:51324", &place.master.to_string());
        settings(kind, place, address, admin)
            .iter()
            .for_each(|(shipped, meant)| put(shipped, meant));
        instead
            .iter()
            .for_each(|(shipped, meant)| put(shipped, meant));
        let file = place.folder.join(kind.file());
        fs::write(&file, text).expect("the configuration is written");
        let file = file.display().to_string();
        let mut daemon = Daemon::start(
            "front",
            place.folder,
            &mut command(kind, place.folder, &file),
        );
        daemon.wait_ready(|| ports::is_listened_at(address));
        Front {
            kind,
            address,
            daemon,
            file,
            admin,
        }
    }

    /// Has it read its configuration again, and end what the old one still serves within a second or so.
    pub fn reload(&self) {
        match self.kind {
            Kind::Haproxy | Kind::HaproxyTcp => self.daemon.signal(Signal::User2),
            Kind::Nginx | Kind::NginxStream => self.daemon.signal(Signal::Hangup),
            Kind::Caddy => {
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

/// What is otherwise on a test's machine than on an operator's, in a shipped file's words.
fn settings(
    kind: Kind,
    place: &Place<'_>,
    address: SocketAddr,
    admin: SocketAddr,
) -> Vec<(&'static str, String)> {
    let Place {
        site,
        root,
        leaf,
        folder,
        ..
    } = place;
    match kind {
        Kind::Haproxy => {
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
        Kind::HaproxyTcp => vec![
            ("bind :::443 v4v6", format!("bind {address}")),
            ("hard-stop-after 10m", "hard-stop-after 1s".to_owned()),
            ("maxconn 20000", "maxconn 200".to_owned()),
        ],
        Kind::Caddy => vec![
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
        Kind::NginxStream => vec![
            ("listen 443", format!("listen {address}")),
            ("        listen [::]:443;\n", String::new()),
            ("stream {", format!("{}stream {{", nginx_around(folder))),
        ],
        Kind::Nginx => Vec::new(),
    }
}

/// What stands in nginx.conf before the shipped part.
fn nginx_around(folder: &Path) -> String {
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\nuser root;\nworker_processes 1;\nworker_shutdown_timeout 1s;\n\
         pid {}/stream.pid;\nerror_log stderr;\nevents {{ worker_connections 2048; }}\n",
        folder.display()
    )
}

fn command(kind: Kind, folder: &Path, file: &str) -> Command {
    match kind {
        Kind::Haproxy | Kind::HaproxyTcp => {
            let mut haproxy = Command::new("haproxy");
            // One process that stays and others that serve: it is the one that is told to reload.
            haproxy.args(["-W", "-f", file]);
            haproxy
        }
        Kind::Caddy => {
            let mut caddy = Command::new("caddy");
            // Nothing of it stays outside of the test's folder.
            caddy.envs(["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"].map(|name| (name, folder)));
            caddy.args(["run", "--adapter", "caddyfile", "--config", file]);
            caddy
        }
        Kind::Nginx | Kind::NginxStream => {
            let mut nginx = Command::new("nginx");
            nginx
                .args(["-e", "stderr", "-p"])
                .arg(folder)
                .args(["-c", file, "-g", "daemon off;"]);
            nginx
        }
    }
}
