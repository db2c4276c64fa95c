//! Measures what accounts, keys and limits cost, and how exact the limits are.
//!
//! Run `cargo bench --bench policies`, or add `-- --quick`, `-- --only rates`, `-- --help`.
//!
//! ```text
//!  rates   download ◄── link ◄── master, limit ◄── link ◄── server that sends all it can
//!  beside  echoes and other keys beside limited downloads
//!  idle    10,000 tunnels at rest, each of a limited key
//!  keys    100,000 keys in the store: start, memory, registrations, attachments, pages
//!  relay   downloads through masters without a store and with one, in turns
//! ```
//!
//! The master is a process. Servers, clients and the other side of the store are in this process.
//!
//! | file | contents |
//! |---|---|
//! | `options` | the command line |
//! | `database`, `postgres` | stores with keys, and the masters that use them |
//! | `numbered_keys` | keys with consecutive ids |
//! | `rates`, `beside`, `idle`, `keys`, `relay` | the measurements |
//! | `attachments`, `pages` | parts of `keys` |
//! | `arrivals`, `percentile` | the rate of what arrives; percentiles |
//!
//! `support/` has what several benchmarks use.
//! An error or a signal ends the run and all processes that it started. `benches/policies/README.md`
//! explains the values.

#[path = "support/arguments.rs"]
mod arguments;
#[path = "policies/arrivals.rs"]
mod arrivals;
#[path = "policies/attachments.rs"]
mod attachments;
#[path = "policies/beside.rs"]
mod beside;
#[path = "policies/database.rs"]
mod database;
#[path = "support/exit.rs"]
mod exit;
#[path = "policies/idle.rs"]
mod idle;
#[path = "policies/keys.rs"]
mod keys;
#[path = "support/markdown.rs"]
mod markdown;
#[path = "support/median.rs"]
mod median;
#[path = "policies/numbered_keys.rs"]
mod numbered_keys;
#[path = "policies/options.rs"]
mod options;
#[path = "policies/pages.rs"]
mod pages;
#[expect(dead_code, reason = "the scale benchmark uses the rest")]
#[path = "support/peers.rs"]
mod peers;
#[path = "policies/percentile.rs"]
mod percentile;
#[path = "support/port.rs"]
mod port;
#[path = "policies/postgres.rs"]
mod postgres;
#[expect(dead_code, reason = "the allocations benchmark uses the rest")]
#[path = "support/processes.rs"]
mod processes;
#[path = "policies/rates.rs"]
mod rates;
#[path = "policies/relay.rs"]
mod relay;
#[path = "support/results.rs"]
mod results;
#[expect(dead_code, reason = "the scale benchmark uses the rest")]
#[path = "support/roles.rs"]
mod roles;
#[path = "support/stopping.rs"]
mod stopping;
#[path = "support/streams.rs"]
mod streams;
#[path = "support/table.rs"]
mod table;

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
        Ok(Command::Measure(options)) => {
            stopping::run_until_stopped(options.time_limit, measure(&options))
        }
        Err(error) => Err(error),
    };
    exit::code("policies", done)
}

async fn measure(options: &Options) -> anyhow::Result<()> {
    processes::raise_file_limit()?;
    let mut results = Results::default();
    for part in &options.parts {
        let measured = match part {
            Part::Rates => Box::pin(rates::measure(options, &mut results)).await,
            Part::Beside => Box::pin(beside::measure(options, &mut results)).await,
            Part::Idle => Box::pin(idle::measure(options, &mut results)).await,
            Part::Keys => Box::pin(keys::measure(options, &mut results)).await,
            Part::Relay => Box::pin(relay::measure(options, &mut results)).await,
        };
        measured.with_context(|| part.name())?;
    }
    results.print();
    results.write_json(options.json.as_deref())
}
