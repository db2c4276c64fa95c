//! What it costs the master that the same traffic comes in many tunnels in place of one: its CPU for each byte, in turns.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::ensure;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future, stream};
use report::tunnel::Tunnel;

use crate::{
    options::Options,
    peers::{self, Peers, Talk},
    results::{Results, median},
    roles::Master,
};

/// The master's CPU for each byte in many tunnels may be so many times that in one.
const ALLOWED: f64 = 2.0;

/// Sizes of the messages, in bytes: a keystroke to a small request; all of them are equally many.
const SIZES: std::ops::RangeInclusive<usize> = 64..=1024;

/// The pause between two messages of a talk: 10 messages a second from each.
const PERIOD: Duration = Duration::from_millis(100);

/// What a bulk transfer sends before it waits until all of it is back, in bytes: much more than is ever under way.
const PIECE: usize = 16 << 20;

/// Links that are established at the same time.
const AT_ONCE: usize = 64;

/// A way in which the traffic is brought to the master.
struct Way {
    name: &'static str,
    talks: Vec<Talk>,
    /// Kept, so that they can be looked at in the end.
    tunnels: Vec<Tunnel>,
    peers: Peers,
    is_bulk: bool,
    /// CPU of the master for each byte, in ns, and megabytes a second, of each round.
    rounds: Vec<(f64, f64)>,
}

/// Measures all ways in turns.
pub async fn measure(options: &Options, results: &mut Results) -> anyhow::Result<()> {
    let master = Master::start().await?;
    let mut ways = [
        Way::many_links(&master, options.tunnels).await?,
        Way::one_link(&master, options.tunnels).await?,
        Way::one_tunnel(&master, options.tunnels).await?,
        Way::bulk(&master).await?,
    ];
    for way in &mut ways {
        way.run(&master, options.tunnels_round / 2).await?;
        way.rounds.clear();
    }
    for _ in 0..options.rounds {
        for way in &mut ways {
            way.run(&master, options.tunnels_round).await?;
        }
    }
    report(options, &ways, results);
    for Way { tunnels, peers, talks, .. } in ways {
        peers::check(&tunnels)?;
        drop(talks);
        peers.end().await;
    }
    Ok(())
}

fn report(options: &Options, ways: &[Way; 4], results: &mut Results) {
    let count = options.tunnels;
    let [many_links, one_link, one_tunnel, bulk] = ways;
    let rate = one_tunnel.median(|&(_, rate)| rate);
    let what = format!("{count} talks of {SIZES:?} bytes each {PERIOD:?}, there and back");
    results.note("talks_mb_s", what, rate, "MB/s");
    let names = ["talks_one_tunnel_ns_b", "talks_many_links_ns_b", "talks_one_link_ns_b", "bulk_ns_b"];
    for (name, way) in names.into_iter().zip([one_tunnel, many_links, one_link, bulk]) {
        results.note(name, format!("… CPU of the master: {}", way.name), way.cost(), "ns/B");
    }
    let ratio = |way: &Way| way.cost() / one_tunnel.cost();
    let what = format!("{count} tunnels on as many links : one tunnel");
    results.judge("talks_many_links_ratio", what, ratio(many_links), "×", ALLOWED);
    let what = format!("{count} tunnels on one link : one tunnel");
    results.judge("talks_one_link_ratio", what, ratio(one_link), "×", ALLOWED);
}

impl Way {
    /// Each talk has a tunnel, and a client, of its own.
    async fn many_links(master: &Master, count: usize) -> anyhow::Result<Self> {
        let peers = Peers::new(master.address, "a port key of many links");
        peers.serve().await?;
        let links = stream::iter(0..count).map(|_| peers.visit(1)).buffer_unordered(AT_ONCE);
        let tunnels = links.try_concat().await?;
        Ok(Way::new("in a tunnel and a link each", tunnels.iter().map(Talk::open).collect(), tunnels, peers))
    }

    /// Each talk has a tunnel of its own, all of one client.
    async fn one_link(master: &Master, count: usize) -> anyhow::Result<Self> {
        let peers = Peers::new(master.address, "a port key of many tunnels");
        peers.serve().await?;
        let tunnels = peers.visit(u32::try_from(count)?).await?;
        Ok(Way::new("in a tunnel each, on one link", tunnels.iter().map(Talk::open).collect(), tunnels, peers))
    }

    /// All talks are in one tunnel.
    async fn one_tunnel(master: &Master, count: usize) -> anyhow::Result<Self> {
        let peers = Peers::new(master.address, "a port key of one tunnel");
        peers.serve().await?;
        let tunnels = peers.visit(1).await?;
        let talks = (0..count).map(|_| Talk::open(&tunnels[0])).collect();
        Ok(Way::new("in one tunnel", talks, tunnels, peers))
    }

    /// One stream in one tunnel, as fast as it goes.
    async fn bulk(master: &Master) -> anyhow::Result<Self> {
        let peers = Peers::new(master.address, "a port key of a bulk transfer");
        peers.serve().await?;
        let tunnels = peers.visit(1).await?;
        let talks = vec![Talk::open(&tunnels[0])];
        Ok(Way { is_bulk: true, ..Way::new("one stream as fast as it goes", talks, tunnels, peers) })
    }

    fn new(name: &'static str, talks: Vec<Talk>, tunnels: Vec<Tunnel>, peers: Peers) -> Self {
        Way { name, talks, tunnels, peers, is_bulk: false, rounds: Vec::new() }
    }

    /// One round: talks for so long, and counts.
    async fn run(&mut self, master: &Master, length: Duration) -> anyhow::Result<()> {
        let bytes = AtomicU64::new(0);
        let (cpu, begun) = (master.process.cpu_seconds()?, Instant::now());
        let (until, is_bulk) = (begun + length, self.is_bulk);
        let talking = self.talks.iter_mut().map(|talk| async {
            if is_bulk { pour(talk, until, &bytes).await } else { converse(talk, until, &bytes).await }
        });
        future::try_join_all(talking).await?;
        let (cpu, seconds) = (master.process.cpu_seconds()? - cpu, begun.elapsed().as_secs_f64());
        let bytes = bytes.load(Relaxed) as f64;
        ensure!(bytes > 0.0, "{}: nothing was moved", self.name);
        self.rounds.push((cpu / bytes * 1e9, bytes / seconds / 1e6));
        Ok(())
    }

    fn cost(&self) -> f64 {
        self.median(|&(cost, _)| cost)
    }

    fn median(&self, value: impl Fn(&(f64, f64)) -> f64) -> f64 {
        median(self.rounds.iter().map(value).collect()).unwrap_or(f64::NAN)
    }
}

/// Messages of any size, at any time within each period.
async fn converse(talk: &mut Talk, until: Instant, bytes: &AtomicU64) -> anyhow::Result<()> {
    let content = Bytes::from(vec![b'm'; *SIZES.end()]);
    let mut next = Instant::now() + PERIOD.mul_f64(fastrand::f64());
    while next < until {
        tokio::time::sleep_until(next.into()).await;
        let message = content.slice(..fastrand::usize(SIZES));
        let length = message.len();
        talk.say(message).await?;
        bytes.fetch_add(2 * length as u64, Relaxed);
        // A talk that is late says less, in place of everything at once.
        next = (next + PERIOD).max(Instant::now());
    }
    Ok(())
}

/// As much as can be.
async fn pour(talk: &mut Talk, until: Instant, bytes: &AtomicU64) -> anyhow::Result<()> {
    let content = Bytes::from(vec![b'm'; PIECE]);
    while Instant::now() < until {
        talk.say(content.clone()).await?;
        bytes.fetch_add(2 * PIECE as u64, Relaxed);
    }
    Ok(())
}
