//! The command line. Options follow `--`.

use std::{path::PathBuf, time::Duration};

use anyhow::bail;

use crate::arguments::Arguments;

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
        let mut arguments = Arguments::new(std::env::args().skip(1));
        let mut options = if arguments.has("--bench") {
            Options::full()
        } else {
            Options::smoke()
        };
        while let Some(option) = arguments.next_option() {
            match option.as_str() {
                "--bench" => {}
                "--help" | "-h" => return Ok(Command::Help),
                "--mib" => options.bytes = u64::from(arguments.number::<u32>(&option)?) << 20,
                "--json" => options.json = Some(arguments.value(&option)?.into()),
                other => bail!("unknown option {other}\n\n{HELP}"),
            }
        }
        Ok(Command::Measure(options))
    }
}
