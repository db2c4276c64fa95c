//! Compares rePort's three processes on loopback with a chain of three raw TCP copiers.
//!
//! The chain is the baseline for any system with three hops. All systems run at the same time and
//! are measured alternately. Run `cargo bench --bench end_to_end`, or add `-- --full`, `-- --only
//! plain`, `-- --help`.
//!
//! ```text
//!  load ──TCP──► client ──► master ──► server ──TCP──► service   rePort, with WebSockets in between
//!  load ──TCP──► copier ──► copier ──► copier ──TCP──► service   the chain
//!                                                    each is a separate process on 127.0.0.1
//! ```
//!
//! | file | contents |
//! |---|---|
//! | `options` | the command line |
//! | `network` | the separate network namespace |
//! | `children`, `process` | child processes: readiness, termination, resource usage |
//! | `services`, `copier` | the hidden commands of this program: the service and the copiers |
//! | `variants` | the list of systems |
//! | `systems`, `peers` | the processes and configurations of the systems |
//! | `load_generator` | the measurements; details in `bulk`, `echo`, `stalled` and `connections` |
//! | `alone` | the cost of ciphers, compressors and TLS alone |
//! | `results` | medians and ratios, JSON |
//! | `goals` | the goals |
//! | `tables`, `plot`, `machine` | output; facts about the machine |
//!
//! `support/` has what several benchmarks use.
//!
//! A failed transfer ends the run with an error and the last log lines of the processes. Every
//! process is ended in any case.

#[path = "end_to_end/alone.rs"]
mod alone;
#[path = "support/arguments.rs"]
mod arguments;
#[path = "end_to_end/bulk.rs"]
mod bulk;
#[path = "end_to_end/children.rs"]
mod children;
#[path = "end_to_end/connections.rs"]
mod connections;
#[path = "end_to_end/copier.rs"]
mod copier;
#[expect(dead_code, reason = "the layers benchmark uses the rest")]
#[path = "support/data.rs"]
mod data;
#[path = "support/document.rs"]
mod document;
#[path = "end_to_end/echo.rs"]
mod echo;
#[path = "support/exit.rs"]
mod exit;
#[path = "end_to_end/goals.rs"]
mod goals;
#[path = "end_to_end/load_generator.rs"]
mod load_generator;
#[path = "end_to_end/machine.rs"]
mod machine;
#[path = "support/markdown.rs"]
mod markdown;
#[path = "support/median.rs"]
mod median;
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
#[expect(dead_code, reason = "this benchmark has another runtime")]
#[path = "support/stopping.rs"]
mod stopping;
#[path = "end_to_end/systems.rs"]
mod systems;
#[path = "end_to_end/tables.rs"]
mod tables;
#[path = "end_to_end/variants.rs"]
mod variants;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;

use self::{
    children::Children,
    load_generator::LoadGenerator,
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
                network::enter_namespace()
            };
            entered.and_then(|()| measure_until_stopped(options))
        }
        Err(error) => Err(error),
    };
    exit::code("end_to_end", done)
}

/// Measures until done, a signal arrives or the time limit passes. Ends all child processes.
fn measure_until_stopped(options: Options) -> anyhow::Result<()> {
    let children = Arc::new(Children::new()?);
    let time_limit = options.time_limit;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let for_measuring = Arc::clone(&children);
    let measured = runtime.block_on(stopping::until_stopped(time_limit, async move {
        tokio::task::spawn_blocking(move || measure(&options, &for_measuring)).await?
    }));
    children.end_all();
    // Do not wait for the measuring thread. It fails once its processes are gone, or ends with this
    // one.
    runtime.shutdown_timeout(Duration::ZERO);
    measured.inspect_err(|_| children.print_log_tails())
}

fn measure(options: &Options, children: &Arc<Children>) -> anyhow::Result<()> {
    let service = services::start(children)?;
    let systems = options
        .variants
        .iter()
        .map(|variant| System::start(variant, service, children))
        .collect::<Result<Vec<_>, _>>()?;
    let load = LoadGenerator::new(options);
    for system in &systems {
        load.verify(system)
            .with_context(|| format!("{}: verification failed", system.name()))?;
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

/// Runs every measurement once, alternating between the systems.
fn measure_round(
    load: &LoadGenerator,
    systems: &[System],
    results: &mut Results,
) -> anyhow::Result<()> {
    for measure in load_generator::Measure::ALL {
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
