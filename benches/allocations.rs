//! Measures the cost of a MiB of payload apart from CPU time.
//!
//! It counts the allocations of each role, and the page faults, context switches and system calls
//! of each process. Run `cargo bench --bench allocations`, or add `-- --help`. The benchmark fails
//! if a role exceeds its limit of allocations.
//!
//! ```text
//!  counted   load ──► [client] ──► [master] ──► [server] ──► service
//!            one process, each role on its own thread, loopback sockets in between
//!  observed  load ──►  client  ──►  master  ──►  server  ──► service
//!            three processes, counted by the kernel
//! ```
//!
//! | file | contents |
//! |---|---|
//! | `options` | the command line |
//! | `traffic` | the service and the transfers |
//! | `counted` | the roles on their threads |
//! | `observed` | the three processes |
//!
//! `support/` has what several benchmarks use.
//!
//! Only this program uses the counting allocator. The three processes use the default allocator.

#[path = "support/arguments.rs"]
mod arguments;
#[path = "allocations/counted.rs"]
mod counted;
#[path = "support/exit.rs"]
mod exit;
#[path = "support/markdown.rs"]
mod markdown;
#[path = "allocations/observed.rs"]
mod observed;
#[path = "allocations/options.rs"]
mod options;
#[path = "support/port.rs"]
mod port;
#[expect(dead_code, reason = "the scale benchmark uses the rest")]
#[path = "support/processes.rs"]
mod processes;
#[path = "support/roles.rs"]
mod roles;
#[path = "support/stopping.rs"]
mod stopping;
#[path = "support/table.rs"]
mod table;
#[path = "allocations/traffic.rs"]
mod traffic;

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use self::{
    counted::AllocationCounts,
    observed::KernelCounters,
    options::{Command, Options},
};

/// The roles, in the order of all tables.
pub const ROLES: [&str; 3] = ["client", "master", "server"];

/// The maximum allocations of each role per MiB of payload, in the order of [`ROLES`].
///
/// The limits are 1.5 times the measured values. They guard against regressions: lower them
/// whenever the measured values drop.
const MAX_ALLOCATIONS: [f64; 3] = [100.0, 80.0, 100.0];

fn main() -> ExitCode {
    let done = match Command::from_arguments() {
        Ok(Command::Help) => {
            println!("{}", options::HELP);
            Ok(())
        }
        Ok(Command::Measure(options)) => {
            stopping::run_until_stopped(options.time_limit, measure(&options))
        }
        Err(error) => Err(error),
    };
    exit::code("allocations", done)
}

async fn measure(options: &Options) -> anyhow::Result<()> {
    println!(
        "{}; {} MiB in each direction",
        table::heading(),
        options.bytes >> 20
    );
    let counted = counted::measure(options).await?;
    print_allocations(&counted);
    let observed = observed::measure(options).await?;
    observed::print(&observed);
    write_json(options.json.as_deref(), &counted, &observed)?;
    if options.checks_bounds {
        check_bounds(&counted)
    } else {
        Ok(())
    }
}

fn print_allocations(counted: &[AllocationCounts]) {
    println!("\nAllocations per MiB of payload (and KiB allocated)\n");
    let mut rows = vec![
        std::iter::once("")
            .chain(ROLES)
            .chain(["all"])
            .map(str::to_owned)
            .collect::<Vec<_>>(),
    ];
    for AllocationCounts {
        method,
        transfer,
        roles,
    } in counted
    {
        let all = roles
            .iter()
            .copied()
            .fold([0.0; 2], |[count, bytes], role| {
                [count + role.count, bytes + role.bytes]
            });
        let cells = roles
            .iter()
            .map(|role| [role.count, role.bytes])
            .chain([all]);
        let cells = cells.map(|[count, bytes]| {
            format!("{} ({})", table::short(count), table::short(bytes / 1024.0))
        });
        rows.push(
            std::iter::once(format!("{method}, {transfer}"))
                .chain(cells)
                .collect(),
        );
    }
    rows.push(
        std::iter::once("limit".to_owned())
            .chain(MAX_ALLOCATIONS.map(table::short))
            .chain([String::new()])
            .collect(),
    );
    table::print_table(&rows);
}

/// Returns an error if a role exceeds its limit.
fn check_bounds(counted: &[AllocationCounts]) -> anyhow::Result<()> {
    let mut excess = Vec::new();
    for AllocationCounts {
        method,
        transfer,
        roles,
    } in counted
    {
        for ((role, allowed), used) in ROLES.iter().zip(MAX_ALLOCATIONS).zip(roles) {
            if used.count > allowed {
                excess.push(format!(
                    "the {role} makes {:.0} allocations per MiB ({method}, {transfer}), the limit is {allowed:.0}",
                    used.count
                ));
            }
        }
    }
    if excess.is_empty() {
        Ok(())
    } else {
        bail!("{}", excess.join("; "))
    }
}

fn write_json(
    path: Option<&Path>,
    counted: &[AllocationCounts],
    observed: &[KernelCounters],
) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let counted: Vec<Value> = counted.iter().map(AllocationCounts::to_json).collect();
    let observed: Vec<Value> = observed.iter().map(KernelCounters::to_json).collect();
    let allowed = json!({ "client": MAX_ALLOCATIONS[0], "master": MAX_ALLOCATIONS[1], "server": MAX_ALLOCATIONS[2] });
    let all = json!({ "what": table::heading(), "allocations_for_each_mib": counted, "allowed": allowed, "kernel_for_each_mib": observed });
    fs::write(path, serde_json::to_string_pretty(&all)?)
        .with_context(|| format!("cannot write {}", path.display()))
}
