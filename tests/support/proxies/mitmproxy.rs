//! mitmproxy as the TLS-inspecting middlebox of an organisation. Clients must trust its authority.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use super::write;
use crate::support::{daemon::Daemon, ports};

/// mitmproxy has no option for the idle timeout. The addon prints one line for each WebSocket,
/// because mitmdump would print every message.
const ADDON: &str = "\
from mitmproxy.proxy import server

server.TimeoutWatchdog.CONNECTION_TIMEOUT = IDLE_SECONDS

def websocket_start(flow):
    print('looks into', flow.request.pretty_url, flow.response.status_code, flush=True)
";

/// A running mitmdump.
#[derive(Debug)]
pub(crate) struct Mitmproxy {
    address: SocketAddr,
    home: PathBuf,
    folder: PathBuf,
    /// The authority that mitmproxy itself trusts.
    trusted: PathBuf,
    pub daemon: Daemon,
}

impl Mitmproxy {
    /// Starts it with this authority as trusted. It closes connections that are idle for longer
    /// than this many seconds.
    pub(crate) fn start(folder: &Path, trusted: &Path, idle_seconds: u32) -> Mitmproxy {
        let address = ports::free();
        let home = folder.join("mitmproxy");
        fs::create_dir_all(&home).expect("a folder for mitmproxy");
        write(
            &home.join("addon.py"),
            &ADDON.replace("IDLE_SECONDS", &idle_seconds.to_string()),
        );
        let daemon = run(folder, &home, trusted, address);
        Mitmproxy {
            address,
            home,
            folder: folder.to_owned(),
            trusted: trusted.to_owned(),
            daemon,
        }
    }

    /// The value of `proxy`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The authority that signs its certificates.
    pub(crate) fn authority(&self) -> PathBuf {
        self.home.join("mitmproxy-ca-cert.pem")
    }

    /// Kills and restarts it with the same authority.
    pub(crate) fn kill_and_start(&mut self) {
        self.daemon.kill();
        self.daemon = run(&self.folder, &self.home, &self.trusted, self.address);
    }
}

fn run(folder: &Path, home: &Path, trusted: &Path, address: SocketAddr) -> Daemon {
    let mut mitmdump = Command::new("mitmdump");
    mitmdump.args([
        "--listen-host",
        &address.ip().to_string(),
        "--listen-port",
        &address.port().to_string(),
    ]);
    mitmdump
        .arg("--set")
        .arg(format!("confdir={}", home.display()));
    mitmdump.arg("--set").arg(format!(
        "ssl_verify_upstream_trusted_ca={}",
        trusted.display()
    ));
    mitmdump
        .arg("--quiet")
        .arg("--scripts")
        .arg(home.join("addon.py"));
    let mut daemon = Daemon::start("mitmproxy", folder, &mut mitmdump);
    daemon.wait_ready(|| ports::has_listener_at(address));
    daemon
}
