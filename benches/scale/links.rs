//! Measures the cost of idle links at the master: memory per link, and the CPU time of keep-alives.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::{
    options::Options,
    peers::{self, Peers},
    processes::{self, Memory},
    results::Results,
    roles::Master,
};

/// The goal for the master's memory, in KiB per link with a tunnel.
const ALLOWED: f64 = 24.0;

/// The goal for the CPU time of keep-alives, in percent of a core.
const ALLOWED_CPU: f64 = 5.0;

/// The number of links that are established concurrently.
const AT_ONCE: usize = 64;

/// The links to establish before the first memory reading, so that one-time allocations do not
/// count.
const FIRST: usize = 50;

/// The delay between the last new link and a memory reading.
const SETTLED: Duration = Duration::from_secs(1);

/// The open files of a process apart from its links.
const OTHER_FILES: usize = 200;

/// The cost of the links for the master.
struct LinkCost {
    /// The time until all links are established, and the CPU time of the master in seconds.
    establishing: (Duration, f64),
    /// The memory before the links, [`SETTLED`] after the last one, and after the idle time.
    before: Memory,
    fresh: Memory,
    rested: Memory,
    /// The CPU time during the idle time, as a share of a core.
    idle_cpu: f64,
}

/// Establishes the links and measures their cost.
pub(crate) async fn measure(options: &Options, results: &mut Results) -> anyhow::Result<()> {
    let count = options.links;
    processes::check_file_limit(count + FIRST + OTHER_FILES)?;
    let master = Master::start().await?;
    let peers = Peers::new(master.address, "a port key of the links at rest");
    peers.serve().await?;
    let mut tunnels = open_links(&peers, FIRST).await?;
    tokio::time::sleep(SETTLED).await;
    let before = master.process.memory()?;
    let (cpu, begun) = (master.process.cpu_seconds()?, Instant::now());
    tunnels.extend(open_links(&peers, count).await?);
    let (cpu, took) = (master.process.cpu_seconds()? - cpu, begun.elapsed());
    tokio::time::sleep(SETTLED).await;
    let fresh = master.process.memory()?;
    let (resting_cpu, begun) = (master.process.cpu_seconds()?, Instant::now());
    tokio::time::sleep(options.links_rest).await;
    let share = (master.process.cpu_seconds()? - resting_cpu) / begun.elapsed().as_secs_f64();
    let rested = master.process.memory()?;
    peers::check(&tunnels)?;
    let cost = LinkCost {
        establishing: (took, cpu),
        before,
        fresh,
        rested,
        idle_cpu: share,
    };
    cost.record(options, results);
    peers.end(&tunnels).await;
    Ok(())
}

impl LinkCost {
    fn record(&self, options: &Options, results: &mut Results) {
        let (count, (took, cpu)) = (options.links, self.establishing);
        let each = |bytes: f64| bytes / 1024.0 / count as f64;
        let seconds = options.links_rest.as_secs_f32();
        results.record(
            "link_established_s",
            format!("{count} links with a tunnel each: time to establish"),
            took.as_secs_f64(),
            "s",
        );
        results.record(
            "link_established_cpu_us",
            "… CPU time of the master per link",
            cpu / count as f64 * 1e6,
            "µs",
        );
        results.record(
            "link_fresh_kib",
            "… memory of the master per link, after 1 s",
            each(self.fresh.resident - self.before.resident),
            "KiB",
        );
        let what = format!("… after {seconds} s idle");
        results.record_with_goal(
            "link_rested_kib",
            what,
            each(self.rested.resident - self.before.resident),
            "KiB",
            ALLOWED,
        );
        results.record(
            "link_rested_heap_kib",
            "… of which heap and stacks",
            each(self.rested.anonymous - self.before.anonymous),
            "KiB",
        );
        let what = format!("… CPU of the master over {seconds} s idle");
        results.record_with_goal(
            "link_heartbeats_percent",
            what,
            self.idle_cpu * 100.0,
            "% of a core",
            ALLOWED_CPU,
        );
    }
}

/// Opens `count` links with a tunnel each.
async fn open_links(peers: &Peers, count: usize) -> anyhow::Result<Vec<report::tunnel::Tunnel>> {
    stream::iter(0..count)
        .map(|_| peers.open_tunnels(1))
        .buffer_unordered(AT_ONCE)
        .try_concat()
        .await
}
