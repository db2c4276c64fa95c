//! squid in the foreground, as the user that Debian gives it.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{PASSWORD, PASSWORD_IN_URL, USER, folder_of, give_to, write};
use crate::support::{
    certificates::Leaf,
    daemon::{Daemon, Signal},
    ports,
    programs::{self, ProgramOutput},
};

/// The account that squid switches to when root starts it.
const ACCOUNT: &str = "proxy";

/// The realm in the challenges of Basic and Digest.
const REALM: &str = "the test";

/// The format of the access log: client address, method, target, status, user, authentication
/// scheme and user agent. A scheme's name has at most nine letters.
const LOG_FORMAT: &str =
    "logformat seen %>a %rm %ru %>Hs %un %.9{Proxy-Authorization}>h agent=%{User-Agent}>h";

/// Placeholder for squid's own folder in the lines of a setup.
pub(crate) const HOME: &str = "{home}";

/// The setup of a squid.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setup {
    /// Lines `auth_param …`. With them squid requires authentication.
    pub authentication: Vec<String>,
    /// Further lines.
    pub lines: Vec<String>,
    /// Files in its folder, by name.
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// Environment of its process.
    pub environment: Vec<(String, String)>,
    /// The words that start squid: another program and its first arguments.
    pub within: Vec<String>,
    /// Whether clients connect with TLS: see [`Setup::tls`].
    pub secure: bool,
    /// The listening address. `None` means a free port of loopback.
    pub address: Option<SocketAddr>,
}

impl Setup {
    /// Adds a line.
    pub(crate) fn line(mut self, line: impl Into<String>) -> Setup {
        self.lines.push(line.into());
        self
    }

    /// Adds a scheme of authentication.
    pub(crate) fn authentication(mut self, lines: impl IntoIterator<Item = String>) -> Setup {
        self.authentication.extend(lines);
        self
    }

    /// Adds a file in its folder.
    pub(crate) fn file(mut self, name: &'static str, content: impl Into<Vec<u8>>) -> Setup {
        self.files.push((name, content.into()));
        self
    }

    /// Adds Basic authentication for [`USER`].
    pub(crate) fn basic(self) -> Setup {
        // The same hash as htpasswd makes, which is not installed everywhere.
        let hashed = programs::run(Command::new("openssl").args(["passwd", "-apr1", PASSWORD]))
            .succeeded()
            .text();
        let program =
            format!("auth_param basic program /usr/lib/squid/basic_ncsa_auth {HOME}/basic");
        let children = "auth_param basic children 4 startup=1 idle=1".to_owned();
        let lines = [program, children, format!("auth_param basic realm {REALM}")];
        self.file("basic", format!("{USER}:{}\n", hashed.trim()))
            .authentication(lines)
    }

    /// Adds Digest authentication for [`USER`].
    pub(crate) fn digest(self) -> Setup {
        let mut md5 = Command::new("openssl");
        let secret = format!("{USER}:{REALM}:{PASSWORD}");
        let hashed = programs::run_with(md5.args(["dgst", "-md5", "-r"]), secret.as_bytes())
            .succeeded()
            .text();
        let hash = hashed.split_whitespace().next().expect("a digest");
        let program =
            format!("auth_param digest program /usr/lib/squid/digest_file_auth -c {HOME}/digest");
        let children = "auth_param digest children 4 startup=1 idle=1".to_owned();
        let lines = [
            program,
            children,
            format!("auth_param digest realm {REALM}"),
        ];
        self.file("digest", format!("{USER}:{REALM}:{hash}\n"))
            .authentication(lines)
    }

    /// Listens with TLS and this certificate.
    pub(crate) fn tls(self, leaf: &Leaf) -> Setup {
        let read = |path: &Path| fs::read(path).expect("a file of a certificate");
        Setup {
            secure: true,
            ..self
                .file("leaf.pem", read(&leaf.cert))
                .file("leaf.key", read(&leaf.key))
        }
    }
}

/// A running squid.
#[derive(Debug)]
pub(crate) struct Squid {
    address: SocketAddr,
    setup: Setup,
    log_folder: PathBuf,
    pub daemon: Daemon,
    home: TempDir,
}

impl Squid {
    /// Starts it with its output in the folder.
    pub(crate) fn start(folder: &Path, setup: Setup) -> Squid {
        let address = setup.address.unwrap_or_else(ports::free);
        let home = folder_of(ACCOUNT, "report-squid-");
        for (name, content) in &setup.files {
            let path = home.path().join(name);
            fs::write(&path, content).expect("a file for squid");
            give_to(ACCOUNT, &path);
        }
        write(
            &home.path().join("squid.conf"),
            &configuration(home.path(), address, &setup),
        );
        let checked = programs::run(
            Command::new("squid")
                .args(["-k", "parse", "-f"])
                .arg(home.path().join("squid.conf")),
        );
        assert_eq!(
            checked.code,
            Some(0),
            "squid's configuration: {}",
            checked.errors
        );
        let daemon = run(folder, home.path(), &setup);
        let mut squid = Squid {
            address,
            setup,
            log_folder: folder.to_owned(),
            daemon,
            home,
        };
        squid.wait_until_it_listens();
        squid
    }

    /// The listening address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The value of `proxy` for this user and password, as they are written in a URL.
    pub(crate) fn url_for(&self, user: &str, password: &str) -> String {
        let scheme = if self.setup.secure { "https" } else { "http" };
        format!(
            "{scheme}://{user}:{password}@localhost:{}",
            self.address.port()
        )
    }

    /// The same for [`USER`].
    pub(crate) fn url(&self) -> String {
        self.url_for(USER, PASSWORD_IN_URL)
    }

    /// The access log, one line for each finished request: see [`LOG_FORMAT`].
    pub(crate) fn access_log(&self) -> String {
        fs::read_to_string(self.home.path().join("access.log")).unwrap_or_default()
    }

    /// The log of squid itself and its helpers.
    pub(crate) fn cache_log(&self) -> String {
        fs::read_to_string(self.home.path().join("cache.log")).unwrap_or_default()
    }

    /// Runs `squid -k reconfigure`.
    pub(crate) fn reconfigure(&self) -> ProgramOutput {
        programs::run(
            Command::new("squid")
                .args(["-k", "reconfigure", "-f"])
                .arg(self.home.path().join("squid.conf")),
        )
        .succeeded()
    }

    /// Stops it, so that its log is complete.
    pub(crate) fn stop(&mut self) {
        self.daemon.stop();
    }

    /// Kills and restarts it.
    pub(crate) fn kill_and_start(&mut self) {
        self.daemon.kill();
        let _ = fs::remove_file(self.home.path().join("pid"));
        self.daemon = run(&self.log_folder, self.home.path(), &self.setup);
        self.wait_until_it_listens();
    }

    fn wait_until_it_listens(&mut self) {
        let (address, cache_log) = (self.address, self.home.path().join("cache.log"));
        // A socket in another network namespace is not visible here.
        let says_so = || fs::read_to_string(&cache_log).is_ok_and(|log| log.contains("Accepting"));
        self.daemon.wait_ready(|| {
            if address.ip().is_loopback() {
                ports::has_listener_at(address)
            } else {
                says_so()
            }
        });
    }
}

fn run(folder: &Path, home: &Path, setup: &Setup) -> Daemon {
    let mut command = programs::within(&setup.within, "squid");
    command.args(["-N", "-f"]).arg(home.join("squid.conf"));
    command.envs(setup.environment.iter().map(|(name, value)| (name, value)));
    Daemon::start("squid", folder, &mut command).stopped_by(Signal::Terminate)
}

fn configuration(home: &Path, address: SocketAddr, setup: &Setup) -> String {
    let port = if setup.secure {
        format!("https_port {address} tls-cert={HOME}/leaf.pem tls-key={HOME}/leaf.key")
    } else {
        format!("http_port {address}")
    };
    let admission = if setup.authentication.is_empty() {
        "http_access allow all".to_owned()
    } else {
        format!(
            "{}\nacl known proxy_auth REQUIRED\nhttp_access allow known\nhttp_access deny all",
            setup.authentication.join("\n")
        )
    };
    let text = format!(
        "{port}\nvisible_hostname squid.test\npid_filename {HOME}/pid\n{LOG_FORMAT}\naccess_log stdio:{HOME}/access.log seen\n\
         cache_log {HOME}/cache.log\ncoredump_dir {HOME}\nnetdb_filename none\npinger_enable off\ncache deny all\n\
         shutdown_lifetime 0 seconds\n{}\n{admission}\n",
        setup.lines.join("\n")
    );
    text.replace(HOME, &home.display().to_string())
}
