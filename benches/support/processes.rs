//! Child processes, and the kernel's figures about their memory and CPU time.
//!
//! A process ends when its owner drops it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process, setrlimit};

/// The kernel counts CPU time in hundredths of a second on every Linux (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// The number of log lines to show if a process ends unexpectedly.
const LOG_TAIL_LINES: usize = 5;

/// Raises the limit of open files to the hard limit, for this process and its children.
pub(crate) fn raise_file_limit() -> anyhow::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")
}

/// Checks that one process can open this many files.
pub(crate) fn check_file_limit(files: usize) -> anyhow::Result<()> {
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < files as u64 => {
            bail!(
                "{files} open files are required, but the hard limit is {limit} (raise it with `ulimit -Hn`, or measure less)"
            )
        }
        _ => Ok(()),
    }
}

/// A child process. Dropping it kills it.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// The memory of a process in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// All resident pages.
    pub resident: f64,
    /// The resident pages without a file: heap and stacks.
    pub anonymous: f64,
}

impl Process {
    /// Starts `command`, with its output in a file in `folder`.
    pub(crate) fn start(name: &str, command: &mut Command, folder: &Path) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = fs::File::create(&log)?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Process {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Returns an error with the last log lines if the process has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(());
        };
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n  ");
        bail!("{} has ended ({status}):\n  {last}", self.name)
    }

    /// Returns the user and kernel time of all threads in seconds.
    pub(crate) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        // The fields utime and stime, see proc_pid_stat(5).
        Ok((self.stat(14)? + self.stat(15)?) / TICKS_PER_SECOND)
    }

    /// Returns the current memory.
    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        let text = self.read("smaps_rollup")?;
        let sizes = fields(&text);
        let bytes = |name| {
            sizes
                .get(name)
                .map(|kib| kib * 1024.0)
                .with_context(|| format!("no {name} in smaps_rollup"))
        };
        Ok(Memory {
            resident: bytes("Rss")?,
            anonymous: bytes("Anonymous")?,
        })
    }

    /// Returns the page faults since the start that needed no disk access.
    pub(crate) fn minor_faults(&self) -> anyhow::Result<f64> {
        self.stat(10)
    }

    /// Returns the voluntary and involuntary context switches of all running threads.
    pub(crate) fn context_switches(&self) -> anyhow::Result<f64> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.id()))
            .with_context(|| format!("{} is gone", self.name))?;
        let mut switches = 0.0;
        for thread in threads {
            // A thread that has just ended has no counters.
            let text = fs::read_to_string(thread?.path().join("status")).unwrap_or_default();
            let counts = fields(&text);
            switches += ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"]
                .iter()
                .filter_map(|name| counts.get(name))
                .sum::<f64>();
        }
        Ok(switches)
    }

    /// Returns the process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGINT and waits for the process to end.
    pub(crate) fn interrupt(&mut self) -> anyhow::Result<()> {
        let id = Pid::from_raw(i32::try_from(self.id())?).context("invalid process id")?;
        kill_process(id, Signal::INT)?;
        self.child.wait()?;
        Ok(())
    }

    /// Returns a field of the `stat` file, counted from 1 as in proc_pid_stat(5).
    fn stat(&self, number: usize) -> anyhow::Result<f64> {
        let stat = self.read("stat")?;
        // The second field is a name in parentheses that may contain spaces and parentheses.
        let behind_name = stat.rsplit(") ").next().unwrap_or_default();
        let field = number
            .checked_sub(3)
            .and_then(|index| behind_name.split(' ').nth(index)?.parse().ok());
        field.context("cannot parse the stat file")
    }

    fn read(&self, file: &str) -> anyhow::Result<String> {
        fs::read_to_string(format!("/proc/{}/{file}", self.id()))
            .with_context(|| format!("{} is gone", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Parses the numbers of lines such as `Rss:  1234 kB`.
fn fields(text: &str) -> BTreeMap<&str, f64> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name, value.split_whitespace().next()?.parse().ok()?))
        })
        .collect()
}
