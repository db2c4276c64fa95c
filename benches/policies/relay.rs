//! Measures what a store costs the traffic of a key without a limit.

use std::time::{Duration, Instant};

use report::tunnel::Tunnel;

use crate::{
    database::Database,
    median::median,
    numbered_keys::{listed_key, ports},
    options::Options,
    peers::{self, Peers},
    results::Results,
    roles::Master,
    streams::Download,
};

/// The goal for the CPU time of the master per byte with a store, relative to that without one, and
/// for the throughput without one, relative to that with it.
const ALLOWED: f64 = 1.03;

/// A limit that no download reaches, in bytes per second.
const UNREACHED: u64 = 100_000_000_000;

/// The pause between two downloads, in which the rest of the former one passes.
const PAUSE: Duration = Duration::from_millis(300);

/// A master with a tunnel.
struct Relay {
    what: &'static str,
    /// The names in JSON of the throughput and of the CPU time.
    names: [&'static str; 2],
    master: Master,
    peers: Peers,
    tunnels: Vec<Tunnel>,
    /// MB/s, and CPU time in ns per byte.
    rounds: Vec<[f64; 2]>,
}

/// Measures a master without a store, one whose key has no limit, and one whose key has a limit that
/// it does not reach, in turns.
pub(crate) async fn measure(options: &Options, results: &mut Results) -> anyhow::Result<()> {
    let database = Database::sqlite()?;
    let keys = vec![listed_key(0, None), listed_key(1, Some(UNREACHED))];
    database.fill(keys).await?;
    let mut relays = [
        Relay::start(
            "without a store",
            ["relay_mb_s", "relay_ns_b"],
            Master::start().await?,
            0,
        )
        .await?,
        Relay::start(
            "with a store",
            ["relay_store_mb_s", "relay_store_ns_b"],
            database.start_master().await?,
            0,
        )
        .await?,
        Relay::start(
            "with a store and a limit that is not reached",
            ["relay_limit_mb_s", "relay_limit_ns_b"],
            database.start_master().await?,
            1,
        )
        .await?,
    ];
    for relay in &mut relays {
        relay.run(options.round / 2).await?;
        relay.rounds.clear();
    }
    for _ in 0..options.rounds {
        for relay in &mut relays {
            relay.run(options.round).await?;
        }
    }
    record(&relays, results);
    for relay in relays {
        peers::check(&relay.tunnels)?;
        relay.peers.end(&relay.tunnels).await;
    }
    Ok(())
}

fn record(relays: &[Relay; 3], results: &mut Results) {
    for relay in relays {
        let [throughput, cpu] = relay.names;
        let what = format!("download {}", relay.what);
        results.record(throughput, what, relay.median(0), "MB/s");
        results.record(cpu, "… CPU of the master per byte", relay.median(1), "ns/B");
    }
    let [without, with, limited] = relays;
    let what = "throughput without a store : with one, median of the rounds";
    let ratio = without.ratio(with, 0);
    results.record_with_goal("relay_throughput_ratio", what, ratio, "×", ALLOWED);
    let what = "CPU per byte with a store : without, median of the rounds";
    let ratio = with.ratio(without, 1);
    results.record_with_goal("relay_cpu_ratio", what, ratio, "×", ALLOWED);
    let what = "… with a limit that is not reached : without a store";
    let ratio = limited.ratio(without, 1);
    results.record("relay_limit_cpu_ratio", what, ratio, "×");
}

impl Relay {
    async fn start(
        what: &'static str,
        names: [&'static str; 2],
        master: Master,
        number: u32,
    ) -> anyhow::Result<Self> {
        let peers = Peers::with_ports(master.address, ports([number]));
        peers.serve().await?;
        let tunnels = peers.open_tunnels(1).await?;
        Ok(Relay {
            what,
            names,
            master,
            peers,
            tunnels,
            rounds: Vec::new(),
        })
    }

    /// Downloads for this time and records the values.
    async fn run(&mut self, length: Duration) -> anyhow::Result<()> {
        let mut download = Download::open(&self.tunnels[0]);
        download.receive().await?;
        let (cpu, begun) = (self.master.process.cpu_seconds()?, Instant::now());
        let mut bytes = 0;
        while begun.elapsed() < length {
            bytes += download.receive().await?;
        }
        let seconds = begun.elapsed().as_secs_f64();
        let cpu = self.master.process.cpu_seconds()? - cpu;
        drop(download);
        tokio::time::sleep(PAUSE).await;
        let bytes = bytes as f64;
        self.rounds.push([bytes / seconds / 1e6, cpu / bytes * 1e9]);
        Ok(())
    }

    /// Returns the median of a value.
    fn median(&self, value: usize) -> f64 {
        let values: Vec<f64> = self.rounds.iter().map(|round| round[value]).collect();
        median(&values).unwrap_or(f64::NAN)
    }

    /// Returns the median of the ratios of a value to that of another relay in the same round.
    fn ratio(&self, other: &Relay, value: usize) -> f64 {
        let rounds = self.rounds.iter().zip(&other.rounds);
        let ratios: Vec<f64> = rounds
            .map(|(one, other)| one[value] / other[value])
            .collect();
        median(&ratios).unwrap_or(f64::NAN)
    }
}
