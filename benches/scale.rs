//! Measures the cost of many idle connections, many idle links, and many tunnels with little
//! traffic.
//!
//! Run `cargo bench --bench scale`, or add `-- --quick`, `-- --only links`, `-- --help`.
//!
//! ```text
//!  connections   2,000 × TCP ──► client ──► master ──► server ──► 2,000 × TCP
//!                (three processes, one tunnel)
//!  links        10,000 × link ══════════► master ◄══ link with 10,000 tunnels
//!                (the master is a process, the other ends of the links are in this process)
//!  tunnels       1,000 × link ══════════► master ◄══ link with  1,000 tunnels
//!                (and the same traffic in one tunnel)
//! ```
//!
//! | file | contents |
//! |---|---|
//! | `options` | the command line |
//! | `processes` | child processes: termination, memory, CPU time |
//! | `roles` | rePort's processes and their configurations |
//! | `copier` | the baseline for the master: a copier of TCP connections |
//! | `peers`, `streams` | the other ends of many links, within this process, and their streams |
//! | `connections`, `links`, `tunnels` | the three measurements |
//! | `results`, `table` | values, goals, JSON; printing |
//! | `stopping` | signals and the time limit |
//!
//! `support/` has what several benchmarks use.
//! An error or a signal ends the run and all processes that it started. `benches/scale/README.md`
//! explains the values.

#[path = "support/arguments.rs"]
mod arguments;
#[path = "scale/connections.rs"]
mod connections;
#[path = "scale/copier.rs"]
mod copier;
#[path = "support/exit.rs"]
mod exit;
#[path = "scale/links.rs"]
mod links;
#[path = "support/markdown.rs"]
mod markdown;
#[path = "support/median.rs"]
mod median;
#[path = "scale/options.rs"]
mod options;
#[expect(dead_code, reason = "the policies benchmark uses the rest")]
#[path = "support/peers.rs"]
mod peers;
#[path = "support/port.rs"]
mod port;
#[expect(dead_code, reason = "the allocations benchmark uses the rest")]
#[path = "support/processes.rs"]
mod processes;
#[path = "support/results.rs"]
mod results;
#[path = "support/roles.rs"]
mod roles;
#[path = "support/stopping.rs"]
mod stopping;
#[expect(dead_code, reason = "the policies benchmark uses the rest")]
#[path = "support/streams.rs"]
mod streams;
#[path = "support/table.rs"]
mod table;
#[path = "scale/tunnels.rs"]
mod tunnels;

use std::process::ExitCode;

use anyhow::Context;

use self::{
    options::{Command, Options, Part},
    results::Results,
};

fn main() -> ExitCode {
    let done = match Command::from_arguments() {
        Ok(Command::Help) => {
            println!("{}", options::HELP);
            Ok(())
        }
        Ok(Command::Copier { listen_at, target }) => copier::run(listen_at, target),
        Ok(Command::Measure(options)) => {
            stopping::run_until_stopped(options.time_limit, measure(&options))
        }
        Err(error) => Err(error),
    };
    exit::code("scale", done)
}

async fn measure(options: &Options) -> anyhow::Result<()> {
    processes::raise_file_limit()?;
    let mut results = Results::default();
    for part in &options.parts {
        let measured = match part {
            Part::Connections => Box::pin(connections::measure(options, &mut results)).await,
            Part::Links => Box::pin(links::measure(options, &mut results)).await,
            Part::Tunnels => Box::pin(tunnels::measure(options, &mut results)).await,
        };
        measured.with_context(|| part.name())?;
    }
    results.print();
    results.write_json(options.json.as_deref())
}
