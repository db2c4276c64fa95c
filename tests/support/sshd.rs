//! A real sshd with generated keys, and the ssh and scp that know them.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    daemon::Daemon,
    line_session::LineSession,
    programs::{self, ProgramOutput},
};

/// A running sshd at which the user of the test can log in with a key of the test.
#[derive(Debug)]
pub(crate) struct Sshd {
    address: SocketAddr,
    home: PathBuf,
    _daemon: Daemon,
}

impl Sshd {
    /// Starts it at this address.
    pub(crate) fn start(folder: &Path, address: SocketAddr) -> Sshd {
        let home = folder.join("sshd");
        fs::create_dir_all(&home).expect("a folder for sshd");
        if is_root() {
            // sshd confines its unprivileged process to this folder. Usually the service manager
            // creates it.
            fs::create_dir_all("/run/sshd").expect("sshd's folder");
        }
        for key in ["host_key", "user_key"] {
            let mut keygen = Command::new("ssh-keygen");
            programs::run(
                keygen
                    .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                    .arg(home.join(key)),
            )
            .succeeded();
        }
        fs::copy(home.join("user_key.pub"), home.join("authorized_keys"))
            .expect("the user's key is authorized");
        fs::write(
            home.join("sshd_config"),
            server_configuration(&home, address),
        )
        .expect("the configuration is written");
        fs::write(home.join("ssh_config"), client_configuration(&home))
            .expect("the configuration is written");
        let mut sshd = Command::new("/usr/sbin/sshd");
        let mut daemon = Daemon::start(
            "sshd",
            folder,
            sshd.args(["-D", "-e", "-f"]).arg(home.join("sshd_config")),
        );
        daemon.wait_ready(|| TcpStream::connect(address).is_ok());
        Sshd {
            address,
            home,
            _daemon: daemon,
        }
    }

    /// The listening address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs a command there, through another address.
    pub(crate) fn ssh(&self, through: SocketAddr, remote: &str) -> ProgramOutput {
        programs::run(
            self.command("ssh")
                .arg("-p")
                .arg(through.port().to_string())
                .arg(through.ip().to_string())
                .arg(remote),
        )
    }

    /// Runs a command there with this input, over the standard streams of a proxy command.
    pub(crate) fn ssh_over(
        &self,
        proxy_command: &str,
        remote: &str,
        input: &[u8],
    ) -> ProgramOutput {
        let option = format!("ProxyCommand={proxy_command}");
        programs::run_with(
            self.command("ssh")
                .arg("-o")
                .arg(option)
                .args(["home", remote]),
            input,
        )
    }

    /// Copies a file to a path there.
    pub(crate) fn copy_to(
        &self,
        through: SocketAddr,
        local: &Path,
        remote: &Path,
    ) -> ProgramOutput {
        programs::run(self.scp(through).arg(local).arg(format!(
            "{}:{}",
            through.ip(),
            remote.display()
        )))
    }

    /// Copies a file from a path there.
    pub(crate) fn copy_from(
        &self,
        through: SocketAddr,
        remote: &Path,
        local: &Path,
    ) -> ProgramOutput {
        programs::run(
            self.scp(through)
                .arg(format!("{}:{}", through.ip(), remote.display()))
                .arg(local),
        )
    }

    fn scp(&self, through: SocketAddr) -> Command {
        let mut scp = self.command("scp");
        scp.arg("-q").arg("-P").arg(through.port().to_string());
        scp
    }

    /// Starts a shell there that reads commands line by line.
    pub(crate) fn shell(&self, through: SocketAddr) -> LineSession {
        LineSession::start(
            self.command("ssh")
                .arg("-p")
                .arg(through.port().to_string())
                .arg(through.ip().to_string()),
        )
    }

    fn command(&self, program: &str) -> Command {
        let mut command = programs::command(program);
        command.arg("-F").arg(self.home.join("ssh_config"));
        command
    }
}

/// Whether the tests run as root.
pub(crate) fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .is_some_and(|ids| ids.split_whitespace().nth(1) == Some("0"))
}

fn server_configuration(home: &Path, address: SocketAddr) -> String {
    let home = home.display();
    format!(
        "ListenAddress {address}\nHostKey {home}/host_key\nAuthorizedKeysFile {home}/authorized_keys\nPidFile none\n\
         UsePAM no\nStrictModes no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n\
         KbdInteractiveAuthentication no\nMaxStartups 100\nUseDNS no\nSubsystem sftp internal-sftp\n"
    )
}

fn client_configuration(home: &Path) -> String {
    let home = home.display();
    format!(
        "Host *\nIdentityFile {home}/user_key\nIdentitiesOnly yes\nIdentityAgent none\nUserKnownHostsFile {home}/known_hosts\n\
         GlobalKnownHostsFile /dev/null\nStrictHostKeyChecking accept-new\nHostKeyAlias the-test\nBatchMode yes\nLogLevel ERROR\n"
    )
}
