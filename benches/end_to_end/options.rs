//! The command line. Options come after `--`, or in the environment variable `REPORT_BENCH`, separated by spaces.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, bail};

use crate::systems::Variant;

/// Names one of the programs that this one runs itself as.
pub const SERVICE: &str = "as-service";
/// The same; the next argument is where to copy to.
pub const COPIER: &str = "as-copier";

pub const HELP: &str = "\
cargo bench --bench end_to_end -- [OPTIONS]

  --quick        small sizes, 3 rounds (unless another is given)
  --full         1 GiB for each transfer, 5 rounds
  --rounds N     so many rounds
  --only NAME    this system and the chain alone; may be given again (a part of the name is enough)
  --json FILE    writes every measured value
  --beside FILE  measures another build of the program too, in turns with this one: its systems are called \"other …\"

Systems: chain, and rePort with plain, aes-128-cfb, aes-128-gcm, chacha20-poly1305 (compression null), s2-text and zstd-text (aes-128-gcm, text
in place of random data), tls (aes-128-gcm, with TLS at the master), plain-s2-text and plain-zstd-text.
The options may stand in REPORT_BENCH too.";

/// What is to be done.
pub enum Command {
    Help,
    Service,
    Copier(SocketAddr),
    Measure(Options),
}

/// How to measure.
#[derive(Debug, Clone)]
pub struct Options {
    pub variants: Vec<Variant>,
    pub rounds: usize,
    /// Bytes of one transfer, all its connections together.
    pub transfer_bytes: u64,
    /// Round trips without other traffic, and beside a bulk copy.
    pub echoes: usize,
    pub echoes_beside: usize,
    /// New connections, one after the other and 16 at once: few enough that TIME_WAIT leaves ports free.
    pub connections: usize,
    pub connections_at_once: usize,
    pub json: Option<PathBuf>,
    /// The run ends with an error after this long.
    pub time_limit: Duration,
}

impl Options {
    fn quick() -> Self {
        Options {
            variants: Variant::all(),
            rounds: 3,
            transfer_bytes: 128 << 20,
            echoes: 1000,
            echoes_beside: 200,
            connections: 300,
            connections_at_once: 1000,
            json: None,
            time_limit: Duration::from_secs(15 * 60),
        }
    }

    fn full() -> Self {
        Options {
            rounds: 5,
            transfer_bytes: 1 << 30,
            echoes: 5000,
            echoes_beside: 1000,
            connections: 1000,
            connections_at_once: 4000,
            time_limit: Duration::from_secs(60 * 60),
            ..Options::quick()
        }
    }

    /// For `cargo test`, which runs benchmarks without `--bench`: whether everything works, not how fast.
    fn smoke() -> Self {
        Options {
            variants: Variant::all().into_iter().take(2).collect(),
            rounds: 1,
            transfer_bytes: 4 << 20,
            echoes: 20,
            echoes_beside: 5,
            connections: 10,
            connections_at_once: 32,
            time_limit: Duration::from_secs(120),
            ..Options::quick()
        }
    }
}

impl Command {
    /// What the process's arguments say.
    pub fn from_arguments() -> anyhow::Result<Self> {
        let mut arguments: Vec<String> = std::env::args().skip(1).collect();
        match arguments.first().map(String::as_str) {
            Some(SERVICE) => return Ok(Command::Service),
            Some(COPIER) => {
                let target = arguments.get(1).context("where to?")?.parse().context("where to?")?;
                return Ok(Command::Copier(target));
            }
            _ => {}
        }
        let from_environment = std::env::var("REPORT_BENCH").unwrap_or_default();
        arguments.extend(from_environment.split_whitespace().map(str::to_owned));
        Self::measure(&arguments)
    }

    fn measure(arguments: &[String]) -> anyhow::Result<Self> {
        let has = |name: &str| arguments.iter().any(|argument| argument == name);
        let mut options = match () {
            () if has("--full") => Options::full(),
            () if has("--bench") || has("--quick") => Options::quick(),
            () => Options::smoke(),
        };
        let (mut wanted, mut beside) = (Vec::new(), None);
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || rest.next().with_context(|| format!("{argument} needs a value"));
            match argument.as_str() {
                "--full" | "--quick" | "--bench" => {}
                "--help" | "-h" => return Ok(Command::Help),
                "--rounds" => options.rounds = value()?.parse().context("--rounds needs a number")?,
                "--json" => options.json = Some(PathBuf::from(value()?)),
                "--only" => wanted.push(value()?.clone()),
                "--beside" => beside = Some(PathBuf::from(value()?)),
                other => bail!("{other}: no such option\n\n{HELP}"),
            }
        }
        if let Some(nothing) = wanted.iter().find(|wanted| !Variant::all().iter().any(|variant| variant.name.contains(*wanted))) {
            bail!("--only {nothing}: no system's name has that in it\n\n{HELP}");
        }
        if options.rounds == 0 {
            bail!("--rounds 0 measures nothing");
        }
        if !wanted.is_empty() {
            // The chain stays: what the others are compared with.
            options.variants.retain(|variant| variant.is_chain() || wanted.iter().any(|wanted| fits(&variant.name, wanted)));
        }
        if let Some(other) = beside {
            options.variants =
                options.variants.iter().flat_map(|variant| [Some(variant.clone()), variant.of(&other)]).flatten().collect();
        }
        Ok(Command::Measure(options))
    }
}

/// A whole name means that system alone; a part of one means all that have it.
fn fits(name: &str, wanted: &str) -> bool {
    if Variant::all().iter().any(|variant| variant.name == wanted) { name == wanted } else { name.contains(wanted) }
}
