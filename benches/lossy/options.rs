//! The command line. Options follow `--`.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail};

use crate::{
    arguments::Arguments,
    load::Transfer,
    results::System,
    rows::{EventRow, Row},
};

pub(crate) const HELP: &str = "\
cargo bench --bench lossy -- [OPTIONS]

  --quick          Count for 10 s (not 20 s) per transfer, and cut smaller transfers
  --only TEXT      Measure only rows whose names contain TEXT (repeatable)
  --rounds N       Set the number of rounds (default 3)
  --seconds N      Set the counted seconds per transfer
  --binary FILE    Measure this report program instead of the one of this build
  --links N        Set links.max of the roles (default 8); 0 omits the field, for older builds
  --json FILE      Write all values to FILE
  --markdown FILE  Update the tables in FILE, or create it

Rows:
  0-loss-cubic, 0-loss-bbr, 1-percent-cubic, 1-percent-bbr, 3-percent-200ms-cubic, bursts-cubic,
  cut-lane, cut-link, cut-all

The environment variable REPORT_BENCH may hold options too.";

/// The time that a transfer has to reach its rate, and rePort to add links.
const WARM_UP: Duration = Duration::from_secs(8);

/// The bound of the time around a counted window: connecting, and the rest of the previous transfer.
const OVERHEAD: Duration = Duration::from_secs(30);

/// The bound of the time of one cut row with one system.
const EVENT_LIMIT: Duration = Duration::from_secs(600);

/// The requested command.
pub(crate) enum Command {
    Help,
    Measure(Options),
}

/// The extent of the measurement.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub rows: Vec<Row>,
    pub events: Vec<EventRow>,
    pub rounds: usize,
    pub warm_up: Duration,
    /// The time over which bytes and echoes count.
    pub window: Duration,
    /// The divisor of the bytes of a transfer that is cut.
    pub event_divisor: u64,
    /// `links.max` of the roles. With 0 the field is omitted.
    pub links: usize,
    pub binary: PathBuf,
    pub json: Option<PathBuf>,
    pub markdown: Option<PathBuf>,
}

impl Options {
    fn full() -> Self {
        Options {
            rows: Row::all(),
            events: EventRow::all(),
            rounds: 3,
            warm_up: WARM_UP,
            window: Duration::from_secs(20),
            event_divisor: 1,
            links: 8,
            binary: PathBuf::from(env!("CARGO_BIN_EXE_report")),
            json: None,
            markdown: None,
        }
    }

    fn quick() -> Self {
        Options {
            window: Duration::from_secs(10),
            event_divisor: 4,
            ..Options::full()
        }
    }

    /// Returns the options for `cargo test`, which runs benchmarks without `--bench`.
    ///
    /// Such a run only checks that everything works.
    fn smoke() -> Self {
        let mut options = Options {
            rounds: 1,
            warm_up: Duration::from_millis(500),
            window: Duration::from_millis(500),
            event_divisor: 64,
            ..Options::full()
        };
        options.rows.truncate(1);
        options.events.truncate(1);
        options
    }

    /// Returns the time after which the run fails.
    pub(crate) fn time_limit(&self) -> Duration {
        let transfers = self.rows.len() * self.rounds * Transfer::ALL.len() * System::ALL.len();
        let cuts = self.events.len() * System::ALL.len();
        let of_transfer = self.warm_up + self.window + OVERHEAD;
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        of_transfer.saturating_mul(count(transfers)) + EVENT_LIMIT.saturating_mul(count(cuts))
    }

    fn retain(&mut self, wanted: &[String]) -> anyhow::Result<()> {
        for text in wanted {
            let is_known = Row::all()
                .iter()
                .any(|row| row.name.contains(text.as_str()))
                || EventRow::all()
                    .iter()
                    .any(|event| event.name.contains(text.as_str()));
            if !is_known {
                bail!("--only {text}: no row matches\n\n{HELP}");
            }
        }
        if !wanted.is_empty() {
            let is_wanted = |name: &str| wanted.iter().any(|text| name.contains(text.as_str()));
            (self.rows, self.events) = (Row::all(), EventRow::all());
            self.rows.retain(|row| is_wanted(row.name));
            self.events.retain(|event| is_wanted(event.name));
        }
        Ok(())
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
                "--only" => wanted.push(arguments.value(&option)?),
                "--rounds" => options.rounds = arguments.number(&option)?,
                "--seconds" => options.window = Duration::from_secs(arguments.number(&option)?),
                "--binary" => options.binary = arguments.value(&option)?.into(),
                "--links" => {
                    let links = arguments.value(&option)?;
                    options.links = links.parse().context("--links needs a number")?;
                }
                "--json" => options.json = Some(arguments.value(&option)?.into()),
                "--markdown" => options.markdown = Some(arguments.value(&option)?.into()),
                other => bail!("unknown option {other}\n\n{HELP}"),
            }
        }
        options.retain(&wanted)?;
        Ok(Command::Measure(options))
    }
}
