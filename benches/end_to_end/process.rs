//! What the kernel tells of a process of ours: CPU time, context switches, memory, descriptors. Knows `/proc`; not what the process is.

use std::fs;

use anyhow::Context;

/// The kernel counts CPU time in hundredths of a second on every Linux (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// A process that was started here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process(pub u32);

impl Process {
    /// User and kernel time of all its threads, in seconds.
    pub fn cpu_seconds(self) -> anyhow::Result<f64> {
        let stat = self.read("stat")?;
        // The name, in parentheses, may hold anything; utime and stime are the 12th and 13th field behind it.
        let fields: Vec<&str> = stat
            .rsplit(") ")
            .next()
            .unwrap_or_default()
            .split(' ')
            .collect();
        let ticks = |index: usize| {
            fields
                .get(index)
                .and_then(|field| field.parse::<f64>().ok())
        };
        let (user, kernel) = ticks(11)
            .zip(ticks(12))
            .context("a stat file that makes no sense")?;
        Ok((user + kernel) / TICKS_PER_SECOND)
    }

    /// How often one of its present threads gave way, by itself or not.
    pub fn context_switches(self) -> anyhow::Result<f64> {
        let mut switches = 0.0;
        for thread in
            fs::read_dir(format!("/proc/{}/task", self.0)).context("the process is gone")?
        {
            // A thread may end between the two.
            let status = fs::read_to_string(thread?.path().join("status")).unwrap_or_default();
            let names = ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"];
            switches += names
                .iter()
                .filter_map(|name| field(&status, name))
                .sum::<f64>();
        }
        Ok(switches)
    }

    /// The most memory it ever held, in MiB.
    pub fn peak_memory_mib(self) -> anyhow::Result<f64> {
        self.memory_mib("VmHWM:")
    }

    /// The memory it holds, in MiB.
    pub fn present_memory_mib(self) -> anyhow::Result<f64> {
        self.memory_mib("VmRSS:")
    }

    /// How many files and sockets it has open.
    pub fn descriptors(self) -> anyhow::Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.0))
            .context("the process is gone")?
            .count())
    }

    fn memory_mib(self, name: &str) -> anyhow::Result<f64> {
        let kib = field(&self.read("status")?, name);
        Ok(kib.context("a status file that makes no sense")? / 1024.0)
    }

    fn read(self, file: &str) -> anyhow::Result<String> {
        fs::read_to_string(format!("/proc/{}/{file}", self.0)).context("the process is gone")
    }
}

/// The number behind a name at the beginning of a line; what follows it is its unit.
fn field(status: &str, name: &str) -> Option<f64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}

/// CPU time that this thread has used, in seconds: to the nanosecond, unlike the times of a process.
pub fn thread_cpu_seconds() -> anyhow::Result<f64> {
    let statistics = fs::read_to_string("/proc/thread-self/schedstat")
        .context("the kernel does not tell a thread's CPU time")?;
    let nanoseconds = statistics
        .split(' ')
        .next()
        .and_then(|field| field.parse::<f64>().ok());
    Ok(nanoseconds.context("a schedstat file that makes no sense")? / 1e9)
}
