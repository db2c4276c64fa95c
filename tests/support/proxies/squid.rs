//! squid, in the foreground, as the user that Debian gives it.

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
    programs::{self, Ran},
};

/// Whom squid becomes when root starts it.
const ACCOUNT: &str = "proxy";

/// The name in the challenges of Basic and Digest.
const REALM: &str = "the test";

/// What each line of the access log says: who asks from where, for what, with which outcome, and by which scheme. A scheme's name is at most nine letters.
const LOG_FORMAT: &str =
    "logformat seen %>a %rm %ru %>Hs %un %.9{Proxy-Authorization}>h agent=%{User-Agent}>h";

/// In the lines of a setup: squid's own folder.
pub const HOME: &str = "{home}";

/// How a squid is set up.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Lines `auth_param …`; with them squid wants to know who asks.
    pub authentication: Vec<String>,
    /// Further lines.
    pub lines: Vec<String>,
    /// Files in its folder, by name.
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// Of its process.
    pub environment: Vec<(String, String)>,
    /// The program and its arguments that start it.
    pub within: Vec<String>,
    /// Whether it is spoken to inside TLS: see [`Setup::tls`].
    pub secure: bool,
    /// Where it listens, unless at a free port of loopback.
    pub address: Option<SocketAddr>,
}

impl Setup {
    /// One line more.
    pub fn line(mut self, line: impl Into<String>) -> Setup {
        self.lines.push(line.into());
        self
    }

    /// A scheme of authentication by which it wants to know who asks, beside those that it has.
    pub fn authentication(mut self, lines: impl IntoIterator<Item = String>) -> Setup {
        self.authentication.extend(lines);
        self
    }

    /// A file in its folder.
    pub fn file(mut self, name: &'static str, content: impl Into<Vec<u8>>) -> Setup {
        self.files.push((name, content.into()));
        self
    }

    /// Basic, for [`USER`].
    pub fn basic(self) -> Setup {
        // As htpasswd makes it, which is not everywhere.
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

    /// Digest, for [`USER`].
    pub fn digest(self) -> Setup {
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

    /// Inside TLS, with this certificate.
    pub fn tls(self, leaf: &Leaf) -> Setup {
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
pub struct Squid {
    address: SocketAddr,
    setup: Setup,
    log_folder: PathBuf,
    pub daemon: Daemon,
    home: TempDir,
}

impl Squid {
    /// Starts it, its output in the folder.
    pub fn start(folder: &Path, setup: Setup) -> Squid {
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

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What `proxy` says for this user and password, as they are written in a URL.
    pub fn url_for(&self, user: &str, password: &str) -> String {
        let scheme = if self.setup.secure { "https" } else { "http" };
        format!(
            "{scheme}://{user}:{password}@localhost:{}",
            self.address.port()
        )
    }

    /// The same for [`USER`].
    pub fn url(&self) -> String {
        self.url_for(USER, PASSWORD_IN_URL)
    }

    /// What it was asked for, one line for each request that has ended: see [`LOG_FORMAT`].
    pub fn access_log(&self) -> String {
        fs::read_to_string(self.home.path().join("access.log")).unwrap_or_default()
    }

    /// What it says of itself and of its helpers.
    pub fn cache_log(&self) -> String {
        fs::read_to_string(self.home.path().join("cache.log")).unwrap_or_default()
    }

    /// `squid -k reconfigure`.
    pub fn reconfigure(&self) -> Ran {
        programs::run(
            Command::new("squid")
                .args(["-k", "reconfigure", "-f"])
                .arg(self.home.path().join("squid.conf")),
        )
        .succeeded()
    }

    /// Asks it to end, so that its log is complete.
    pub fn stop(&mut self) {
        self.daemon.stop();
    }

    /// Kills it and starts it again.
    pub fn kill_and_start(&mut self) {
        self.daemon.kill();
        let _ = fs::remove_file(self.home.path().join("pid"));
        self.daemon = run(&self.log_folder, self.home.path(), &self.setup);
        self.wait_until_it_listens();
    }

    fn wait_until_it_listens(&mut self) {
        let (address, cache_log) = (self.address, self.home.path().join("cache.log"));
        // In a namespace of its own its socket is nowhere to be seen from here.
        let says_so = || fs::read_to_string(&cache_log).is_ok_and(|log| log.contains("Accepting"));
        self.daemon.wait_ready(|| {
            if address.ip().is_loopback() {
                ports::is_listened_at(address)
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
    Daemon::start("squid", folder, &mut command).asked_by(Signal::Terminate)
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
