//! The command line. Options follow `--`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, bail};

use crate::arguments::Arguments;

/// The first argument of a copier process. Its listen address and its target follow.
pub(crate) const COPIER: &str = "as-copier";

pub(crate) const HELP: &str = "\
cargo bench --bench scale -- [OPTIONS]

  --quick        Use 2,000 links for 20 s (not 10,000 for 60 s)
  --only PART    Measure only connections, links or tunnels (repeatable)
  --connections N, --links N, --tunnels N
                 Set the number of connections, links or tunnels
  --rest SECONDS Set the idle time of the links
  --rounds N     Set the rounds of the tunnel measurement
  --json FILE    Write all values and goals to FILE

The environment variable REPORT_BENCH may hold options too.";

/// The requested command.
pub(crate) enum Command {
    Help,
    Copier {
        listen_at: SocketAddr,
        target: SocketAddr,
    },
    Measure(Options),
}

/// One of the measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Connections,
    Links,
    Tunnels,
}

impl Part {
    const ALL: [Part; 3] = [Part::Connections, Part::Links, Part::Tunnels];

    /// Returns the name for `--only`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Part::Connections => "connections",
            Part::Links => "links",
            Part::Tunnels => "tunnels",
        }
    }
}

/// The extent of the measurement.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub parts: Vec<Part>,
    /// The number of idle connections.
    pub connections: usize,
    /// The idle time of connections before the memory reading.
    pub connections_rest: Duration,
    /// The number of idle links.
    pub links: usize,
    /// The time over which keep-alives are measured.
    ///
    /// Use whole keep-alive intervals (20 s): links that start together send keep-alives together.
    pub links_rest: Duration,
    /// The number of tunnels with little traffic.
    pub tunnels: usize,
    /// The duration of one round of the tunnel measurement.
    pub tunnels_round: Duration,
    pub rounds: usize,
    pub json: Option<PathBuf>,
    /// The time after which the run fails.
    pub time_limit: Duration,
}

impl Options {
    fn full() -> Self {
        Options {
            parts: Part::ALL.to_vec(),
            connections: 2_000,
            connections_rest: Duration::from_secs(5),
            links: 10_000,
            links_rest: Duration::from_secs(60),
            tunnels: 1_000,
            tunnels_round: Duration::from_secs(4),
            rounds: 5,
            json: None,
            time_limit: Duration::from_secs(15 * 60),
        }
    }

    fn quick() -> Self {
        Options {
            links: 2_000,
            links_rest: Duration::from_secs(20),
            tunnels_round: Duration::from_secs(2),
            rounds: 3,
            ..Options::full()
        }
    }

    /// Returns the options for `cargo test`, which runs benchmarks without `--bench`.
    ///
    /// Such a run only checks that everything works.
    fn smoke() -> Self {
        Options {
            connections: 20,
            connections_rest: Duration::from_millis(100),
            links: 20,
            links_rest: Duration::from_millis(200),
            tunnels: 10,
            tunnels_round: Duration::from_millis(200),
            rounds: 1,
            time_limit: Duration::from_secs(120),
            ..Options::full()
        }
    }
}

impl Command {
    /// Parses the arguments of the process.
    pub(crate) fn from_arguments() -> anyhow::Result<Self> {
        let of_process: Vec<String> = std::env::args().skip(1).collect();
        if let [name, listen_at, target] = &of_process[..]
            && name == COPIER
        {
            return Ok(Command::Copier {
                listen_at: listen_at.parse()?,
                target: target.parse()?,
            });
        }
        let mut arguments = Arguments::new(of_process);
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
                "--connections" => options.connections = arguments.number(&option)?,
                "--links" => options.links = arguments.number(&option)?,
                "--tunnels" => options.tunnels = arguments.number(&option)?,
                "--rest" => options.links_rest = Duration::from_secs(arguments.number(&option)?),
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
