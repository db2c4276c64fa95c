//! nginx: the web site behind a tunnel, and the reverse proxy in front of a master.

use std::{fs, net::SocketAddr, path::Path};

use super::{certificates::Leaf, daemon::Daemon, programs, shipped::ShippedFile};

/// Serves the files of a folder.
pub(crate) fn file_server(folder: &Path, address: SocketAddr, root: &Path) -> Daemon {
    let site = format!("server {{ listen {address}; root {}; }}", root.display());
    self::site("web", folder, address, &site)
}

/// Serves one `server { … }` that listens at this address.
pub(crate) fn site(name: &str, folder: &Path, address: SocketAddr, site: &str) -> Daemon {
    start(name, folder, address, site, "")
}

/// Serves the files of a folder from within another program, which the words `within` start. nginx
/// is ready when the probe succeeds.
pub(crate) fn file_server_within(
    within: &[String],
    is_ready: impl FnMut() -> bool,
    folder: &Path,
    address: SocketAddr,
    root: &Path,
) -> Daemon {
    run(
        "web",
        folder,
        &format!("server {{ listen {address}; root {}; }}", root.display()),
        "",
        within,
        is_ready,
    )
}

/// Runs a reverse proxy in front of a master with a shipped file under nginx/. Only addresses and
/// paths are changed.
pub(crate) fn front(folder: &Path, address: SocketAddr, shipped: &Shipped<'_>) -> Daemon {
    start(
        "front",
        folder,
        address,
        &shipped.site(address),
        shipped.tuning.main,
    )
}

/// A shipped file under nginx/ and the values that replace its addresses and paths.
pub(crate) struct Shipped<'a> {
    /// `report-plain.conf` or `report-tls.conf`.
    pub file: &'a str,
    pub master: SocketAddr,
    pub leaf: Option<&'a Leaf>,
    /// Files of the web site beside the tunnel.
    pub root: &'a Path,
    pub tuning: &'a Tuning,
}

/// Changes of an operator to the shipped file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tuning {
    /// Directives outside of `http`.
    pub main: &'static str,
    /// Pairs of a text in the shipped file and its replacement.
    pub replacements: Vec<(&'static str, &'static str)>,
}

impl Shipped<'_> {
    fn site(&self, address: SocketAddr) -> String {
        let mut site = ShippedFile::read(self.file);
        site.replace("127.0.0.1:51324", &self.master.to_string());
        site.replace("tunnel.example.com", "localhost");
        site.replace("/var/www/html", &self.root.display().to_string());
        for (shipped, tuned) in &self.tuning.replacements {
            site.replace(shipped, tuned);
        }
        if let Some(leaf) = self.leaf {
            site.replace(
                "/etc/ssl/report/fullchain.pem",
                &leaf.cert.display().to_string(),
            );
            site.replace(
                "/etc/ssl/report/privkey.pem",
                &leaf.key.display().to_string(),
            );
        }
        site.into_text()
            .lines()
            .filter_map(|line| listen_at(line, address))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// The line with the test's address in place of the port. `None` for lines of IPv6.
fn listen_at(line: &str, address: SocketAddr) -> Option<String> {
    let Some(rest) = line.trim_start().strip_prefix("listen ") else {
        return Some(line.to_owned());
    };
    let (port, rest) = rest.split_at(rest.find([' ', ';']).unwrap_or(rest.len()));
    (!port.starts_with('[')).then(|| format!("listen {address}{rest}"))
}

fn start(name: &str, folder: &Path, address: SocketAddr, site: &str, main: &str) -> Daemon {
    run(name, folder, site, main, &[], || {
        std::net::TcpStream::connect(address).is_ok()
    })
}

fn run(
    name: &str,
    folder: &Path,
    site: &str,
    main: &str,
    within: &[String],
    is_ready: impl FnMut() -> bool,
) -> Daemon {
    let home = folder.join(name);
    fs::create_dir_all(&home).expect("a folder for nginx");
    let configuration = home.join("nginx.conf");
    fs::write(&configuration, complete(&home, site, main)).expect("the configuration is written");
    let command = || {
        let mut nginx = programs::within(within, "nginx");
        nginx
            .args(["-e", "stderr", "-p"])
            .arg(&home)
            .arg("-c")
            .arg(&configuration);
        nginx
    };
    let checked = command().arg("-t").output().expect("nginx runs");
    assert!(
        checked.status.success(),
        "nginx -t: {}",
        String::from_utf8_lossy(&checked.stderr)
    );
    let mut daemon = Daemon::start(name, folder, command().args(["-g", "daemon off;"]));
    daemon.wait_ready(is_ready);
    daemon
}

/// A complete configuration around the site. nginx writes everything into its own folder.
fn complete(home: &Path, site: &str, main: &str) -> String {
    let home = home.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {home}/{kind};\n"))
        .collect();
    // In a container the tests run as root, and the worker must be able to read the test's folder.
    format!(
        "user root;\nworker_processes 1;\n{main}\npid {home}/pid;\nerror_log stderr;\nevents {{ worker_connections 2048; }}\n\
         http {{\naccess_log off;\n{temporary}{site}\n}}\n"
    )
}
