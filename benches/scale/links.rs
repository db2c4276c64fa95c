//! What links at rest cost the master: its memory for each, and the CPU that their heartbeats take.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::{
    options::Options,
    peers::{self, Peers},
    processes,
    results::Results,
    roles::Master,
};

/// What the master may hold for a link with a tunnel, in KiB.
const ALLOWED: f64 = 24.0;

/// What the heartbeats may take of a processor, in percent.
const ALLOWED_CPU: f64 = 5.0;

/// Links that are established at the same time.
const AT_ONCE: usize = 64;

/// Links that stand before it is looked what the master holds: what is allocated once is there by then.
const FIRST: usize = 50;

/// How long after the last link it is looked first.
const SETTLED: Duration = Duration::from_secs(1);

/// Files that a process has open beside its links.
const OTHER_FILES: usize = 200;

/// Establishes the links and looks what they cost.
pub async fn measure(options: &Options, results: &mut Results) -> anyhow::Result<()> {
    let count = options.links;
    processes::check_file_limit(count + FIRST + OTHER_FILES)?;
    let master = Master::start().await?;
    let peers = Peers::new(master.address, "a port key of the links at rest");
    peers.serve().await?;
    let mut tunnels = visit(&peers, FIRST).await?;
    tokio::time::sleep(SETTLED).await;
    let before = master.process.memory()?;
    let (cpu, begun) = (master.process.cpu_seconds()?, Instant::now());
    tunnels.extend(visit(&peers, count).await?);
    let (cpu, took) = (master.process.cpu_seconds()? - cpu, begun.elapsed());
    tokio::time::sleep(SETTLED).await;
    let fresh = master.process.memory()?;
    let (resting_cpu, begun) = (master.process.cpu_seconds()?, Instant::now());
    tokio::time::sleep(options.links_rest).await;
    let share = (master.process.cpu_seconds()? - resting_cpu) / begun.elapsed().as_secs_f64();
    let rested = master.process.memory()?;
    peers::check(&tunnels)?;
    let each = |after: f64, before: f64| (after - before) / 1024.0 / count as f64;
    let seconds = options.links_rest.as_secs_f32();
    results.note(
        "link_established_s",
        format!("{count} links with a tunnel each: established in"),
        took.as_secs_f64(),
        "s",
    );
    results.note(
        "link_established_cpu_us",
        "… CPU of the master for each",
        cpu / count as f64 * 1e6,
        "µs",
    );
    results.note(
        "link_fresh_kib",
        "… the master holds for each, a second later",
        each(fresh.resident, before.resident),
        "KiB",
    );
    let what = format!("… after {seconds} s at rest");
    results.judge(
        "link_rested_kib",
        what,
        each(rested.resident, before.resident),
        "KiB",
        ALLOWED,
    );
    results.note(
        "link_rested_heap_kib",
        "… of it heap and stacks",
        each(rested.anonymous, before.anonymous),
        "KiB",
    );
    let what = format!("… CPU of the master over {seconds} s at rest");
    results.judge(
        "link_heartbeats_percent",
        what,
        share * 100.0,
        "% of a core",
        ALLOWED_CPU,
    );
    peers.end(&tunnels).await;
    Ok(())
}

/// So many links, with a tunnel each.
async fn visit(peers: &Peers, count: usize) -> anyhow::Result<Vec<report::tunnel::Tunnel>> {
    stream::iter(0..count)
        .map(|_| peers.visit(1))
        .buffer_unordered(AT_ONCE)
        .try_concat()
        .await
}
