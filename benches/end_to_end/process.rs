//! The kernel's figures about a process: CPU time, context switches, memory, descriptors.

use std::fs;

use anyhow::Context;

/// The kernel counts CPU time in hundredths of a second on every Linux (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// A child process, by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process(pub u32);

impl Process {
    /// Returns the user and kernel time of all threads in seconds.
    pub(crate) fn cpu_seconds(self) -> anyhow::Result<f64> {
        let stat = self.read("stat")?;
        // The name in parentheses may contain spaces and parentheses. utime and stime are the 12th
        // and 13th field after it.
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
            .context("cannot parse the stat file")?;
        Ok((user + kernel) / TICKS_PER_SECOND)
    }

    /// Returns the voluntary and involuntary context switches of all running threads.
    pub(crate) fn context_switches(self) -> anyhow::Result<f64> {
        let mut switches = 0.0;
        for thread in
            fs::read_dir(format!("/proc/{}/task", self.0)).context("the process is gone")?
        {
            // A thread may end between the two reads.
            let status = fs::read_to_string(thread?.path().join("status")).unwrap_or_default();
            let names = ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"];
            switches += names
                .iter()
                .filter_map(|name| field(&status, name))
                .sum::<f64>();
        }
        Ok(switches)
    }

    /// Returns the peak resident memory in MiB.
    pub(crate) fn peak_memory_mib(self) -> anyhow::Result<f64> {
        self.memory_mib("VmHWM:")
    }

    /// Returns the current resident memory in MiB.
    pub(crate) fn present_memory_mib(self) -> anyhow::Result<f64> {
        self.memory_mib("VmRSS:")
    }

    /// Returns the number of open files and sockets.
    pub(crate) fn descriptors(self) -> anyhow::Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.0))
            .context("the process is gone")?
            .count())
    }

    fn memory_mib(self, name: &str) -> anyhow::Result<f64> {
        let kib = field(&self.read("status")?, name);
        Ok(kib.context("cannot parse the status file")? / 1024.0)
    }

    fn read(self, file: &str) -> anyhow::Result<String> {
        fs::read_to_string(format!("/proc/{}/{file}", self.0)).context("the process is gone")
    }
}

/// Returns the number after a name at the start of a line. A unit may follow the number.
fn field(status: &str, name: &str) -> Option<f64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}

/// Returns the CPU time of this thread in seconds.
///
/// It has nanosecond resolution, unlike the times of a process.
pub(crate) fn thread_cpu_seconds() -> anyhow::Result<f64> {
    let statistics = fs::read_to_string("/proc/thread-self/schedstat")
        .context("the kernel does not report the CPU time of threads")?;
    let nanoseconds = statistics
        .split(' ')
        .next()
        .and_then(|field| field.parse::<f64>().ok());
    Ok(nanoseconds.context("cannot parse the schedstat file")? / 1e9)
}
