//! A real PostgreSQL with a separate data folder.

use std::{
    ffi::OsStr,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    daemon::{Daemon, Signal},
    line_session::LineSession,
    programs::{self, ProgramOutput},
    sshd,
};

/// A running PostgreSQL that trusts loopback.
#[derive(Debug)]
pub(crate) struct Postgres {
    address: SocketAddr,
    daemon: Daemon,
    log_folder: PathBuf,
    // PostgreSQL refuses to run as root, and its own user cannot enter the private folder of the
    // test.
    home: tempfile::TempDir,
}

impl Postgres {
    /// Creates a cluster and starts it at this address.
    pub(crate) fn start(folder: &Path, address: SocketAddr) -> Postgres {
        let home = tempfile::Builder::new()
            .prefix("report-postgres-")
            .tempdir()
            .expect("a folder for PostgreSQL");
        if sshd::is_root() {
            programs::run(
                Command::new("chown")
                    .arg("postgres:postgres")
                    .arg(home.path()),
            )
            .succeeded();
        }
        let mut initdb = server_program("initdb", home.path());
        initdb
            .args([
                "--auth=trust",
                "--username=postgres",
                "--encoding=UTF8",
                "--no-locale",
                "--no-sync",
                "--pgdata",
            ])
            .arg(data_folder(home.path()));
        programs::run(&mut initdb).succeeded();
        let daemon = launch(folder, address, home.path());
        Postgres {
            address,
            daemon,
            log_folder: folder.to_owned(),
            home,
        }
    }

    /// The listening address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The unix socket at which it listens too.
    pub(crate) fn socket(&self) -> PathBuf {
        let name = format!(".s.PGSQL.{}", self.address.port());
        self.home.path().join(name)
    }

    /// Creates a database with this name. Returns its URL.
    #[track_caller]
    pub(crate) fn create_database(&self, name: &str) -> String {
        let database = format!("report_{name}");
        psql(self.address, &format!("create database {database}")).succeeded();
        format!("postgres://postgres@{}/{database}", self.address)
    }

    /// Stops it, as an operator would. Its clients lose their connections.
    pub(crate) fn stop(&mut self) {
        self.daemon.stop();
    }

    /// Starts it again at the same address and with the same data, after [`Postgres::stop`].
    pub(crate) fn start_again(&mut self) {
        self.daemon.stop();
        self.daemon = launch(&self.log_folder, self.address, self.home.path());
    }
}

/// Starts the server and waits until it answers.
fn launch(log_folder: &Path, address: SocketAddr, home: &Path) -> Daemon {
    let mut postgres = server_program("postgres", home);
    postgres
        .arg("-D")
        .arg(data_folder(home))
        .arg("-k")
        .arg(home)
        .args(["-c", "fsync=off", "-c", "shared_buffers=32MB"]);
    postgres
        .arg("-h")
        .arg(address.ip().to_string())
        .arg("-p")
        .arg(address.port().to_string());
    // SIGTERM would wait for the clients to leave.
    let mut daemon =
        Daemon::start("postgres", log_folder, &mut postgres).stopped_by(Signal::Interrupt);
    daemon.wait_ready(|| psql(address, "select 1").code == Some(0));
    daemon
}

fn data_folder(home: &Path) -> PathBuf {
    home.join("data")
}

/// Runs one SQL command through an address. Prints bare values.
pub(crate) fn psql(through: SocketAddr, sql: &str) -> ProgramOutput {
    programs::run(&mut psql_command(through, sql))
}

/// The same through the unix socket of this port in a folder.
pub(crate) fn psql_at_socket(folder: &Path, port: u16, sql: &str) -> ProgramOutput {
    programs::run(connect_command(folder, port).args(["--command", sql]))
}

/// The same with input, as COPY FROM STDIN needs it.
pub(crate) fn psql_with(through: SocketAddr, sql: &str, input: &[u8]) -> ProgramOutput {
    programs::run_with(&mut psql_command(through, sql), input)
}

/// Starts a session that reads SQL line by line.
pub(crate) fn session(through: SocketAddr) -> LineSession {
    LineSession::start(&mut session_command(through))
}

fn psql_command(through: SocketAddr, sql: &str) -> Command {
    let mut psql = session_command(through);
    psql.args(["--command", sql]);
    psql
}

fn session_command(through: SocketAddr) -> Command {
    connect_command(through.ip().to_string(), through.port())
}

/// A psql at a host, or at a unix socket in a folder.
fn connect_command(host: impl AsRef<OsStr>, port: u16) -> Command {
    let mut psql = programs::command("psql");
    psql.args([
        "--no-psqlrc",
        "--quiet",
        "--tuples-only",
        "--no-align",
        "--username=postgres",
        "--dbname=postgres",
        "--host",
    ]);
    psql.arg(host).arg("--port").arg(port.to_string());
    psql.args(["--set", "ON_ERROR_STOP=1"])
        .env("PGCONNECT_TIMEOUT", "30");
    psql
}

/// A program of the newest installed server, run as the user that it requires.
fn server_program(name: &str, home: &Path) -> Command {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .expect("an installed PostgreSQL")
        .flatten()
        .map(|entry| entry.path());
    let number = |path: &PathBuf| {
        path.file_name()
            .and_then(|name| name.to_str()?.parse::<u32>().ok())
    };
    let newest = versions
        .filter(|path| path.join("bin/initdb").exists())
        .max_by_key(number);
    let program = newest
        .expect("a version of PostgreSQL with initdb")
        .join("bin")
        .join(name);
    let mut command = if sshd::is_root() {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=postgres", "--regid=postgres", "--init-groups"])
            .arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir(home);
    command
}
