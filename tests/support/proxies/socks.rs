//! microsocks: SOCKS5 with one user. Its only timeout is a quarter of an hour, and it has no
//! configuration to reload.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use super::{PASSWORD, PASSWORD_IN_URL, USER};
use crate::support::{daemon::Daemon, ports};

/// A running microsocks.
#[derive(Debug)]
pub(crate) struct Microsocks {
    address: SocketAddr,
    folder: PathBuf,
    pub daemon: Daemon,
}

impl Microsocks {
    /// Starts it.
    pub(crate) fn start(folder: &Path) -> Microsocks {
        let address = ports::free();
        Microsocks {
            address,
            folder: folder.to_owned(),
            daemon: run(folder, address),
        }
    }

    /// The value of `proxy` with this scheme.
    pub(crate) fn url(&self, scheme: &str) -> String {
        self.url_for(scheme, PASSWORD_IN_URL)
    }

    /// The same with another password.
    pub(crate) fn url_for(&self, scheme: &str, password: &str) -> String {
        format!("{scheme}://{USER}:{password}@{}", self.address)
    }

    /// The same without a user.
    pub(crate) fn url_for_nobody(&self) -> String {
        format!("socks5://{}", self.address)
    }

    /// Kills and restarts it.
    pub(crate) fn kill_and_start(&mut self) {
        self.daemon.kill();
        self.daemon = run(&self.folder, self.address);
    }
}

fn run(folder: &Path, address: SocketAddr) -> Daemon {
    let mut microsocks = Command::new("microsocks");
    microsocks.args([
        "-i",
        &address.ip().to_string(),
        "-p",
        &address.port().to_string(),
        "-u",
        USER,
        "-P",
        PASSWORD,
    ]);
    let mut daemon = Daemon::start("microsocks", folder, &mut microsocks);
    daemon.wait_ready(|| ports::has_listener_at(address));
    daemon
}
