//! What a MiB of payload costs beside CPU: allocations of each role, and page faults, context switches and system calls of each process.
//! `cargo bench --bench allocations`, or with `-- --help`. Exits with a failure when a role allocates more than it may.
//!
//! ```text
//!  counted   load ──► [client] ──► [master] ──► [server] ──► service     one process; each role on a thread of its own, whose allocations
//!                                                                        are counted; sockets of loopback in between
//!  observed  load ──►  client  ──►  master  ──►  server  ──► service     three processes, as the kernel sees them
//! ```
//!
//! | file | what it owns |
//! |---|---|
//! | `options` | the command line |
//! | `traffic` | the service, and what is moved |
//! | `counted` | the roles on their threads |
//! | `observed` | the three processes |
//!
//! The counting allocator belongs to this program alone: the three processes have the usual one.

#[path = "allocations/counted.rs"]
mod counted;
#[path = "allocations/observed.rs"]
mod observed;
#[path = "allocations/options.rs"]
mod options;
#[expect(dead_code, reason = "the benchmark of scale needs more of it")]
#[path = "scale/processes.rs"]
mod processes;
#[path = "scale/roles.rs"]
mod roles;
#[path = "scale/stopping.rs"]
mod stopping;
#[path = "scale/table.rs"]
mod table;
#[path = "allocations/traffic.rs"]
mod traffic;

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use self::{
    counted::Counted,
    observed::Observed,
    options::{Command, Options},
};

/// The roles in the order of all tables.
pub const ROLES: [&str; 3] = ["client", "master", "server"];

/// Allocations that each role may make for a MiB of payload, in the same order: half as many again as were measured when this was set. Lower
/// them when less is needed; they are there to see what comes back.
const ALLOWED: [f64; 3] = [100.0, 80.0, 100.0];

fn main() -> ExitCode {
    let done = match Command::from_arguments() {
        Ok(Command::Help) => {
            println!("{}", options::HELP);
            Ok(())
        }
        Ok(Command::Measure(options)) => {
            stopping::until_stopped(options.time_limit, measure(&options))
        }
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("allocations: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(options: &Options) -> anyhow::Result<()> {
    println!(
        "{}; {} MiB in each direction",
        table::heading(),
        options.bytes >> 20
    );
    let counted = counted::measure(options).await?;
    print_counted(&counted);
    let observed = observed::measure(options).await?;
    observed::print(&observed);
    write_json(options.json.as_deref(), &counted, &observed)?;
    if options.is_judged {
        judge(&counted)
    } else {
        Ok(())
    }
}

fn print_counted(counted: &[Counted]) {
    println!("\nAllocations for each MiB of payload, and KiB allocated\n");
    let mut rows = vec![
        std::iter::once("")
            .chain(ROLES)
            .chain(["all"])
            .map(str::to_owned)
            .collect::<Vec<_>>(),
    ];
    for Counted {
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
        std::iter::once("allowed".to_owned())
            .chain(ALLOWED.map(table::short))
            .chain([String::new()])
            .collect(),
    );
    table::print_table(&rows);
}

/// An error when a role allocated more than it may.
fn judge(counted: &[Counted]) -> anyhow::Result<()> {
    let mut excess = Vec::new();
    for Counted {
        method,
        transfer,
        roles,
    } in counted
    {
        for ((role, allowed), used) in ROLES.iter().zip(ALLOWED).zip(roles) {
            if used.count > allowed {
                excess.push(format!(
                    "the {role} allocates {:.0} times for each MiB ({method}, {transfer}), not {allowed:.0}",
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
    counted: &[Counted],
    observed: &[Observed],
) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let counted: Vec<Value> = counted.iter().map(Counted::to_json).collect();
    let observed: Vec<Value> = observed.iter().map(Observed::to_json).collect();
    let allowed = json!({ "client": ALLOWED[0], "master": ALLOWED[1], "server": ALLOWED[2] });
    let all = json!({ "what": table::heading(), "allocations_for_each_mib": counted, "allowed": allowed, "kernel_for_each_mib": observed });
    fs::write(path, serde_json::to_string_pretty(&all)?)
        .with_context(|| format!("cannot write {}", path.display()))
}
