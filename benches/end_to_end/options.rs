//! The command line. Options come after `--`, or in the environment variable `REPORT_BENCH`, separated by spaces.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, bail};

use crate::{copier::Work, variants::Variant};

/// Names one of the programs that this one runs itself as.
pub const SERVICE: &str = "as-service";
/// The same; the next arguments are where to copy to and, of one that works, what it does.
pub const COPIER: &str = "as-copier";

pub const HELP: &str = "\
cargo bench --bench end_to_end -- [OPTIONS]

  --quick           small sizes and 3 rounds of the usual systems (unless another is given)
  --full            1 GiB for each transfer, 5 rounds, every system, the peers if they are there, 30 s of new connections
  --rounds N        so many rounds
  --only NAME,…     these systems and the chain alone; may be given again (a name, or a part of names when it is none)
  --peers DIR       where the programs rathole and bore are (target/peers/bin unless it is given); measures them too
  --sustained N     makes new connections for N seconds, 16 at once, and looks for leaks; 0 leaves that out
  --shared-network  stays in the network that is there; otherwise the run has a namespace of its own, where that is permitted
  --json FILE       writes every measured value
  --markdown FILE   writes the tables to the places that a document has for them, or a new document
  --plot FILE       draws an SVG
  --beside FILE     measures another build of the program too, in turns with this one: its systems are called \"other …\"

Systems: chain, and rePort with random data: plain, aes-128-gcm, aes-128-cfb, chacha20-poly1305, plain-tls and tls (TLS at the master,
plain and aes-128-gcm inside); with compression: plain-s2-text, plain-s2-binary, plain-s2-random, the same with zstd, and s2-text and
zstd-text (aes-128-gcm); chains whose copiers do the same work as plain, aes-128-gcm or a compressor, and nothing else: working-plain,
working-aes-128-gcm, working-s2-text, working-s2-binary, working-zstd-text, working-zstd-binary; the peers rathole and bore (cargo install --root target/peers rathole bore-cli).
The usual ones are chain, plain, aes-128-gcm, aes-128-cfb and plain-tls.
The options may stand in REPORT_BENCH too.";

/// What is to be done.
pub enum Command {
    Help,
    Service,
    Copier(SocketAddr, Option<Work>),
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
    /// How long new connections are made, 16 at once; not at all for no time.
    pub sustained: Duration,
    /// How long it is counted what each of 8 connections moves.
    pub fairness_time: Duration,
    /// Bytes that go through a cipher or a compressor alone.
    pub alone_bytes: usize,
    /// Whether the network is the one that is there.
    pub shared_network: bool,
    pub json: Option<PathBuf>,
    pub markdown: Option<PathBuf>,
    pub plot: Option<PathBuf>,
    /// The run ends with an error after this long.
    pub time_limit: Duration,
}

impl Options {
    fn quick() -> Self {
        Options {
            variants: Vec::new(),
            rounds: 3,
            transfer_bytes: 256 << 20,
            echoes: 1000,
            echoes_beside: 200,
            connections: 300,
            connections_at_once: 1000,
            sustained: Duration::from_secs(5),
            fairness_time: Duration::from_secs(1),
            alone_bytes: 64 << 20,
            shared_network: false,
            json: None,
            markdown: None,
            plot: None,
            time_limit: Duration::from_secs(20 * 60),
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
            sustained: Duration::from_secs(30),
            fairness_time: Duration::from_secs(2),
            alone_bytes: 128 << 20,
            time_limit: Duration::from_secs(90 * 60),
            ..Options::quick()
        }
    }

    /// For `cargo test`, which runs benchmarks without `--bench`: whether everything works, not how fast.
    fn smoke() -> Self {
        Options {
            rounds: 1,
            transfer_bytes: 4 << 20,
            echoes: 20,
            echoes_beside: 5,
            connections: 10,
            connections_at_once: 32,
            sustained: Duration::from_millis(100),
            fairness_time: Duration::from_millis(20),
            alone_bytes: 1 << 20,
            shared_network: true,
            time_limit: Duration::from_secs(120),
            ..Options::quick()
        }
    }
}

/// Which systems a run is about, as it was said.
#[derive(Default)]
struct Choice {
    full: bool,
    smoke: bool,
    only: Vec<String>,
    peers: Option<PathBuf>,
    beside: Option<PathBuf>,
}

impl Choice {
    fn variants(&self) -> anyhow::Result<Vec<Variant>> {
        let folder = self
            .peers
            .clone()
            .unwrap_or_else(Variant::usual_peers_folder);
        let peers = Variant::peers(&folder);
        if self.peers.is_some() && peers.is_empty() {
            bail!(
                "--peers {}: neither rathole nor bore is there",
                folder.display()
            );
        }
        let all: Vec<_> = Variant::all().into_iter().chain(peers.clone()).collect();
        if let Some(nothing) = self.only.iter().find(|only| {
            !all.iter()
                .any(|variant| variant.name.contains(only.as_str()))
        }) {
            bail!("--only {nothing}: no system's name has that in it\n\n{HELP}");
        }
        let is_exact = |only: &String| all.iter().any(|variant| variant.name == *only);
        let fits = |name: &str, only: &String| {
            if is_exact(only) {
                name == only
            } else {
                name.contains(only.as_str())
            }
        };
        let is_wanted = |variant: &&Variant| match () {
            // The chain stays: what the others are compared with.
            () if variant.is_chain() => true,
            () if !self.only.is_empty() => self.only.iter().any(|only| fits(&variant.name, only)),
            () if self.smoke => variant.name == "plain",
            () => {
                self.full || variant.is_usual() || self.peers.is_some() && peers.contains(variant)
            }
        };
        let wanted = all.iter().filter(is_wanted);
        let with_other = |variant: &Variant| {
            [
                Some(variant.clone()),
                self.beside.as_ref().and_then(|other| variant.of(other)),
            ]
        };
        Ok(wanted.flat_map(with_other).flatten().collect())
    }
}

impl Command {
    /// What the process's arguments say.
    pub fn from_arguments() -> anyhow::Result<Self> {
        let mut arguments: Vec<String> = std::env::args().skip(1).collect();
        match arguments.first().map(String::as_str) {
            Some(SERVICE) => return Ok(Command::Service),
            Some(COPIER) => {
                let target = arguments
                    .get(1)
                    .context("where to?")?
                    .parse()
                    .context("where to?")?;
                let work = arguments.get(2).map(|work| work.parse()).transpose()?;
                return Ok(Command::Copier(target, work));
            }
            _ => {}
        }
        let from_environment = std::env::var("REPORT_BENCH").unwrap_or_default();
        arguments.extend(from_environment.split_whitespace().map(str::to_owned));
        Self::measure(&arguments)
    }

    fn measure(arguments: &[String]) -> anyhow::Result<Self> {
        let has = |name: &str| arguments.iter().any(|argument| argument == name);
        let mut choice = Choice {
            full: has("--full"),
            ..Choice::default()
        };
        choice.smoke = !choice.full && !has("--bench") && !has("--quick");
        let mut options = match () {
            () if choice.full => Options::full(),
            () if choice.smoke => Options::smoke(),
            () => Options::quick(),
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = || {
                rest.next()
                    .with_context(|| format!("{argument} needs a value"))
            };
            match argument.as_str() {
                "--full" | "--quick" | "--bench" => {}
                "--help" | "-h" => return Ok(Command::Help),
                "--rounds" => {
                    options.rounds = value()?.parse().context("--rounds needs a number")?
                }
                "--sustained" => {
                    options.sustained =
                        Duration::from_secs(value()?.parse().context("--sustained needs seconds")?);
                }
                "--shared-network" => options.shared_network = true,
                "--json" => options.json = Some(PathBuf::from(value()?)),
                "--markdown" => options.markdown = Some(PathBuf::from(value()?)),
                "--plot" => options.plot = Some(PathBuf::from(value()?)),
                "--only" => choice.only.extend(value()?.split(',').map(str::to_owned)),
                "--peers" => choice.peers = Some(PathBuf::from(value()?)),
                "--beside" => choice.beside = Some(PathBuf::from(value()?)),
                other => bail!("{other}: no such option\n\n{HELP}"),
            }
        }
        if options.rounds == 0 {
            bail!("--rounds 0 measures nothing");
        }
        options.variants = choice.variants()?;
        Ok(Command::Measure(options))
    }
}
