//! Measures the page faults, context switches and system calls of three real processes, per MiB of
//! payload.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use serde_json::{Value, json};

use crate::{
    ROLES,
    options::Options,
    processes::Process,
    roles::System,
    table,
    traffic::{self, Transfer},
};

/// The events that perf counts and their names in the table. The first is the total.
const CALLS: [(&str, &str); 9] = [
    ("raw_syscalls:sys_enter", "system calls"),
    ("syscalls:sys_enter_recvfrom", "recvfrom"),
    ("syscalls:sys_enter_readv", "readv"),
    ("syscalls:sys_enter_sendto", "sendto"),
    ("syscalls:sys_enter_writev", "writev"),
    ("syscalls:sys_enter_epoll_wait", "epoll_wait"),
    ("syscalls:sys_enter_futex", "futex"),
    ("syscalls:sys_enter_write", "write (wake-ups of epoll)"),
    ("syscalls:sys_enter_madvise", "madvise"),
];

/// The time that perf needs to start counting.
const PERF_READY: Duration = Duration::from_millis(500);

/// The kernel's counters for one transfer, per MiB.
pub(crate) struct KernelCounters {
    transfer: Transfer,
    /// A name and the value of each of [`ROLES`].
    values: Vec<(&'static str, [f64; 3])>,
}

impl KernelCounters {
    /// Converts the counters to JSON.
    pub(crate) fn to_json(&self) -> Value {
        let values = self.values.iter().map(|(name, roles)| {
            let roles = ROLES
                .iter()
                .zip(roles)
                .map(|(role, value)| ((*role).to_owned(), json!(value)));
            ((*name).to_owned(), Value::Object(roles.collect()))
        });
        json!({ "method": "aes-128-gcm", "transfer": self.transfer.to_string(), "roles": values.collect::<serde_json::Map<_, _>>() })
    }
}

/// Runs every transfer and reads the counters.
pub(crate) async fn measure(options: &Options) -> anyhow::Result<Vec<KernelCounters>> {
    let system = System::start(traffic::serve()?).await?;
    let has_perf = can_count_calls();
    let mut all = Vec::new();
    for transfer in Transfer::ALL {
        transfer
            .run_blocking(system.entry, options.warm_up_bytes)
            .await?;
        let before = counters(&system)?;
        transfer.run_blocking(system.entry, options.bytes).await?;
        let after = counters(&system)?;
        let mib = options.bytes as f64 / f64::from(1 << 20);
        let mut values: Vec<_> = before
            .iter()
            .zip(after)
            .map(|((name, before), (_, after))| {
                (
                    *name,
                    std::array::from_fn(|role| (after[role] - before[role]) / mib),
                )
            })
            .collect();
        if has_perf {
            // Run the transfer again: perf itself takes time, which would distort the other values.
            let calls = SyscallCounter::count(&system).await?;
            transfer.run_blocking(system.entry, options.bytes).await?;
            values.extend(
                calls
                    .finish()?
                    .into_iter()
                    .map(|(name, counts)| (name, counts.map(|count| count / mib))),
            );
        }
        all.push(KernelCounters { transfer, values });
    }
    Ok(all)
}

/// Reads the counters that the kernel keeps for each process.
fn counters(system: &System) -> anyhow::Result<[(&'static str, [f64; 3]); 3]> {
    let of_each = |value: fn(&Process) -> anyhow::Result<f64>| -> anyhow::Result<[f64; 3]> {
        Ok([
            value(&system.client)?,
            value(&system.master.process)?,
            value(&system.server)?,
        ])
    };
    Ok([
        (
            "CPU ms",
            of_each(|process| Ok(process.cpu_seconds()? * 1e3))?,
        ),
        ("page faults", of_each(Process::minor_faults)?),
        ("context switches", of_each(Process::context_switches)?),
    ])
}

/// Returns whether perf is installed and permitted to count system calls.
fn can_count_calls() -> bool {
    let tried = Command::new("perf")
        .args(["stat", "-e", &events(), "true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    tried.is_ok_and(|status| status.success())
}

fn events() -> String {
    CALLS.map(|(event, _)| event).join(",")
}

/// The perf processes that count the system calls of each role.
struct SyscallCounter([(Process, std::path::PathBuf); 3]);

impl SyscallCounter {
    async fn count(system: &System) -> anyhow::Result<Self> {
        let folder = system.master.folder.path();
        let one = |name: &str, process: &Process| -> anyhow::Result<_> {
            let file = folder.join(format!("{name}.calls"));
            let mut command = Command::new("perf");
            command
                .args([
                    "stat",
                    "-x",
                    ";",
                    "-e",
                    &events(),
                    "-p",
                    &process.id().to_string(),
                    "-o",
                ])
                .arg(&file);
            Ok((
                Process::start(&format!("perf-{name}"), &mut command, folder)?,
                file,
            ))
        };
        let [client, master, server] = ROLES;
        let calls = [
            one(client, &system.client)?,
            one(master, &system.master.process)?,
            one(server, &system.server)?,
        ];
        tokio::time::sleep(PERF_READY).await;
        Ok(SyscallCounter(calls))
    }

    fn finish(self) -> anyhow::Result<Vec<(&'static str, [f64; 3])>> {
        let mut counts = BTreeMap::new();
        for (role, (mut perf, file)) in self.0.into_iter().enumerate() {
            perf.interrupt()?;
            let text = fs::read_to_string(file).context("perf wrote nothing")?;
            for (event, name) in CALLS {
                let line = text
                    .lines()
                    .find(|line| line.split(';').nth(2) == Some(event));
                let count = line.and_then(|line| line.split(';').next()?.parse::<f64>().ok());
                counts.entry(name).or_insert([0.0; 3])[role] =
                    count.with_context(|| format!("perf did not count {event}"))?;
            }
        }
        Ok(CALLS
            .iter()
            .filter_map(|(_, name)| Some((*name, *counts.get(name)?)))
            .collect())
    }
}

/// Prints a table with a column for each transfer.
pub(crate) fn print(observed: &[KernelCounters]) {
    println!(
        "\nThree processes, per MiB of payload (aes-128-gcm): {}\n",
        ROLES.join(" / ")
    );
    let mut rows = vec![
        std::iter::once(String::new())
            .chain(observed.iter().map(|one| one.transfer.to_string()))
            .collect::<Vec<_>>(),
    ];
    let names = observed
        .first()
        .map(|first| first.values.iter().map(|(name, _)| *name))
        .into_iter()
        .flatten();
    for (index, name) in names.enumerate() {
        let cells = observed.iter().map(|one| {
            let values = one
                .values
                .get(index)
                .map(|(_, values)| *values)
                .unwrap_or_default();
            values.map(table::short).join(" / ")
        });
        rows.push(std::iter::once(name.to_owned()).chain(cells).collect());
    }
    table::print_table(&rows);
}
