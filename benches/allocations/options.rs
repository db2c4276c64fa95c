//! The command line. Options come after `--`, or in the environment variable `REPORT_BENCH`, separated by spaces.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail};

pub const HELP: &str = "\
cargo bench --bench allocations -- [OPTIONS]

  --mib N        so much for each transfer (256)
  --json FILE    writes every value

System calls are counted by perf, where it is installed and may be used (as root, or with a kernel.perf_event_paranoid that allows it).
The options may stand in REPORT_BENCH too.";

/// What is to be done.
pub enum Command {
    Help,
    Measure(Options),
}

/// How much to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of each transfer.
    pub bytes: u64,
    /// Bytes that are moved before anything is counted: windows and buffers have grown by then.
    pub warm_up_bytes: u64,
    /// Whether too many allocations are an error.
    pub is_judged: bool,
    pub json: Option<PathBuf>,
    /// The run ends with an error after this long.
    pub time_limit: Duration,
}

impl Options {
    fn full() -> Self {
        Options {
            bytes: 256 << 20,
            warm_up_bytes: 64 << 20,
            is_judged: true,
            json: None,
            time_limit: Duration::from_secs(10 * 60),
        }
    }

    /// For `cargo test`, which runs benchmarks without `--bench`: whether everything works. So little is moved that what is allocated once
    /// would count.
    fn smoke() -> Self {
        Options {
            bytes: 4 << 20,
            warm_up_bytes: 1 << 20,
            is_judged: false,
            ..Options::full()
        }
    }
}

impl Command {
    /// What the process's arguments say.
    pub fn from_arguments() -> anyhow::Result<Self> {
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
                    _ => bail!("--mib needs a number from 1 up"),
                },
                "--json" => options.json = Some(PathBuf::from(value()?)),
                other => bail!("{other}: no such option\n\n{HELP}"),
            }
        }
        Ok(Command::Measure(options))
    }
}
