//! Measures the master's CPU time per byte for traffic in many tunnels and in one tunnel.
//!
//! For comparison, the same traffic runs through a copier of TCP connections in the master's place.
//! The scenarios alternate.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::ensure;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future, stream};
use report::tunnel::Tunnel;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    connections::Service,
    copier::Copier,
    median::median,
    options::Options,
    peers::{self, Peers},
    processes::Process,
    results::Results,
    roles::Master,
    streams::EchoStream,
};

/// The goal for the ratio of the master's CPU time per byte, many tunnels to one tunnel.
const ALLOWED: f64 = 2.0;

/// The message sizes in bytes, uniformly distributed: from a keystroke to a small request.
const SIZES: std::ops::RangeInclusive<usize> = 64..=1024;

/// The interval between two messages of a stream: 10 messages per second.
const PERIOD: Duration = Duration::from_millis(100);

/// The bytes that a bulk transfer sends before it waits for the echo: much more than is in flight.
const PIECE: usize = 16 << 20;

/// The number of links that are established concurrently.
const AT_ONCE: usize = 64;

/// The traffic pattern of a stream.
#[derive(Debug, Clone, Copy)]
enum Pacing {
    /// A message in each [`PERIOD`].
    Periodic,
    /// A message as soon as the previous one has come back.
    BackToBack,
    /// As much data as possible.
    Bulk,
}

/// An arrangement of streams, tunnels and links that carries traffic to the master.
struct Scenario {
    /// The name in JSON.
    name: &'static str,
    what: &'static str,
    pacing: Pacing,
    streams: Vec<EchoPeer>,
    links: Option<(Peers, Vec<Tunnel>)>,
    /// CPU time in ns per byte, and the rate in MB/s, for each round.
    rounds: Vec<(f64, f64)>,
}

/// A connection to an echoing peer.
enum EchoPeer {
    /// A stream through the master.
    Stream(EchoStream),
    /// A TCP connection through the copier.
    Socket(TcpStream),
}

/// Measures all scenarios alternately.
pub(crate) async fn measure(options: &Options, results: &mut Results) -> anyhow::Result<()> {
    let (master, service) = (Master::start().await?, Service::start()?);
    let copier = Copier::start(service.address).await?;
    let count = u32::try_from(options.tunnels)?;
    let mut scenarios = Scenario::all(&master, &copier, count).await?;
    for scenario in &mut scenarios {
        scenario
            .run(&master, &copier, options.tunnels_round / 2)
            .await?;
        scenario.rounds.clear();
    }
    for _ in 0..options.rounds {
        for scenario in &mut scenarios {
            scenario
                .run(&master, &copier, options.tunnels_round)
                .await?;
        }
    }
    report(options, &scenarios, results);
    for Scenario { links, streams, .. } in scenarios {
        let Some((peers, tunnels)) = links else {
            continue;
        };
        peers::check(&tunnels)?;
        drop(streams);
        peers.end(&tunnels).await;
    }
    Ok(())
}

fn report(options: &Options, scenarios: &[Scenario; 6], results: &mut Results) {
    let count = options.tunnels;
    let [many_links, one_link, one_tunnel, alone, copied, _] = scenarios;
    let rate = one_tunnel.median(|&(_, rate)| rate);
    let what = format!("{count} streams, {SIZES:?} bytes each {PERIOD:?}, echoed");
    results.record("talks_mb_s", what, rate, "MB/s");
    for scenario in scenarios {
        results.record(
            scenario.name,
            format!("… CPU per byte: {}", scenario.what),
            scenario.cost(),
            "ns/B",
        );
    }
    let ratio = |scenario: &Scenario, other: &Scenario| scenario.cost() / other.cost();
    let what = format!("{count} tunnels on one link : one tunnel");
    results.record_with_goal(
        "talks_one_link_ratio",
        what,
        ratio(one_link, one_tunnel),
        "×",
        ALLOWED,
    );
    let what = format!(
        "{count} tunnels on as many links : one tunnel, whose streams share reads and writes"
    );
    results.record_with_goal(
        "talks_many_links_ratio",
        what,
        ratio(many_links, one_tunnel),
        "×",
        ALLOWED,
    );
    let what = format!("{count} tunnels on as many links : one stream in one tunnel");
    results.record_with_goal(
        "talks_many_links_alone_ratio",
        what,
        ratio(many_links, alone),
        "×",
        ALLOWED,
    );
    let what =
        format!("{count} tunnels on as many links : as many connections through a TCP copier");
    results.record(
        "talks_many_links_copier_ratio",
        what,
        ratio(many_links, copied),
        "×",
    );
}

impl Scenario {
    /// Creates the scenarios in the order of [`report`].
    async fn all(master: &Master, copier: &Copier, count: u32) -> anyhow::Result<[Self; 6]> {
        Ok([
            Scenario::many_links(master, count).await?,
            Scenario::one_link(master, count).await?,
            Scenario::one_tunnel(
                "talks_one_tunnel_ns_b",
                "all in one tunnel",
                Pacing::Periodic,
                master,
                count,
            )
            .await?,
            Scenario::one_tunnel(
                "talk_alone_ns_b",
                "one stream, alone in a tunnel, without pauses",
                Pacing::BackToBack,
                master,
                1,
            )
            .await?,
            Scenario::copied(copier, count).await?,
            Scenario::one_tunnel(
                "bulk_ns_b",
                "a bulk transfer in one tunnel",
                Pacing::Bulk,
                master,
                1,
            )
            .await?,
        ])
    }

    /// Creates streams with a separate tunnel and client each.
    async fn many_links(master: &Master, count: u32) -> anyhow::Result<Self> {
        let peers = Peers::new(master.address, "a port key of many links");
        peers.serve().await?;
        let links = stream::iter(0..count)
            .map(|_| peers.open_tunnels(1))
            .buffer_unordered(AT_ONCE);
        let tunnels: Vec<Tunnel> = links.try_concat().await?;
        let streams = tunnels
            .iter()
            .map(|tunnel| EchoPeer::Stream(EchoStream::open(tunnel)))
            .collect();
        Ok(Scenario::new(
            "talks_many_links_ns_b",
            "each in a separate tunnel and link",
            streams,
            Some((peers, tunnels)),
        ))
    }

    /// Creates streams with a separate tunnel each, all of one client.
    async fn one_link(master: &Master, count: u32) -> anyhow::Result<Self> {
        let peers = Peers::new(master.address, "a port key of many tunnels");
        peers.serve().await?;
        let tunnels = peers.open_tunnels(count).await?;
        let streams = tunnels
            .iter()
            .map(|tunnel| EchoPeer::Stream(EchoStream::open(tunnel)))
            .collect();
        Ok(Scenario::new(
            "talks_one_link_ns_b",
            "each in a separate tunnel, on one link",
            streams,
            Some((peers, tunnels)),
        ))
    }

    /// Creates `count` streams in one tunnel.
    async fn one_tunnel(
        name: &'static str,
        what: &'static str,
        pacing: Pacing,
        master: &Master,
        count: u32,
    ) -> anyhow::Result<Self> {
        let peers = Peers::new(master.address, name);
        peers.serve().await?;
        let tunnels = peers.open_tunnels(1).await?;
        let streams = (0..count)
            .filter_map(|_| tunnels.first())
            .map(|tunnel| EchoPeer::Stream(EchoStream::open(tunnel)))
            .collect();
        Ok(Scenario {
            pacing,
            ..Scenario::new(name, what, streams, Some((peers, tunnels)))
        })
    }

    /// Creates connections through the copier.
    async fn copied(copier: &Copier, count: u32) -> anyhow::Result<Self> {
        let connect = |_| async {
            let connection = TcpStream::connect(copier.address).await?;
            connection.set_nodelay(true)?;
            anyhow::Ok(EchoPeer::Socket(connection))
        };
        let streams = stream::iter(0..count)
            .map(connect)
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        Ok(Scenario::new(
            "talks_copier_ns_b",
            "each in a connection through a TCP copier in the master's place",
            streams,
            None,
        ))
    }

    fn new(
        name: &'static str,
        what: &'static str,
        streams: Vec<EchoPeer>,
        links: Option<(Peers, Vec<Tunnel>)>,
    ) -> Self {
        Scenario {
            name,
            what,
            pacing: Pacing::Periodic,
            streams,
            links,
            rounds: Vec::new(),
        }
    }

    /// Runs one round and records its cost.
    async fn run(
        &mut self,
        master: &Master,
        copier: &Copier,
        length: Duration,
    ) -> anyhow::Result<()> {
        let process: &Process = if self.links.is_some() {
            &master.process
        } else {
            &copier.process
        };
        let bytes = AtomicU64::new(0);
        let (cpu, begun) = (process.cpu_seconds()?, Instant::now());
        let pacing = self.pacing;
        let running = self
            .streams
            .iter_mut()
            .map(|peer| peer.run(pacing, begun + length, &bytes));
        future::try_join_all(running).await?;
        let (cpu, seconds) = (process.cpu_seconds()? - cpu, begun.elapsed().as_secs_f64());
        let bytes = bytes.load(Relaxed) as f64;
        ensure!(bytes > 0.0, "{}: nothing was moved", self.what);
        self.rounds.push((cpu / bytes * 1e9, bytes / seconds / 1e6));
        Ok(())
    }

    fn cost(&self) -> f64 {
        self.median(|&(cost, _)| cost)
    }

    fn median(&self, value: impl Fn(&(f64, f64)) -> f64) -> f64 {
        let values: Vec<f64> = self.rounds.iter().map(value).collect();
        median(&values).unwrap_or(f64::NAN)
    }
}

impl EchoPeer {
    /// Exchanges messages until `until`. Adds the bytes of both directions to `bytes`.
    async fn run(
        &mut self,
        pacing: Pacing,
        until: Instant,
        bytes: &AtomicU64,
    ) -> anyhow::Result<()> {
        let longest = if matches!(pacing, Pacing::Bulk) {
            PIECE
        } else {
            *SIZES.end()
        };
        let content = Bytes::from(vec![b'm'; longest]);
        let mut next = Instant::now();
        if matches!(pacing, Pacing::Periodic) {
            next += PERIOD.mul_f64(fastrand::f64());
        }
        while next < until {
            let length = match pacing {
                Pacing::Bulk => PIECE,
                Pacing::BackToBack => fastrand::usize(SIZES),
                Pacing::Periodic => {
                    tokio::time::sleep_until(next.into()).await;
                    fastrand::usize(SIZES)
                }
            };
            self.echo(content.slice(..length)).await?;
            bytes.fetch_add(2 * length as u64, Relaxed);
            let pause = if matches!(pacing, Pacing::Periodic) {
                PERIOD
            } else {
                Duration::ZERO
            };
            // A late stream skips messages. It does not send the backlog at once.
            next = (next + pause).max(Instant::now());
        }
        Ok(())
    }

    async fn echo(&mut self, message: Bytes) -> anyhow::Result<()> {
        match self {
            EchoPeer::Stream(stream) => stream.echo(message).await,
            EchoPeer::Socket(connection) => {
                connection.write_all(&message).await?;
                let mut echo = [0; *SIZES.end()];
                connection.read_exact(&mut echo[..message.len()]).await?;
                Ok(())
            }
        }
    }
}
