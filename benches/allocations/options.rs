//! The command line.
//!
//! Options follow `--`, or come from the environment variable `REPORT_BENCH`, separated by spaces.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail};

pub(crate) const HELP: &str = "\
cargo bench --bench allocations -- [OPTIONS]

  --mib N        MiB per transfer (default 256)
  --json FILE    Write all values to FILE

perf counts the system calls, if it is installed and permitted
(root, or a suitable kernel.perf_event_paranoid).
The environment variable REPORT_BENCH may hold options too.";

/// The requested command.
pub(crate) enum Command {
    Help,
    Measure(Options),
}

/// The extent of the measurement.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Bytes of each transfer.
    pub bytes: u64,
    /// Bytes to move before counting starts, so that windows and buffers have grown.
    pub warm_up_bytes: u64,
    /// Whether to fail if a role exceeds its limit.
    pub checks_bounds: bool,
    pub json: Option<PathBuf>,
    /// The time after which the run fails.
    pub time_limit: Duration,
}

impl Options {
    fn full() -> Self {
        Options {
            bytes: 256 << 20,
            warm_up_bytes: 64 << 20,
            checks_bounds: true,
            json: None,
            time_limit: Duration::from_secs(10 * 60),
        }
    }

    /// Returns the options for `cargo test`, which runs benchmarks without `--bench`.
    ///
    /// Such a run only checks that everything works. It moves so little that one-time allocations
    /// would dominate, so the limits do not apply.
    fn smoke() -> Self {
        Options {
            bytes: 4 << 20,
            warm_up_bytes: 1 << 20,
            checks_bounds: false,
            ..Options::full()
        }
    }
}

impl Command {
    /// Parses the arguments of the process.
    pub(crate) fn from_arguments() -> anyhow::Result<Self> {
        let mut arguments: Vec<String> = std::env::args().skip(1).collect();
        let from_environment = std::env::var("REPORT_BENCH").unwrap_or_default();
        arguments.extend(from_environment.split_whitespace().map(str::to_owned));
        let is_bench = arguments.iter().any(|argument| argument == "--bench");
        let mut options = if is_bench {
            Options::full()
        } else {
            Options::smoke()
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || {
                rest.next()
                    .with_context(|| format!("{argument} needs a value"))
            };
            match argument.as_str() {
                "--bench" => {}
                "--help" | "-h" => return Ok(Command::Help),
                "--mib" => match value()?.parse::<u32>() {
                    Ok(mib @ 1..) => options.bytes = u64::from(mib) << 20,
                    _ => bail!("--mib needs a positive number"),
                },
                "--json" => options.json = Some(PathBuf::from(value()?)),
                other => bail!("unknown option {other}\n\n{HELP}"),
            }
        }
        Ok(Command::Measure(options))
    }
}
