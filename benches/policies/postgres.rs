//! A PostgreSQL with a separate data folder, if one is installed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use report::store::{Store, StoreUrl};
use rustix::process::geteuid;
use tempfile::TempDir;

use crate::{
    processes::Process,
    roles::{free_address, wait_until_ready},
};

/// The folder of Debian's packages, with a folder for each version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// A running server, which trusts loopback.
pub(crate) struct Postgres {
    url: String,
    process: Process,
    // PostgreSQL refuses to run as root, and its own user cannot enter a folder of root.
    _home: TempDir,
}

impl Postgres {
    /// Creates a cluster and starts it, with its log in `folder`. Returns `None` if no PostgreSQL is
    /// installed.
    pub(crate) async fn start(folder: &Path) -> anyhow::Result<Option<Self>> {
        let Some(programs) = newest_version() else {
            return Ok(None);
        };
        let home = TempDir::with_prefix("report-bench-postgres-")?;
        let data = home.path().join("data");
        if geteuid().is_root() {
            succeed(
                Command::new("chown")
                    .arg("postgres:postgres")
                    .arg(home.path()),
            )?;
        }
        let mut initdb = as_its_user(&programs.join("initdb"), home.path());
        initdb
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8"])
            .args(["--no-locale", "--no-sync", "--pgdata"])
            .arg(&data);
        succeed(&mut initdb)?;
        let address = free_address()?;
        let mut postgres = as_its_user(&programs.join("postgres"), home.path());
        postgres
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(home.path())
            .args(["-c", "fsync=off", "-h", &address.ip().to_string()])
            .args(["-p", &address.port().to_string()]);
        let mut process = Process::start("postgres", &mut postgres, folder)?;
        // The database that every cluster has.
        let url = format!("postgres://postgres@{address}/postgres");
        let store: StoreUrl = url.parse()?;
        // It listens before it answers.
        wait_until_ready(&mut [&mut process], async || {
            let opened = Store::open(store.clone()).await;
            opened.map_err(io::Error::other)?.close().await;
            io::Result::Ok(())
        })
        .await?;
        Ok(Some(Postgres {
            url,
            process,
            _home: home,
        }))
    }

    /// Returns the URL of its database.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A killed server would leave its shared memory. An error means that it has ended already.
        let _ = self.process.interrupt();
    }
}

/// Returns the folder with the programs of the newest installed server.
fn newest_version() -> Option<PathBuf> {
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = fs::read_dir(VERSIONS)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("bin/initdb").exists())
        .max_by_key(number)?;
    Some(newest.join("bin"))
}

/// Returns a command that runs a program as the user that the server requires.
fn as_its_user(program: &Path, home: &Path) -> Command {
    let mut command = if geteuid().is_root() {
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

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {errors}");
    Ok(())
}
