//! A real PostgreSQL with a separate data folder.

use std::{
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
    _daemon: Daemon,
    // PostgreSQL refuses to run as root, and its own user cannot enter the private folder of the
    // test.
    _home: tempfile::TempDir,
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
        let data = home.path().join("data");
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
            .arg(&data);
        programs::run(&mut initdb).succeeded();
        let mut postgres = server_program("postgres", home.path());
        postgres
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(home.path())
            .args(["-c", "fsync=off", "-c", "shared_buffers=32MB"]);
        postgres
            .arg("-h")
            .arg(address.ip().to_string())
            .arg("-p")
            .arg(address.port().to_string());
        // SIGTERM would wait for the clients to leave.
        let mut daemon =
            Daemon::start("postgres", folder, &mut postgres).stopped_by(Signal::Interrupt);
        daemon.wait_ready(|| psql(address, "select 1").code == Some(0));
        Postgres {
            address,
            _daemon: daemon,
            _home: home,
        }
    }

    /// The listening address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Runs one SQL command through an address. Prints bare values.
pub(crate) fn psql(through: SocketAddr, sql: &str) -> ProgramOutput {
    programs::run(&mut psql_command(through, sql))
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
    psql.arg(through.ip().to_string())
        .arg("--port")
        .arg(through.port().to_string());
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
