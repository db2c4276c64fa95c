//! Measures what limited downloads do to others: echoes of the same key, and another key.

use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use report::tunnel::Tunnel;
use tokio::task::JoinSet;

use crate::{
    arrivals::{self, deviation},
    database::Database,
    numbered_keys::{listed_key, ports},
    options::Options,
    peers::{self, Peers},
    percentile::{milliseconds_since, percentile},
    rates::ALLOWED,
    results::Results,
    roles::Master,
    streams::{Download, EchoStream},
};

/// The goal for the 99th percentile of an echo beside a limited download, in milliseconds: a shell
/// is usable.
const ALLOWED_ECHO: f64 = 1_000.0;

/// The pause between two echoes.
const PAUSE: Duration = Duration::from_millis(50);

/// The bytes of an echo.
const ECHO: &[u8] = &[b'e'; 64];

/// The limits of the keys with echoes: the names in JSON of the median and the 99th percentile in
/// the tunnel of the download, the same in another tunnel, the label, and bytes per second.
const LIMITS: [([&str; 4], &str, u64); 3] = [
    (
        [
            "echo_64k_p50_ms",
            "echo_64k_p99_ms",
            "echo_64k_other_p50_ms",
            "echo_64k_other_p99_ms",
        ],
        "64 KiB/s",
        64 << 10,
    ),
    (
        [
            "echo_1m_p50_ms",
            "echo_1m_p99_ms",
            "echo_1m_other_p50_ms",
            "echo_1m_other_p99_ms",
        ],
        "1 MiB/s",
        1 << 20,
    ),
    (
        [
            "echo_10m_p50_ms",
            "echo_10m_p99_ms",
            "echo_10m_other_p50_ms",
            "echo_10m_other_p99_ms",
        ],
        "10 MiB/s",
        10 << 20,
    ),
];

/// The number of limited keys beside the unlimited one, and their limit.
const LIMITED_KEYS: u32 = 10;
const KEY_LIMIT: u64 = 1 << 20;

/// Measures both.
pub(crate) async fn measure(options: &Options, results: &mut Results) -> anyhow::Result<()> {
    let database = Database::sqlite()?;
    let unlimited = listed_key(LIMITED_KEYS, None);
    let mut keys: Vec<_> = (0..LIMITED_KEYS)
        .map(|number| listed_key(number, Some(KEY_LIMIT)))
        .chain([unlimited])
        .collect();
    let of_echoes = (LIMITED_KEYS + 1..).zip(LIMITS);
    let limits = of_echoes.clone();
    keys.extend(limits.map(|(number, (_, _, limit))| listed_key(number, Some(limit))));
    database.fill(keys).await?;
    let master = database.start_master().await?;
    for (number, (names, label, _)) in of_echoes {
        let peers = Peers::with_ports(master.address, ports([number]));
        measure_echoes(&peers, (names, label), options, results).await?;
    }
    measure_keys(&master, options, results).await
}

/// Measures echoes alone, in the tunnel of a download, and in another tunnel.
async fn measure_echoes(
    peers: &Peers,
    (names, label): ([&'static str; 4], &str),
    options: &Options,
    results: &mut Results,
) -> anyhow::Result<()> {
    peers.serve().await?;
    let (tunnels, others) = (peers.open_tunnels(1).await?, peers.open_tunnels(1).await?);
    let alone = echoes(&tunnels[0], options.length / 5).await?;
    let mut tasks = JoinSet::new();
    let mut download = Download::open(&tunnels[0]);
    tasks.spawn(async move { while download.receive().await.is_ok() {} });
    tokio::time::sleep(options.warm_up).await;
    let same = echoes(&tunnels[0], options.length).await?;
    let other = echoes(&others[0], options.length).await?;
    peers::check(&tunnels)?;
    tasks.shutdown().await;
    let [p50, p99, other_p50, other_p99] = names;
    let what = format!(
        "echo in the tunnel of a download with a limit of {label}: median ({:.2} ms without the download)",
        percentile(&alone, 50)
    );
    results.record(p50, what, percentile(&same, 50), "ms");
    let what = "… 99th percentile";
    results.record_with_goal(p99, what, percentile(&same, 99), "ms", ALLOWED_ECHO);
    let what = "… in another tunnel of the same key: median";
    results.record(other_p50, what, percentile(&other, 50), "ms");
    let what = "… 99th percentile";
    results.record_with_goal(other_p99, what, percentile(&other, 99), "ms", ALLOWED_ECHO);
    let all: Vec<Tunnel> = tunnels.into_iter().chain(others).collect();
    peers.clone().end(&all).await;
    Ok(())
}

/// Returns the times of echoes in milliseconds.
async fn echoes(tunnel: &Tunnel, length: Duration) -> anyhow::Result<Vec<f64>> {
    let mut stream = EchoStream::open(tunnel);
    let end = Instant::now() + length;
    let mut times = Vec::new();
    while Instant::now() < end || times.is_empty() {
        let begun = Instant::now();
        stream.echo(Bytes::from_static(ECHO)).await?;
        times.push(milliseconds_since(begun));
        tokio::time::sleep(PAUSE).await;
    }
    Ok(times)
}

/// Measures an unlimited key alone and beside the limited ones.
async fn measure_keys(
    master: &Master,
    options: &Options,
    results: &mut Results,
) -> anyhow::Result<()> {
    // The last key has no limit.
    let mut groups = Vec::new();
    for port in ports(0..=LIMITED_KEYS) {
        let peers = Peers::with_ports(master.address, vec![port]);
        peers.serve().await?;
        let tunnels = peers.open_tunnels(1).await?;
        groups.push((peers, tunnels));
    }
    let open = |(_, tunnels): &(Peers, Vec<Tunnel>)| Download::open(&tunnels[0]);
    let last = groups.last().map(open);
    let last = last.context("there is an unlimited key")?;
    let alone = arrivals::rates(vec![last], options.warm_up, options.length).await?;
    let downloads = groups.iter().map(open).collect();
    let rates = arrivals::rates(downloads, options.warm_up, options.length).await?;
    let (together, limited) = rates.split_last().context("there is an unlimited key")?;
    let worst = limited
        .iter()
        .map(|rate| deviation(*rate, KEY_LIMIT))
        .fold(0.0, f64::max);
    let what = format!(
        "{LIMITED_KEYS} keys of 1 MiB/s each beside an unlimited one: largest difference from the limit"
    );
    results.record_with_goal("ten_keys_percent", what, worst, "%", ALLOWED);
    let alone = alone.first().copied().unwrap_or(f64::NAN);
    let what = "… the unlimited one";
    results.record("beside_unlimited_mb_s", what, together / 1e6, "MB/s");
    let what = "… the unlimited one alone";
    results.record("unlimited_alone_mb_s", what, alone / 1e6, "MB/s");
    for (peers, tunnels) in groups {
        peers::check(&tunnels)?;
        peers.end(&tunnels).await;
    }
    Ok(())
}
