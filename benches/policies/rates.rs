//! Measures how exactly a limited download gets its rate.

use crate::{
    arrivals::{self, deviation},
    database::Database,
    numbered_keys::{listed_key, ports},
    options::Options,
    peers::{self, Peers},
    results::Results,
    roles::Master,
    streams::Download,
};

/// The goal for the difference between a rate and its limit, in percent.
pub(crate) const ALLOWED: f64 = 3.0;

/// A limit is only reached if the machine moves this many times as much without one.
const HEADROOM: f64 = 1.1;

/// The limits: the names in JSON of the rate and of its deviation, the label, and bytes per second.
const LIMITS: [(&str, &str, &str, u64); 5] = [
    ("rate_64k_mb_s", "rate_64k_percent", "64 KiB/s", 64 << 10),
    ("rate_1m_mb_s", "rate_1m_percent", "1 MiB/s", 1 << 20),
    ("rate_10m_mb_s", "rate_10m_percent", "10 MiB/s", 10 << 20),
    (
        "rate_100m_mb_s",
        "rate_100m_percent",
        "100 MB/s",
        100_000_000,
    ),
    ("rate_1g_mb_s", "rate_1g_percent", "1 GB/s", 1_000_000_000),
];

/// Measures a download without a limit and one with each limit.
pub(crate) async fn measure(options: &Options, results: &mut Results) -> anyhow::Result<()> {
    let database = Database::sqlite()?;
    let mut keys = vec![listed_key(0, None)];
    keys.extend(
        (1..)
            .zip(LIMITS)
            .map(|(number, (.., limit))| listed_key(number, Some(limit))),
    );
    database.fill(keys).await?;
    let master = database.start_master().await?;
    let unlimited = download(&master, 0, options).await?;
    let what = "download of a key without a limit";
    results.record("rate_unlimited_mb_s", what, unlimited / 1e6, "MB/s");
    for (number, (name, percent, label, limit)) in (1..).zip(LIMITS) {
        let rate = download(&master, number, options).await?;
        let what = format!("download of a key with a limit of {label}");
        results.record(name, what, rate / 1e6, "MB/s");
        let difference = deviation(rate, limit);
        if unlimited >= limit as f64 * HEADROOM {
            let what = "… difference from the limit";
            results.record_with_goal(percent, what, difference, "%", ALLOWED);
        } else {
            let what = "… difference from the limit, which this machine does not reach";
            results.record(percent, what, difference, "%");
        }
    }
    Ok(())
}

/// Returns the rate of a download of a key, in bytes per second.
async fn download(master: &Master, number: u32, options: &Options) -> anyhow::Result<f64> {
    let peers = Peers::with_ports(master.address, ports([number]));
    peers.serve().await?;
    let tunnels = peers.open_tunnels(1).await?;
    let mut download = Download::open(&tunnels[0]);
    let rate = arrivals::rate(&mut download, options.warm_up, options.length).await?;
    peers::check(&tunnels)?;
    drop(download);
    peers.end(&tunnels).await;
    Ok(rate)
}
