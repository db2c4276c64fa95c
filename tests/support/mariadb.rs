//! A real MariaDB with a separate data folder.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    daemon::Daemon,
    programs::{self, ProgramOutput},
    sshd,
};

/// Debian installs it outside of the PATH of normal users.
const SERVER: &str = "/usr/sbin/mariadbd";

/// The user of the tests. It owns all databases whose names begin with its name.
const USER: &str = "report";

/// The password of the user. The databases last as long as a test.
const PASSWORD: &str = "of-a-test";

/// Small files, and no wait for the disk: the data lasts as long as a test. Asynchronous I/O of the
/// kernel is not available in every container.
const TUNING: [&str; 4] = [
    "--innodb-log-file-size=8M",
    "--innodb-buffer-pool-size=32M",
    "--innodb-flush-method=nosync",
    "--innodb-use-native-aio=OFF",
];

/// A running MariaDB that accepts one user over TCP.
#[derive(Debug)]
pub(crate) struct Mariadb {
    address: SocketAddr,
    daemon: Daemon,
    log_folder: PathBuf,
    // The path of the unix socket must be short, so it is not in the folder of the test.
    home: tempfile::TempDir,
}

impl Mariadb {
    /// Creates the system tables and starts the server at this address.
    pub(crate) fn start(folder: &Path, address: SocketAddr) -> Mariadb {
        let home = tempfile::Builder::new()
            .prefix("report-mariadb-")
            .tempdir()
            .expect("a folder for MariaDB");
        let mut install = server_program("mariadb-install-db", home.path());
        install.args(["--auth-root-authentication-method=normal", "--skip-test-db"]);
        programs::run(&mut install).succeeded();
        // The server executes one statement for each line at every start.
        let statements = format!(
            "CREATE USER IF NOT EXISTS '{USER}'@'{ip}' IDENTIFIED BY '{PASSWORD}';\n\
             GRANT ALL ON `{USER}%`.* TO '{USER}'@'{ip}';\n",
            ip = address.ip()
        );
        fs::write(init_file(home.path()), statements).expect("the statements are written");
        let daemon = launch(folder, address, home.path());
        Mariadb {
            address,
            daemon,
            log_folder: folder.to_owned(),
            home,
        }
    }

    /// Creates a database with this name. Returns its URL.
    #[track_caller]
    pub(crate) fn create_database(&self, name: &str) -> String {
        let database = format!("{USER}_{name}");
        self.query(&format!("create database {database}"))
            .succeeded();
        format!("mysql://{USER}:{PASSWORD}@{}/{database}", self.address)
    }

    /// Runs SQL statements. Prints bare values. Names of tables include their database.
    pub(crate) fn query(&self, sql: &str) -> ProgramOutput {
        query(self.address, sql)
    }

    /// Stops it, as an operator would.
    pub(crate) fn stop(&mut self) {
        self.daemon.stop();
    }

    /// Starts it again at the same address and with the same data, after [`Mariadb::stop`].
    pub(crate) fn start_again(&mut self) {
        self.daemon.stop();
        self.daemon = launch(&self.log_folder, self.address, self.home.path());
    }
}

/// Starts the server and waits until it answers.
fn launch(log_folder: &Path, address: SocketAddr, home: &Path) -> Daemon {
    let mut server = server_program(SERVER, home);
    server
        .arg(option("socket", &home.join("socket")))
        .arg(option("pid-file", &home.join("pid")))
        .arg(option("init-file", &init_file(home)))
        .arg(format!("--bind-address={}", address.ip()))
        .arg(format!("--port={}", address.port()))
        .args([
            "--skip-name-resolve",
            "--skip-log-bin",
            "--innodb-flush-log-at-trx-commit=0",
        ]);
    let mut daemon = Daemon::start("mariadb", log_folder, &mut server);
    daemon.wait_ready(|| query(address, "select 1").code == Some(0));
    daemon
}

fn query(address: SocketAddr, sql: &str) -> ProgramOutput {
    let mut client = programs::command("mariadb");
    client
        .args(["--no-defaults", "--protocol=tcp"])
        .args(["--batch", "--skip-column-names"])
        .arg(format!("--host={}", address.ip()))
        .arg(format!("--port={}", address.port()))
        .arg(format!("--user={USER}"))
        .arg(format!("--password={PASSWORD}"))
        .args(["--connect-timeout=30", "--execute", sql]);
    programs::run(&mut client)
}

/// A program of the server, with the options that all of them share.
fn server_program(name: &str, home: &Path) -> Command {
    let mut command = Command::new(name);
    // It must be the first option.
    command.arg("--no-defaults");
    if sshd::is_root() {
        // Otherwise MariaDB refuses to run as root.
        command.arg("--user=root");
    }
    command
        .arg(option("datadir", &home.join("data")))
        .args(TUNING)
        .current_dir(home);
    command
}

fn option(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

fn init_file(home: &Path) -> PathBuf {
    home.join("init.sql")
}
