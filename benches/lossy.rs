//! Compares rePort with plain TCP on a long path that loses packets, and counts what cuts break.
//!
//! The path is two network namespaces joined by TUN devices of this process (`tests/support/path`).
//! The kernel's congestion control and recovery work as on a real path. Run `cargo bench --bench
//! lossy`, or add `-- --quick`, `-- --only cubic`, `-- --help`. It needs root.
//!
//! ```text
//!   namespace A                       path                      namespace B
//!   load ─────────────────────── plain TCP ────────────────────────► service
//!   load ──► client ═══════════════ links ═══════════► master ══ server ──► service
//! ```
//!
//! | file | contents |
//! |---|---|
//! | `options` | the command line |
//! | `rows` | the paths and their goals |
//! | `roles` | rePort's processes and their configurations |
//! | `service` | the service in namespace B: source, sink, echo, and verified transfers |
//! | `load` | connections from namespace A, their throughput, and echoes beside them |
//! | `events` | transfers while connections are cut |
//! | `results`, `tables` | medians, ratios, goals; output |
//!
//! `support/` has what several benchmarks use.
//!
//! All processes, namespaces and devices end with this program, also on a signal.

#[path = "support/arguments.rs"]
mod arguments;
#[path = "support/document.rs"]
mod document;
#[path = "lossy/events.rs"]
mod events;
#[path = "support/exit.rs"]
mod exit;
#[path = "lossy/load.rs"]
mod load;
#[path = "support/markdown.rs"]
mod markdown;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/support/namespace.rs"]
mod namespace;
#[path = "lossy/options.rs"]
mod options;
#[path = "../tests/support/path/mod.rs"]
mod path;
#[allow(dead_code, reason = "other benchmarks use the rest")]
#[path = "support/processes.rs"]
mod processes;
#[path = "lossy/results.rs"]
mod results;
#[path = "lossy/roles.rs"]
mod roles;
#[path = "lossy/rows.rs"]
mod rows;
#[path = "lossy/service.rs"]
mod service;
#[path = "support/stopping.rs"]
mod stopping;
#[path = "lossy/tables.rs"]
mod tables;

use std::{net::SocketAddr, process::ExitCode};

use anyhow::Context;

use self::{
    load::{Target, Transfer},
    options::{Command, Options},
    path::{End, LossyPath, conditions::Conditions},
    results::{EventMeasured, Results, RowMeasured, System},
    roles::Roles,
    rows::{EventRow, Row},
    service::FarService,
};

/// The same for all runs, so that the losses of a row are comparable.
const SEED: u64 = 20;

fn main() -> ExitCode {
    let done = match Command::from_arguments() {
        Ok(Command::Help) => {
            println!("{}", options::HELP);
            Ok(())
        }
        Ok(Command::Measure(options)) => {
            let time_limit = options.time_limit();
            stopping::run_until_stopped(time_limit, async move {
                tokio::task::spawn_blocking(move || measure(&options)).await?
            })
        }
        Err(error) => Err(error),
    };
    // After a signal, the measuring thread cannot remove them any more.
    namespace::delete_all();
    exit::code("lossy", done)
}

fn measure(options: &Options) -> anyhow::Result<()> {
    if let Some(error) = LossyPath::new(SEED, [Conditions::new(rows::ROUND_TRIP, 100); 2]).err() {
        println!("skipped: {error}");
        return Ok(());
    }
    let mut results = Results::new(options);
    for row in &options.rows {
        eprintln!("{}", row.name);
        let measured = measure_row(row, options).with_context(|| row.name)?;
        results.rows.push((*row, measured));
    }
    for event in &options.events {
        eprintln!("{}", event.name);
        let measured = measure_event(event, options).with_context(|| event.name)?;
        results.events.push((*event, measured));
    }
    tables::print(&results);
    results.write_json(options.json.as_deref())?;
    tables::write_into(&results, options.markdown.as_deref())
}

/// A path with the service and rePort on it. The processes end before the path.
struct Testbed {
    roles: Roles,
    service: FarService,
    path: LossyPath,
}

impl Testbed {
    /// Starts everything. Returns the reason if the kernel lacks the congestion control.
    fn start(
        conditions: Conditions,
        congestion_control: &str,
        min_links: usize,
        options: &Options,
    ) -> anyhow::Result<Result<Self, String>> {
        let path = LossyPath::new(SEED, [conditions; 2])?;
        if let Err(error) = path.set_congestion_control(congestion_control) {
            return Ok(Err(error.to_string()));
        }
        let service = FarService::start(path.namespace(End::B))?;
        let roles = Roles::start(&path, service.port(), min_links, options)?;
        Ok(Ok(Testbed {
            roles,
            service,
            path,
        }))
    }

    fn target(&self, system: System) -> Target<'_> {
        let address = match system {
            System::Plain => SocketAddr::from((End::B.address(), self.service.port())),
            System::Report => self.roles.entry,
        };
        Target::new(self.path.namespace(End::A), address)
    }
}

fn measure_row(row: &Row, options: &Options) -> anyhow::Result<RowMeasured> {
    let mut measured = RowMeasured::default();
    let mut testbed = match Testbed::start(row.conditions, row.congestion_control, 1, options)? {
        Ok(testbed) => testbed,
        Err(reason) => {
            eprintln!("  skipped: {reason}");
            measured.skipped = Some(reason);
            return Ok(measured);
        }
    };
    measured.idle_ping = testbed.target(System::Report).idle_ping()?;
    for round in 1..=options.rounds {
        for transfer in Transfer::ALL {
            for system in System::ALL {
                let target = testbed.target(system);
                let sample =
                    load::measure(&target, transfer, &testbed.service, &testbed.path, options)
                        .with_context(|| format!("{}, {transfer}", system.name()))?;
                eprintln!("  round {round}, {}, {transfer}: {sample}", system.name());
                measured.add(transfer, system, sample);
                testbed.roles.check()?;
            }
        }
    }
    Ok(measured)
}

fn measure_event(event: &EventRow, options: &Options) -> anyhow::Result<EventMeasured> {
    let mut measured = EventMeasured::default();
    for system in System::ALL {
        // Each system gets a new path, as broken transfers leave packets and connections behind.
        let mut testbed = match Testbed::start(event.conditions, "cubic", event.min_links, options)?
        {
            Ok(testbed) => testbed,
            Err(reason) => {
                measured.skipped = Some(reason);
                return Ok(measured);
            }
        };
        let target = testbed.target(system);
        let result = events::measure(&target, event, &testbed.path, options)?;
        eprintln!("  {}: {result}", system.name());
        measured.results.push((system, result));
        testbed.roles.check()?;
    }
    Ok(measured)
}
