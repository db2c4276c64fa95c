//! tinyproxy with one user.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use super::{USER, write};
use crate::support::{daemon::Daemon, ports};

/// A separate password, because its configuration cannot express the characters in the password of
/// the other proxies.
pub(crate) const PASSWORD: &str = "sesame";

/// A running tinyproxy.
#[derive(Debug)]
pub(crate) struct Tinyproxy {
    address: SocketAddr,
    configuration: PathBuf,
    folder: PathBuf,
    pub daemon: Daemon,
}

impl Tinyproxy {
    /// Starts it. It closes connections that are idle for longer than this many seconds.
    pub(crate) fn start(folder: &Path, idle_seconds: u32, lines: &str) -> Tinyproxy {
        let address = ports::free();
        let configuration = folder.join("tinyproxy.conf");
        let (ip, port) = (address.ip(), address.port());
        write(
            &configuration,
            &format!(
                "Port {port}\nListen {ip}\nTimeout {idle_seconds}\nBasicAuth {USER} {PASSWORD}\nLogLevel Info\n{lines}\n"
            ),
        );
        let daemon = run(folder, &configuration, address);
        Tinyproxy {
            address,
            configuration,
            folder: folder.to_owned(),
            daemon,
        }
    }

    /// The value of `proxy`.
    pub(crate) fn url(&self) -> String {
        format!("http://{USER}:{PASSWORD}@localhost:{}", self.address.port())
    }

    /// Kills and restarts it.
    pub(crate) fn kill_and_start(&mut self) {
        self.daemon.kill();
        self.daemon = run(&self.folder, &self.configuration, self.address);
    }
}

fn run(folder: &Path, configuration: &Path, address: SocketAddr) -> Daemon {
    let mut daemon = Daemon::start(
        "tinyproxy",
        folder,
        Command::new("tinyproxy")
            .args(["-d", "-c"])
            .arg(configuration),
    );
    daemon.wait_ready(|| ports::has_listener_at(address));
    daemon
}
