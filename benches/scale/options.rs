//! The command line. Options come after `--`, or in the environment variable `REPORT_BENCH`, separated by spaces.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, bail};

/// The name of the program that this one runs itself as; where it listens and where it copies to follow.
pub const COPIER: &str = "as-copier";

pub const HELP: &str = "\
cargo bench --bench scale -- [OPTIONS]

  --quick        2,000 links at rest for 20 s in place of 10,000 for 60 s, shorter rounds
  --only PART    connections, links or tunnels alone; may be given again
  --connections N, --links N, --tunnels N
                 so many of them
  --rest SECONDS how long the links rest
  --rounds N     rounds of the tunnels' measurement
  --json FILE    writes every value with its goal

The options may stand in REPORT_BENCH too.";

/// What is to be done.
pub enum Command {
    Help,
    Copier {
        listen_at: SocketAddr,
        target: SocketAddr,
    },
    Measure(Options),
}

/// One of the measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Connections,
    Links,
    Tunnels,
}

impl Part {
    const ALL: [Part; 3] = [Part::Connections, Part::Links, Part::Tunnels];

    /// As `--only` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Part::Connections => "connections",
            Part::Links => "links",
            Part::Tunnels => "tunnels",
        }
    }
}

/// How much to measure.
#[derive(Debug, Clone)]
pub struct Options {
    pub parts: Vec<Part>,
    /// Idle connections.
    pub connections: usize,
    /// How long they are at rest before their memory is looked at.
    pub connections_rest: Duration,
    /// Links at rest.
    pub links: usize,
    /// How long their heartbeats are counted; whole intervals of a heartbeat (20 s), since links that came together beat together.
    pub links_rest: Duration,
    /// Tunnels that each move a little.
    pub tunnels: usize,
    /// How long one round of them is.
    pub tunnels_round: Duration,
    pub rounds: usize,
    pub json: Option<PathBuf>,
    /// The run ends with an error after this long.
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

    /// For `cargo test`, which runs benchmarks without `--bench`: whether everything works, not what it costs.
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
    /// What the process's arguments say.
    pub fn from_arguments() -> anyhow::Result<Self> {
        let mut arguments: Vec<String> = std::env::args().skip(1).collect();
        if let [name, listen_at, target] = &arguments[..]
            && name == COPIER
        {
            return Ok(Command::Copier {
                listen_at: listen_at.parse()?,
                target: target.parse()?,
            });
        }
        let from_environment = std::env::var("REPORT_BENCH").unwrap_or_default();
        arguments.extend(from_environment.split_whitespace().map(str::to_owned));
        let has = |name: &str| arguments.iter().any(|argument| argument == name);
        let mut options = match () {
            () if has("--quick") => Options::quick(),
            () if has("--bench") => Options::full(),
            () => Options::smoke(),
        };
        let mut wanted = Vec::new();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || {
                rest.next()
                    .with_context(|| format!("{argument} needs a value"))
            };
            let number = |text: &String| match text.parse::<usize>() {
                Ok(number) if number > 0 => Ok(number),
                _ => bail!("{argument} needs a number from 1 up, not {text:?}"),
            };
            match argument.as_str() {
                "--bench" | "--quick" => {}
                "--help" | "-h" => return Ok(Command::Help),
                "--only" => wanted.push(part(value()?)?),
                "--connections" => options.connections = number(value()?)?,
                "--links" => options.links = number(value()?)?,
                "--tunnels" => options.tunnels = number(value()?)?,
                "--rest" => options.links_rest = Duration::from_secs(number(value()?)? as u64),
                "--rounds" => options.rounds = number(value()?)?,
                "--json" => options.json = Some(PathBuf::from(value()?)),
                other => bail!("{other}: no such option\n\n{HELP}"),
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
        .with_context(|| format!("--only {name}: no such part\n\n{HELP}"))
}
