//! Processes: each ends when its owner lets go of it, and the kernel says what it holds and what it has used.

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

/// Lines of a process's log that are shown when it has ended by itself.
const LAST_WORDS: usize = 5;

/// Lets this process, and those that it starts, open as many files as the system allows.
pub fn raise_file_limit() -> anyhow::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")
}

/// Whether so many files can be open in one process.
pub fn check_file_limit(files: usize) -> anyhow::Result<()> {
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < files as u64 => {
            bail!(
                "{files} open files are needed, and the hard limit here is {limit}: raise it (`ulimit -Hn`), or ask for less"
            )
        }
        _ => Ok(()),
    }
}

/// A process that was started here; dropping it ends it.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What a process holds, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// All of its pages that are in memory.
    pub resident: f64,
    /// Those of them that belong to no file: heap and stacks.
    pub anonymous: f64,
}

impl Process {
    /// Starts `command`; what it says goes to a file in `folder`.
    pub fn start(name: &str, command: &mut Command, folder: &Path) -> anyhow::Result<Self> {
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

    /// An error when it has ended by itself, with its last words.
    pub fn check(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(());
        };
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n  ");
        bail!("{} has ended ({status}):\n  {last}", self.name)
    }

    /// User and kernel time of all its threads, in seconds.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        // utime and stime, see proc_pid_stat(5).
        Ok((self.stat(14)? + self.stat(15)?) / TICKS_PER_SECOND)
    }

    /// What it holds now.
    pub fn memory(&self) -> anyhow::Result<Memory> {
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

    /// Pages that it was given without anything being read from a disk, since its start.
    pub fn minor_faults(&self) -> anyhow::Result<f64> {
        self.stat(10)
    }

    /// How often one of its threads went to sleep, or had to make room for another, as far as they still run.
    pub fn context_switches(&self) -> anyhow::Result<f64> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.id()))
            .with_context(|| format!("{} is gone", self.name))?;
        let mut switches = 0.0;
        for thread in threads {
            // One that has just ended counts nothing.
            let text = fs::read_to_string(thread?.path().join("status")).unwrap_or_default();
            let counts = fields(&text);
            switches += ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"]
                .iter()
                .filter_map(|name| counts.get(name))
                .sum::<f64>();
        }
        Ok(switches)
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, and waits for it.
    pub fn interrupt(&mut self) -> anyhow::Result<()> {
        let id = Pid::from_raw(i32::try_from(self.id())?).context("no process has this number")?;
        kill_process(id, Signal::INT)?;
        self.child.wait()?;
        Ok(())
    }

    /// A field of its `stat`, counted from 1 as in proc_pid_stat(5).
    fn stat(&self, number: usize) -> anyhow::Result<f64> {
        let stat = self.read("stat")?;
        // The second field is a name in parentheses that may hold anything.
        let behind_name = stat.rsplit(") ").next().unwrap_or_default();
        let field = number
            .checked_sub(3)
            .and_then(|index| behind_name.split(' ').nth(index)?.parse().ok());
        field.context("a stat file that makes no sense")
    }

    fn read(&self, file: &str) -> anyhow::Result<String> {
        fs::read_to_string(format!("/proc/{}/{file}", self.id()))
            .with_context(|| format!("{} is gone", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The numbers of lines such as `Rss:  1234 kB`.
fn fields(text: &str) -> BTreeMap<&str, f64> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name, value.split_whitespace().next()?.parse().ok()?))
        })
        .collect()
}
