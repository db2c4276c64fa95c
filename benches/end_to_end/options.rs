//! The command line. Options follow `--`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, bail};

use crate::{arguments::Arguments, copier::Work, variants::Variant};

/// The first argument of the service process.
pub(crate) const SERVICE: &str = "as-service";
/// The first argument of a copier process. Its target and, for a working copier, its work follow.
pub(crate) const COPIER: &str = "as-copier";

pub(crate) const HELP: &str = "\
cargo bench --bench end_to_end -- [OPTIONS]

  --quick           Measure the default systems, small sizes, 3 rounds (default)
  --full            Measure all systems, 1 GiB transfers, 5 rounds
  --rounds N        Set the number of rounds
  --only NAME,…     Measure the chain and these systems (repeatable)
  --peers DIR       Measure rathole and bore from DIR (default target/peers/bin)
  --sustained N     Open connections for N seconds to detect leaks
  --shared-network  Do not use a separate network namespace
  --json FILE       Write all values to FILE
  --markdown FILE   Update the tables in FILE, or create it
  --plot FILE       Write an SVG plot to FILE
  --beside FILE     Also measure another build of report, as \"other …\"

--full includes the peers if they are installed, and 30 s of sustained new connections.
--sustained 0 skips the sustained run.
--only takes exact names, or parts of names.

Systems:
  chain             three TCP copiers
  random data       plain, aes-128-gcm, aes-128-cfb, chacha20-poly1305,
                    plain-tls and tls (TLS at the master; plain and aes-128-gcm inside)
  compression       plain-s2-text, plain-s2-binary, plain-s2-random, the same with zstd,
                    s2-text and zstd-text (aes-128-gcm)
  working chains    working-plain, working-aes-128-gcm, working-s2-text, working-s2-binary,
                    working-zstd-text, working-zstd-binary: copiers that do the same work
                    on each byte, and nothing else
  peers             rathole, bore (cargo install --root target/peers rathole bore-cli)
The default systems are chain, plain, aes-128-gcm, aes-128-cfb and plain-tls.
The environment variable REPORT_BENCH may hold options too.";

/// The requested command.
pub(crate) enum Command {
    Help,
    Service,
    Copier(SocketAddr, Option<Work>),
    Measure(Options),
}

/// The extent of the measurement.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub variants: Vec<Variant>,
    pub rounds: usize,
    /// Bytes of one transfer over all its connections.
    pub transfer_bytes: u64,
    /// Round trips without other traffic.
    pub echoes: usize,
    /// Round trips during a bulk copy.
    pub echoes_beside: usize,
    /// Sequential new connections: few enough that TIME_WAIT leaves ports free.
    pub connections: usize,
    /// New connections with 16 at once: few enough that TIME_WAIT leaves ports free.
    pub connections_at_once: usize,
    /// The duration of the sustained run of new connections, 16 at once. Zero skips it.
    pub sustained: Duration,
    /// The time over which the fairness of 8 connections is measured.
    pub fairness_time: Duration,
    /// Bytes to process with a cipher or a compressor alone.
    pub alone_bytes: usize,
    /// Whether to stay in the existing network.
    pub shared_network: bool,
    pub json: Option<PathBuf>,
    pub markdown: Option<PathBuf>,
    pub plot: Option<PathBuf>,
    /// The time after which the run fails.
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

    /// Returns the options for `cargo test`, which runs benchmarks without `--bench`.
    ///
    /// Such a run only checks that everything works.
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

/// The options that select the systems.
#[derive(Default)]
struct VariantSelection {
    full: bool,
    smoke: bool,
    only: Vec<String>,
    peers: Option<PathBuf>,
    beside: Option<PathBuf>,
}

impl VariantSelection {
    fn variants(&self) -> anyhow::Result<Vec<Variant>> {
        let folder = self
            .peers
            .clone()
            .unwrap_or_else(Variant::usual_peers_folder);
        let peers = Variant::peers(&folder);
        if self.peers.is_some() && peers.is_empty() {
            bail!(
                "--peers {}: found neither rathole nor bore",
                folder.display()
            );
        }
        let all: Vec<_> = Variant::all().into_iter().chain(peers.clone()).collect();
        if let Some(nothing) = self.only.iter().find(|only| {
            !all.iter()
                .any(|variant| variant.name.contains(only.as_str()))
        }) {
            bail!("--only {nothing}: no system matches\n\n{HELP}");
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
            // Always measure the chain: all ratios refer to it.
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
    /// Parses the arguments of the process.
    pub(crate) fn from_arguments() -> anyhow::Result<Self> {
        let of_process: Vec<String> = std::env::args().skip(1).collect();
        match of_process.first().map(String::as_str) {
            Some(SERVICE) => return Ok(Command::Service),
            Some(COPIER) => {
                let target = of_process
                    .get(1)
                    .context("missing target address")?
                    .parse()
                    .context("invalid target address")?;
                let work = of_process.get(2).map(|work| work.parse()).transpose()?;
                return Ok(Command::Copier(target, work));
            }
            _ => {}
        }
        Self::measure(Arguments::new(of_process))
    }

    fn measure(mut arguments: Arguments) -> anyhow::Result<Self> {
        let mut choice = VariantSelection {
            full: arguments.has("--full"),
            ..VariantSelection::default()
        };
        choice.smoke = !choice.full && !arguments.has("--bench") && !arguments.has("--quick");
        let mut options = match () {
            () if choice.full => Options::full(),
            () if choice.smoke => Options::smoke(),
            () => Options::quick(),
        };
        while let Some(option) = arguments.next_option() {
            match option.as_str() {
                "--full" | "--quick" | "--bench" => {}
                "--help" | "-h" => return Ok(Command::Help),
                "--rounds" => options.rounds = arguments.number(&option)?,
                "--sustained" => {
                    let seconds = arguments.value(&option)?;
                    let seconds: u64 = seconds.parse().context("--sustained needs seconds")?;
                    options.sustained = Duration::from_secs(seconds);
                }
                "--shared-network" => options.shared_network = true,
                "--json" => options.json = Some(arguments.value(&option)?.into()),
                "--markdown" => options.markdown = Some(arguments.value(&option)?.into()),
                "--plot" => options.plot = Some(arguments.value(&option)?.into()),
                "--only" => {
                    let names = arguments.value(&option)?;
                    choice.only.extend(names.split(',').map(str::to_owned));
                }
                "--peers" => choice.peers = Some(arguments.value(&option)?.into()),
                "--beside" => choice.beside = Some(arguments.value(&option)?.into()),
                other => bail!("unknown option {other}\n\n{HELP}"),
            }
        }
        options.variants = choice.variants()?;
        Ok(Command::Measure(options))
    }
}
