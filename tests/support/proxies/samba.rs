//! A domain of one machine: Samba's `winbindd` with local accounts in a separate folder, and
//! `ntlm_auth`, which verifies squid's NTLM messages with it.
//!
//! `ntlm_auth` looks for `winbindd` at one compiled-in path. So squid runs in a mount namespace
//! that has the test's folder there. This needs root.

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

use super::{PASSWORD, write};
use crate::support::{daemon::Daemon, programs, sshd};

/// The domain, which is the name of the machine.
pub(crate) const DOMAIN: &str = "TESTBOX";

/// The account. Samba requires a system account for each Samba account, and this one exists
/// everywhere.
pub(crate) const ACCOUNT: &str = "nobody";

/// The account of squid and its helpers.
const SQUID: &str = "proxy";

/// The path at which Debian's `ntlm_auth` looks for `winbindd`.
const WINBINDD_PATH: &str = "/run/samba/winbindd";

/// Folders that Samba would have elsewhere.
const FOLDERS: [&str; 7] = [
    "private", "lock", "state", "cache", "pid", "ncalrpc", "winbindd",
];

/// A running `winbindd`.
#[derive(Debug)]
pub(crate) struct Samba {
    pub winbindd: Daemon,
    home: TempDir,
}

impl Samba {
    /// Creates the account and starts `winbindd`.
    #[track_caller]
    pub(crate) fn start(folder: &Path) -> Samba {
        assert!(
            sshd::is_root(),
            "NTLM with Samba needs a mount namespace: run the tests as root"
        );
        // The test's own folder is private, and squid's helper must enter this one.
        let home = tempfile::Builder::new()
            .prefix("report-samba-")
            .tempdir()
            .expect("a folder for Samba");
        programs::run(Command::new("chmod").arg("755").arg(home.path())).succeeded();
        FOLDERS
            .iter()
            .for_each(|name| fs::create_dir(home.path().join(name)).expect("a folder for Samba"));
        let configuration = home.path().join("smb.conf");
        write(&configuration, &samba_configuration(home.path()));
        let mut smbpasswd = Command::new("smbpasswd");
        smbpasswd
            .arg("-c")
            .arg(&configuration)
            .args(["-s", "-a", ACCOUNT]);
        programs::run_with(
            &mut smbpasswd,
            format!("{PASSWORD}\n{PASSWORD}\n").as_bytes(),
        )
        .succeeded();
        let mut winbindd = Command::new("winbindd");
        winbindd
            .args(["-F", "--no-process-group", "--debug-stdout", "-s"])
            .arg(&configuration);
        let mut winbindd = Daemon::start("winbindd", folder, &mut winbindd);
        let (pipe, privileged) = (
            home.path().join("winbindd/pipe"),
            home.path().join("state/winbindd_privileged"),
        );
        winbindd.wait_ready(|| pipe.exists() && privileged.join("pipe").exists());
        // Gives squid's group access to the privileged pipe. Debian's package also leaves this to
        // the administrator.
        programs::run(Command::new("chgrp").arg(SQUID).arg(&privileged)).succeeded();
        Samba { winbindd, home }
    }

    /// squid's lines for NTLM.
    pub(crate) fn ntlm(&self) -> [String; 2] {
        let configuration = self.home.path().join("smb.conf");
        let program = format!(
            "/usr/bin/ntlm_auth --configfile={} --helper-protocol=squid-2.5-ntlmssp",
            configuration.display()
        );
        [
            format!("auth_param ntlm program {program}"),
            "auth_param ntlm children 4 startup=1 idle=1".to_owned(),
        ]
    }

    /// The words that start squid so that its helper finds this `winbindd`.
    pub(crate) fn within(&self) -> Vec<String> {
        let ours = self.home.path().join("winbindd");
        let script = format!(
            "mkdir -p {WINBINDD_PATH} && mount --bind {} {WINBINDD_PATH} && exec \"$@\"",
            ours.display()
        );
        ["unshare", "--mount", "--", "sh", "-c", &script, "sh"]
            .map(str::to_owned)
            .to_vec()
    }
}

/// Puts everything into the folder. It disables the helper daemons of `winbindd`, which no test
/// needs and which would outlive it.
fn samba_configuration(home: &Path) -> String {
    let home = home.display();
    format!(
        "[global]\nworkgroup = TESTGROUP\nnetbios name = {DOMAIN}\nserver role = standalone server\nntlm auth = ntlmv2-only\n\
         passdb backend = tdbsam:{home}/private/passdb.tdb\nprivate dir = {home}/private\nlock directory = {home}/lock\n\
         state directory = {home}/state\ncache directory = {home}/cache\npid directory = {home}/pid\nncalrpc dir = {home}/ncalrpc\n\
         winbindd socket directory = {home}/winbindd\nlog file = {home}/%m.log\nlog level = 1 auth_audit:3\ndisable netbios = yes\n\
         rpc start on demand helpers = no\n\
         interfaces = lo\nbind interfaces only = yes\nload printers = no\nidmap config * : backend = tdb\n\
         idmap config * : range = 100000-199999\n"
    )
}
