//! What many cost: idle connections, links at rest, tunnels that each move a little. `cargo bench --bench scale`, or with `-- --quick`,
//! `-- --only links`, `-- --help`.
//!
//! ```text
//!  connections   2,000 × TCP ──► client ──► master ──► server ──► 2,000 × TCP     three processes; one tunnel
//!  links        10,000 × link ══════════► master ◄══ link with 10,000 tunnels     the master is a process, the links' other ends are here
//!  tunnels       1,000 × link ══════════► master ◄══ link with  1,000 tunnels     and the same traffic in one tunnel
//! ```
//!
//! | file | what it owns |
//! |---|---|
//! | `options` | the command line |
//! | `processes` | processes: that they end, what memory they hold, what CPU they used |
//! | `roles` | rePort's processes and their configurations |
//! | `peers` | the other ends of many links, within this process |
//! | `connections`, `links`, `tunnels` | the three measurements |
//! | `results` | values, goals, the table, JSON |
//!
//! Whatever ends the run, an error or a signal, ends all processes that it started. `benches/scale/README.md` says how to read the values.

#[path = "scale/connections.rs"]
mod connections;
#[path = "scale/links.rs"]
mod links;
#[path = "scale/options.rs"]
mod options;
#[path = "scale/peers.rs"]
mod peers;
#[path = "scale/processes.rs"]
mod processes;
#[path = "scale/results.rs"]
mod results;
#[path = "scale/roles.rs"]
mod roles;
#[path = "scale/tunnels.rs"]
mod tunnels;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

use self::{
    options::{Command, Options, Part},
    results::Results,
};

/// What is still under way when the run ends has so long to end as well.
const FAREWELL: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let done = match Command::from_arguments() {
        Ok(Command::Help) => {
            println!("{}", options::HELP);
            Ok(())
        }
        Ok(Command::Measure(options)) => measure_until_stopped(&options),
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scale: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures, unless a signal comes or the time is over. What measures owns the processes: they end when it is dropped.
fn measure_until_stopped(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let measured = runtime.block_on(async {
        let (mut interrupted, mut terminated) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let mut hung_up = signal(SignalKind::hangup())?;
        tokio::select! {
            measured = measure(options) => measured,
            _ = interrupted.recv() => bail!("interrupted"),
            _ = terminated.recv() => bail!("terminated"),
            _ = hung_up.recv() => bail!("the terminal has gone"),
            () = tokio::time::sleep(options.time_limit) => bail!("not done after {:?}", options.time_limit),
        }
    });
    runtime.shutdown_timeout(FAREWELL);
    measured
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
        measured.with_context(|| format!("{}", part.name()))?;
    }
    results.print();
    results.write_json(options.json.as_deref())
}
