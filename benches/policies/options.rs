//! The command line. Options follow `--`.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail};

use crate::arguments::Arguments;

pub(crate) const HELP: &str = "\
cargo bench --bench policies -- [OPTIONS]

  --quick           Use a tenth of the keys and shorter times
  --only PART       Measure only rates, beside, idle, keys or relay (repeatable)
  --seconds N       Set the time of each limited download (10)
  --rest SECONDS    Set the idle time of the limited keys (30)
  --limited-keys N  Set the number of limited keys at rest (10000)
  --keys N          Set the number of keys in the store (100000)
  --attachments N   Set the number of timed attachments (2000)
  --rounds N        Set the rounds of the relay measurement (7)
  --json FILE       Write all values and goals to FILE

The environment variable REPORT_BENCH may hold options too.";

/// The requested command.
pub(crate) enum Command {
    Help,
    Measure(Options),
}

/// One of the measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Rates,
    Beside,
    Idle,
    Keys,
    Relay,
}

impl Part {
    const ALL: [Part; 5] = [
        Part::Rates,
        Part::Beside,
        Part::Idle,
        Part::Keys,
        Part::Relay,
    ];

    /// Returns the name for `--only`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Part::Rates => "rates",
            Part::Beside => "beside",
            Part::Idle => "idle",
            Part::Keys => "keys",
            Part::Relay => "relay",
        }
    }
}

/// The extent of the measurement.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub parts: Vec<Part>,
    /// The time before each measured download, in which bursts pass.
    pub warm_up: Duration,
    /// The time of each measured download.
    pub length: Duration,
    /// The number of limited keys at rest, each with a tunnel.
    pub limited_keys: u32,
    /// The time at rest over which CPU time is measured.
    pub rest: Duration,
    /// The number of keys in the store.
    pub keys: u32,
    /// The number of starts with these keys.
    pub starts: usize,
    /// The number of timed attachments.
    pub attachments: usize,
    /// The rounds of the relay measurement, and the length of each download in it.
    pub rounds: usize,
    pub round: Duration,
    pub json: Option<PathBuf>,
    /// The time after which the run fails.
    pub time_limit: Duration,
}

impl Options {
    fn full() -> Self {
        Options {
            parts: Part::ALL.to_vec(),
            warm_up: Duration::from_secs(3),
            length: Duration::from_secs(10),
            limited_keys: 10_000,
            rest: Duration::from_secs(30),
            keys: 100_000,
            starts: 5,
            attachments: 2_000,
            rounds: 7,
            round: Duration::from_secs(4),
            json: None,
            time_limit: Duration::from_secs(30 * 60),
        }
    }

    fn quick() -> Self {
        Options {
            warm_up: Duration::from_secs(2),
            length: Duration::from_secs(5),
            limited_keys: 1_000,
            rest: Duration::from_secs(10),
            keys: 10_000,
            starts: 3,
            attachments: 500,
            rounds: 3,
            round: Duration::from_secs(2),
            ..Options::full()
        }
    }

    /// Returns the options for `cargo test`, which runs benchmarks without `--bench`.
    ///
    /// Such a run only checks that everything works.
    fn smoke() -> Self {
        Options {
            warm_up: Duration::from_millis(200),
            length: Duration::from_secs(3),
            limited_keys: 20,
            rest: Duration::from_millis(200),
            keys: 300,
            starts: 1,
            attachments: 10,
            rounds: 1,
            round: Duration::from_millis(200),
            time_limit: Duration::from_secs(180),
            ..Options::full()
        }
    }
}

impl Command {
    /// Parses the arguments of the process.
    pub(crate) fn from_arguments() -> anyhow::Result<Self> {
        let mut arguments = Arguments::new(std::env::args().skip(1));
        let mut options = match () {
            () if arguments.has("--quick") => Options::quick(),
            () if arguments.has("--bench") => Options::full(),
            () => Options::smoke(),
        };
        let mut wanted = Vec::new();
        while let Some(option) = arguments.next_option() {
            match option.as_str() {
                "--bench" | "--quick" => {}
                "--help" | "-h" => return Ok(Command::Help),
                "--only" => wanted.push(part(&arguments.value(&option)?)?),
                "--seconds" => options.length = Duration::from_secs(arguments.number(&option)?),
                "--rest" => options.rest = Duration::from_secs(arguments.number(&option)?),
                "--limited-keys" => options.limited_keys = arguments.number(&option)?,
                "--keys" => options.keys = arguments.number(&option)?,
                "--attachments" => options.attachments = arguments.number(&option)?,
                "--rounds" => options.rounds = arguments.number(&option)?,
                "--json" => options.json = Some(arguments.value(&option)?.into()),
                other => bail!("unknown option {other}\n\n{HELP}"),
            }
        }
        if !wanted.is_empty() {
            options.parts.retain(|part| wanted.contains(part));
        }
        Ok(Command::Measure(options))
    }
}

fn part(name: &str) -> anyhow::Result<Part> {
    Part::ALL
        .into_iter()
        .find(|part| part.name() == name)
        .with_context(|| format!("--only {name}: unknown part\n\n{HELP}"))
}
