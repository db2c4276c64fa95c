//! tinyproxy, with one user.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use super::{USER, write};
use crate::support::{daemon::Daemon, ports};

/// Its configuration knows no way to write the characters that the password of the other proxies has.
pub const PASSWORD: &str = "sesame";

/// A running tinyproxy.
#[derive(Debug)]
pub struct Tinyproxy {
    address: SocketAddr,
    configuration: PathBuf,
    folder: PathBuf,
    pub daemon: Daemon,
}

impl Tinyproxy {
    /// Starts it; connections that are idle for longer than this many seconds it closes.
    pub fn start(folder: &Path, idle_seconds: u32, lines: &str) -> Tinyproxy {
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

    /// What `proxy` says.
    pub fn url(&self) -> String {
        format!("http://{USER}:{PASSWORD}@localhost:{}", self.address.port())
    }

    /// Kills it and starts it again.
    pub fn kill_and_start(&mut self) {
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
    daemon.wait_ready(|| ports::is_listened_at(address));
    daemon
}
