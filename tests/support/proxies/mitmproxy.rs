//! mitmproxy, as the box of an organisation that opens TLS and looks inside: whoever wants out has to trust its authority.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use super::write;
use crate::support::{daemon::Daemon, ports};

/// For the idle timeout there is no option; and of every WebSocket one line says enough, where mitmdump would print every message.
const ADDON: &str = "\
from mitmproxy.proxy import server

server.TimeoutWatchdog.CONNECTION_TIMEOUT = IDLE_SECONDS

def websocket_start(flow):
    print('looks into', flow.request.pretty_url, flow.response.status_code, flush=True)
";

/// A running mitmdump.
#[derive(Debug)]
pub struct Mitmproxy {
    address: SocketAddr,
    home: PathBuf,
    folder: PathBuf,
    /// Whom it trusts itself.
    trusted: PathBuf,
    pub daemon: Daemon,
}

impl Mitmproxy {
    /// Starts it, trusting this authority; connections that are idle for longer than this many seconds it closes.
    pub fn start(folder: &Path, trusted: &Path, idle_seconds: u32) -> Mitmproxy {
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

    /// What `proxy` says.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The authority that it makes its certificates with.
    pub fn authority(&self) -> PathBuf {
        self.home.join("mitmproxy-ca-cert.pem")
    }

    /// Kills it and starts it again, with the same authority.
    pub fn kill_and_start(&mut self) {
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
    daemon.wait_ready(|| ports::is_listened_at(address));
    daemon
}
