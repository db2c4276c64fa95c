//! What it costs the master that the same traffic comes in many tunnels in place of one: its CPU for each byte, in turns; and what it costs a
//! copier of TCP connections in its place.

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
    options::Options,
    peers::{self, Peers, Talk},
    processes::Process,
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

/// How much is said, and when.
#[derive(Debug, Clone, Copy)]
enum Manner {
    /// A message in each [`PERIOD`].
    Leisurely,
    /// A message as soon as the one before is back.
    AtOnce,
    /// As much as can be.
    Bulk,
}

/// A way in which traffic is brought to the master.
struct Way {
    /// For JSON.
    name: &'static str,
    what: &'static str,
    manner: Manner,
    talks: Vec<Partner>,
    links: Option<(Peers, Vec<Tunnel>)>,
    /// CPU for each byte, in ns, and megabytes a second, of each round.
    rounds: Vec<(f64, f64)>,
}

/// Whom one talks with.
enum Partner {
    /// Behind the master.
    Stream(Talk),
    /// Behind the copier.
    Socket(TcpStream),
}

/// Measures all ways in turns.
pub async fn measure(options: &Options, results: &mut Results) -> anyhow::Result<()> {
    let (master, service) = (Master::start().await?, Service::start()?);
    let copier = Copier::start(service.address).await?;
    let count = u32::try_from(options.tunnels)?;
    let mut ways = [
        Way::many_links(&master, count).await?,
        Way::one_link(&master, count).await?,
        Way::one_tunnel(
            "talks_one_tunnel_ns_b",
            "all in one tunnel",
            Manner::Leisurely,
            &master,
            count,
        )
        .await?,
        Way::one_tunnel(
            "talk_alone_ns_b",
            "one talk, alone in a tunnel, without a pause",
            Manner::AtOnce,
            &master,
            1,
        )
        .await?,
        Way::copied(&copier, count).await?,
        Way::one_tunnel(
            "bulk_ns_b",
            "a bulk transfer in one tunnel",
            Manner::Bulk,
            &master,
            1,
        )
        .await?,
    ];
    for way in &mut ways {
        way.run(&master, &copier, options.tunnels_round / 2).await?;
        way.rounds.clear();
    }
    for _ in 0..options.rounds {
        for way in &mut ways {
            way.run(&master, &copier, options.tunnels_round).await?;
        }
    }
    report(options, &ways, results);
    for Way { links, talks, .. } in ways {
        let Some((peers, tunnels)) = links else {
            continue;
        };
        peers::check(&tunnels)?;
        drop(talks);
        peers.end(&tunnels).await;
    }
    Ok(())
}

fn report(options: &Options, ways: &[Way; 6], results: &mut Results) {
    let count = options.tunnels;
    let [many_links, one_link, one_tunnel, alone, copied, _] = ways;
    let rate = one_tunnel.median(|&(_, rate)| rate);
    let what = format!("{count} talks, {SIZES:?} bytes each {PERIOD:?}, there and back");
    results.note("talks_mb_s", what, rate, "MB/s");
    for way in ways {
        results.note(
            way.name,
            format!("… CPU for each byte: {}", way.what),
            way.cost(),
            "ns/B",
        );
    }
    let ratio = |way: &Way, other: &Way| way.cost() / other.cost();
    let what = format!("{count} tunnels on one link : one tunnel");
    results.judge(
        "talks_one_link_ratio",
        what,
        ratio(one_link, one_tunnel),
        "×",
        ALLOWED,
    );
    let what = format!(
        "{count} tunnels on as many links : one tunnel, whose talks share reads and writes"
    );
    results.judge(
        "talks_many_links_ratio",
        what,
        ratio(many_links, one_tunnel),
        "×",
        ALLOWED,
    );
    let what = format!("{count} tunnels on as many links : one talk in one tunnel");
    results.judge(
        "talks_many_links_alone_ratio",
        what,
        ratio(many_links, alone),
        "×",
        ALLOWED,
    );
    let what =
        format!("{count} tunnels on as many links : as many connections through a TCP copier");
    results.note(
        "talks_many_links_copier_ratio",
        what,
        ratio(many_links, copied),
        "×",
    );
}

impl Way {
    /// Each talk has a tunnel, and a client, of its own.
    async fn many_links(master: &Master, count: u32) -> anyhow::Result<Self> {
        let peers = Peers::new(master.address, "a port key of many links");
        peers.serve().await?;
        let links = stream::iter(0..count)
            .map(|_| peers.visit(1))
            .buffer_unordered(AT_ONCE);
        let tunnels: Vec<Tunnel> = links.try_concat().await?;
        let talks = tunnels
            .iter()
            .map(|tunnel| Partner::Stream(Talk::open(tunnel)))
            .collect();
        Ok(Way::new(
            "talks_many_links_ns_b",
            "each in a tunnel on a link of its own",
            talks,
            Some((peers, tunnels)),
        ))
    }

    /// Each talk has a tunnel of its own, all of one client.
    async fn one_link(master: &Master, count: u32) -> anyhow::Result<Self> {
        let peers = Peers::new(master.address, "a port key of many tunnels");
        peers.serve().await?;
        let tunnels = peers.visit(count).await?;
        let talks = tunnels
            .iter()
            .map(|tunnel| Partner::Stream(Talk::open(tunnel)))
            .collect();
        Ok(Way::new(
            "talks_one_link_ns_b",
            "each in a tunnel of its own, on one link",
            talks,
            Some((peers, tunnels)),
        ))
    }

    /// So many talks in one tunnel.
    async fn one_tunnel(
        name: &'static str,
        what: &'static str,
        manner: Manner,
        master: &Master,
        count: u32,
    ) -> anyhow::Result<Self> {
        let peers = Peers::new(master.address, name);
        peers.serve().await?;
        let tunnels = peers.visit(1).await?;
        let talks = (0..count)
            .filter_map(|_| tunnels.first())
            .map(|tunnel| Partner::Stream(Talk::open(tunnel)))
            .collect();
        Ok(Way {
            manner,
            ..Way::new(name, what, talks, Some((peers, tunnels)))
        })
    }

    /// Each talk has a connection through the copier.
    async fn copied(copier: &Copier, count: u32) -> anyhow::Result<Self> {
        let connect = |_| async {
            let connection = TcpStream::connect(copier.address).await?;
            connection.set_nodelay(true)?;
            anyhow::Ok(Partner::Socket(connection))
        };
        let talks = stream::iter(0..count)
            .map(connect)
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        Ok(Way::new(
            "talks_copier_ns_b",
            "each in a connection through a TCP copier in the master's place",
            talks,
            None,
        ))
    }

    fn new(
        name: &'static str,
        what: &'static str,
        talks: Vec<Partner>,
        links: Option<(Peers, Vec<Tunnel>)>,
    ) -> Self {
        Way {
            name,
            what,
            manner: Manner::Leisurely,
            talks,
            links,
            rounds: Vec::new(),
        }
    }

    /// One round: talks for so long, and counts.
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
        let manner = self.manner;
        let talking = self
            .talks
            .iter_mut()
            .map(|partner| partner.talk(manner, begun + length, &bytes));
        future::try_join_all(talking).await?;
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
        median(self.rounds.iter().map(value).collect()).unwrap_or(f64::NAN)
    }
}

impl Partner {
    /// Talks until then, and adds to `bytes` what went both ways.
    async fn talk(
        &mut self,
        manner: Manner,
        until: Instant,
        bytes: &AtomicU64,
    ) -> anyhow::Result<()> {
        let longest = if matches!(manner, Manner::Bulk) {
            PIECE
        } else {
            *SIZES.end()
        };
        let content = Bytes::from(vec![b'm'; longest]);
        let mut next = Instant::now();
        if matches!(manner, Manner::Leisurely) {
            next += PERIOD.mul_f64(fastrand::f64());
        }
        while next < until {
            let length = match manner {
                Manner::Bulk => PIECE,
                Manner::AtOnce => fastrand::usize(SIZES),
                Manner::Leisurely => {
                    tokio::time::sleep_until(next.into()).await;
                    fastrand::usize(SIZES)
                }
            };
            self.say(content.slice(..length)).await?;
            bytes.fetch_add(2 * length as u64, Relaxed);
            let pause = if matches!(manner, Manner::Leisurely) {
                PERIOD
            } else {
                Duration::ZERO
            };
            // Who is late says less, in place of everything at once.
            next = (next + pause).max(Instant::now());
        }
        Ok(())
    }

    async fn say(&mut self, message: Bytes) -> anyhow::Result<()> {
        match self {
            Partner::Stream(talk) => talk.say(message).await,
            Partner::Socket(connection) => {
                connection.write_all(&message).await?;
                let mut echo = [0; *SIZES.end()];
                connection.read_exact(&mut echo[..message.len()]).await?;
                Ok(())
            }
        }
    }
}
