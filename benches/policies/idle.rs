//! Measures the CPU time of the master for limited keys whose tunnels are at rest.

use std::time::{Duration, Instant};

use crate::{
    database::Database,
    numbered_keys::{listed_key, ports},
    options::Options,
    peers::{self, Peers},
    results::Results,
    roles::Master,
};

/// The goal for limited keys at rest, in percent of a core.
const ALLOWED: f64 = 3.0;

/// The limit of each key, in bytes per second.
const LIMIT: u64 = 64 << 10;

/// The keys of one server link. A master admits 1,024.
pub(crate) const KEYS_PER_LINK: usize = 1_000;

/// The delay between the last tunnel and the measurement: the usage of the first echoes is written.
const SETTLED: Duration = Duration::from_secs(6);

/// The cost of a master at rest.
struct RestCost {
    /// CPU time in percent of a core.
    cpu: f64,
    /// Resident memory in MiB.
    memory: f64,
}

/// Measures a master with limits and one without a store.
pub(crate) async fn measure(options: &Options, results: &mut Results) -> anyhow::Result<()> {
    let count = options.limited_keys;
    let database = Database::sqlite()?;
    let keys = (0..count).map(|number| listed_key(number, Some(LIMIT)));
    database.fill(keys.collect()).await?;
    let limited = rest(&database.start_master().await?, options).await?;
    let without = rest(&Master::start().await?, options).await?;
    let seconds = options.rest.as_secs_f32();
    let what = format!(
        "{count} limited keys with a tunnel each: CPU of the master over {seconds} s at rest"
    );
    results.record_with_goal("limits_percent", what, limited.cpu, "% of a core", ALLOWED);
    let what = "… the same tunnels without a store";
    results.record("no_limits_percent", what, without.cpu, "% of a core");
    let what = "… memory of the master with the limits";
    results.record("limits_memory_mib", what, limited.memory, "MiB");
    let what = "… memory of the master without a store";
    results.record("no_limits_memory_mib", what, without.memory, "MiB");
    Ok(())
}

/// Opens a tunnel for each key and measures the time at rest.
async fn rest(master: &Master, options: &Options) -> anyhow::Result<RestCost> {
    let mut groups = Vec::new();
    let ports = ports(0..options.limited_keys);
    for ports in ports.chunks(KEYS_PER_LINK) {
        let peers = Peers::with_ports(master.address, ports.to_vec());
        peers.serve().await?;
        let tunnels = peers.open_tunnels(u32::try_from(ports.len())?).await?;
        groups.push((peers, tunnels));
    }
    tokio::time::sleep(SETTLED.min(options.rest)).await;
    let (cpu, begun) = (master.process.cpu_seconds()?, Instant::now());
    tokio::time::sleep(options.rest).await;
    let cpu = (master.process.cpu_seconds()? - cpu) / begun.elapsed().as_secs_f64() * 100.0;
    let memory = master.process.memory()?.resident / f64::from(1 << 20);
    for (peers, tunnels) in groups {
        peers::check(&tunnels)?;
        peers.end(&tunnels).await;
    }
    Ok(RestCost { cpu, memory })
}
