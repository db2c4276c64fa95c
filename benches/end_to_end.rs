//! rePort's three processes on loopback beside a chain of three raw TCP copiers, the floor for anything with three hops, measured in turns
//! in the same run: `cargo bench --bench end_to_end`, or with `-- --full`, `-- --only plain`, `-- --help`.
//!
//! ```text
//!  load ──TCP──► visitor ──► relay ──► agent ──TCP──► service         all of them processes of their own, on 127.0.0.1
//!                client      master    server                         rePort, with WebSockets between them
//!                copier      copier    copier                         the chain
//! ```
//!
//! | file | what it owns |
//! |---|---|
//! | `options` | the command line |
//! | `network` | a network of our own |
//! | `children`, `process` | processes: that they are ready and end; what they use |
//! | `services`, `copier` | the hidden commands in which this program runs itself: the service, a copier, which may work |
//! | `variants` | which systems there are |
//! | `systems`, `peers` | their processes and configurations |
//! | `load` | what is measured; `bulk`, `echo`, `stalled` and `connections` are the ways |
//! | `alone` | what ciphers, compressors and TLS cost by themselves |
//! | `results` | medians and ratios, JSON |
//! | `goals` | what they are held to |
//! | `tables`, `plot`, `machine` | how they are shown, and on which machine they were measured |
//!
//! A transfer that fails is the end of the run, with an error and the processes' last words; every process is ended in any case.

#[path = "end_to_end/alone.rs"]
mod alone;
#[path = "end_to_end/bulk.rs"]
mod bulk;
#[path = "end_to_end/children.rs"]
mod children;
#[path = "end_to_end/connections.rs"]
mod connections;
#[path = "end_to_end/copier.rs"]
mod copier;
#[expect(dead_code, reason = "the benchmark of the layers needs more of it")]
#[path = "layers/data.rs"]
mod data;
#[path = "end_to_end/echo.rs"]
mod echo;
#[path = "end_to_end/goals.rs"]
mod goals;
#[path = "end_to_end/load.rs"]
mod load;
#[path = "end_to_end/machine.rs"]
mod machine;
#[path = "end_to_end/network.rs"]
mod network;
#[path = "end_to_end/options.rs"]
mod options;
#[path = "end_to_end/peers.rs"]
mod peers;
#[path = "end_to_end/plot.rs"]
mod plot;
#[path = "end_to_end/process.rs"]
mod process;
#[path = "end_to_end/results.rs"]
mod results;
#[path = "end_to_end/services.rs"]
mod services;
#[path = "end_to_end/stalled.rs"]
mod stalled;
#[path = "end_to_end/systems.rs"]
mod systems;
#[path = "end_to_end/tables.rs"]
mod tables;
#[path = "end_to_end/variants.rs"]
mod variants;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};

use self::{
    children::Children,
    load::Load,
    options::{Command, Options},
    results::Results,
    systems::System,
};

fn main() -> ExitCode {
    let done = match Command::from_arguments() {
        Ok(Command::Help) => {
            println!("{}", options::HELP);
            Ok(())
        }
        Ok(Command::Service) => services::serve(),
        Ok(Command::Copier(target, work)) => copier::copy(target, work),
        Ok(Command::Measure(options)) => {
            let entered = if options.shared_network {
                Ok(())
            } else {
                network::enter()
            };
            entered.and_then(|()| measure_until_stopped(options))
        }
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("end_to_end: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Measures, unless a signal comes or the time is over: nothing that was started is left behind.
fn measure_until_stopped(options: Options) -> anyhow::Result<()> {
    let children = Arc::new(Children::new()?);
    let time_limit = options.time_limit;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let measured = runtime.block_on(async {
        let (mut interrupted, mut terminated) = (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        );
        let for_measuring = Arc::clone(&children);
        let measuring = tokio::task::spawn_blocking(move || measure(&options, &for_measuring));
        tokio::select! {
            measured = measuring => measured?,
            _ = interrupted.recv() => bail!("interrupted"),
            _ = terminated.recv() => bail!("terminated"),
            () = tokio::time::sleep(time_limit) => bail!("not done after {time_limit:?}"),
        }
    });
    children.end_all();
    // The thread that measures ends by itself once its processes are gone, or with this one.
    runtime.shutdown_timeout(Duration::ZERO);
    measured.inspect_err(|_| children.print_last_words())
}

fn measure(options: &Options, children: &Arc<Children>) -> anyhow::Result<()> {
    let service = services::start(children)?;
    let systems = options
        .variants
        .iter()
        .map(|variant| System::start(variant, service, children))
        .collect::<Result<Vec<_>, _>>()?;
    let load = Load::new(options);
    for system in &systems {
        load.verify(system)
            .with_context(|| format!("{}: bytes do not arrive as they were sent", system.name()))?;
    }
    let mut results = Results::new(options, &systems);
    for round in 1..=options.rounds {
        measure_round(&load, &systems, &mut results)?;
        eprintln!("round {round} of {}", options.rounds);
    }
    if !options.sustained.is_zero() {
        for system in systems
            .iter()
            .filter(|system| system.variant().is_sustained())
        {
            results.add_sustained(system, load.connect_sustained(system)?);
        }
    }
    for system in &systems {
        results.add(system, &system.peak_memory()?);
    }
    tables::print(&results);
    results.write_json(options.json.as_deref())?;
    tables::write_into(&results, options.markdown.as_deref())?;
    plot::write(&results, options.plot.as_deref())
}

/// Everything once, the systems in turns.
fn measure_round(load: &Load, systems: &[System], results: &mut Results) -> anyhow::Result<()> {
    for measure in load::Measure::ALL {
        for system in systems
            .iter()
            .filter(|system| system.variant().is_measured(measure))
        {
            let values = load
                .run(measure, system)
                .with_context(|| format!("{}: {measure:?}", system.name()))?;
            results.add(system, &values);
        }
    }
    for system in systems {
        results.add(
            system,
            &alone::measure(system.variant(), load.options.alone_bytes)?,
        );
    }
    Ok(())
}
