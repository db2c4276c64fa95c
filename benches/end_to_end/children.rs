//! Child processes. Their output goes to files, and all of them end with this process.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::process::Process;

/// The number of log lines per process to show if the run fails.
const LOG_TAIL_LINES: usize = 5;

/// All child processes and the folder for their files.
pub(crate) struct Children {
    folder: TempDir,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: Vec<Running>,
    /// Whether starting further processes is refused.
    ended: bool,
}

struct Running {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Children {
    /// Creates the folder, without processes.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("report-bench-").context("cannot create a folder")?;
        Ok(Children {
            folder,
            state: Mutex::default(),
        })
    }

    /// Returns a path in the temporary folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a process. Its standard input stays open until this process ends.
    pub(crate) fn start(&self, name: &str, command: &mut Command) -> anyhow::Result<Process> {
        let mut state = self.state();
        if state.ended {
            bail!("the run has ended");
        }
        let log = self.path(&format!("{name}.log"));
        let output = fs::File::create(&log)?;
        // The helper processes end when their standard input closes, even if this process is
        // killed.
        command.stdin(Stdio::piped()).stderr(output.try_clone()?);
        if command
            .get_args()
            .next()
            .is_none_or(|first| !first.to_string_lossy().starts_with("as-"))
        {
            command.stdout(output);
        } else {
            command.stdout(Stdio::piped());
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let process = Process(child.id());
        state.running.push(Running {
            child,
            name: name.to_owned(),
            log,
        });
        Ok(process)
    }

    /// Reads the address that the process prints as its first line.
    pub(crate) fn address(&self, process: Process) -> anyhow::Result<SocketAddr> {
        let output = {
            let mut state = self.state();
            let running = state
                .running
                .iter_mut()
                .find(|running| running.child.id() == process.0);
            running
                .and_then(|running| running.child.stdout.take())
                .context("the process prints no address")?
        };
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        line.trim()
            .parse()
            .with_context(|| format!("expected an address, got {line:?}"))
    }

    /// Returns an error if one of the processes has ended.
    pub(crate) fn check(&self, processes: &[Process]) -> anyhow::Result<()> {
        let mut state = self.state();
        for running in state
            .running
            .iter_mut()
            .filter(|running| processes.contains(&Process(running.child.id())))
        {
            if let Some(status) = running.child.try_wait()? {
                bail!("{} has ended: {status}", running.name);
            }
        }
        Ok(())
    }

    /// Kills every process and waits for it.
    pub(crate) fn end_all(&self) {
        let mut state = self.state();
        state.ended = true;
        for running in &mut state.running {
            // An error means that the process has ended already.
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }

    /// Prints the last log lines of each process.
    pub(crate) fn print_log_tails(&self) {
        for Running { name, log, .. } in &self.state().running {
            let text = fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..] {
                eprintln!("  {name}: {line}");
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.end_all();
    }
}
