//! The load in namespace A: transfers, and echoes beside them.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use socket2::SockRef;

use crate::{
    namespace::NetworkNamespace,
    options::Options,
    path::{End, LossyPath},
    service::{self, DOWNLOAD, ECHO, FarService, UPLOAD},
};

/// The bytes of an echo: a keystroke and its frame.
const ECHO_BYTES: usize = 64;

/// The echoes without a transfer.
const IDLE_ECHOES: usize = 20;

/// A connection that moves nothing for this long has failed.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The share of the recent bytes from which on a link is in use.
const LINK_SHARE: f64 = 0.02;

/// The time between two looks at a path that becomes quiet.
const QUIET_INTERVAL: Duration = Duration::from_millis(300);

/// The packets in that time which keep-alives and acknowledgements explain.
const QUIET_PACKETS: u64 = 40;

/// The limit for the wait for a quiet path.
const QUIET_TIMEOUT: Duration = Duration::from_secs(15);

/// A transfer over some connections in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Transfer {
    pub connections: usize,
    pub is_upload: bool,
}

impl Transfer {
    /// All transfers of a round.
    pub(crate) const ALL: [Transfer; 4] = [
        Transfer::new(8, false),
        Transfer::new(8, true),
        Transfer::new(1, false),
        Transfer::new(1, true),
    ];

    const fn new(connections: usize, is_upload: bool) -> Self {
        Transfer {
            connections,
            is_upload,
        }
    }
}

impl fmt::Display for Transfer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.is_upload { "up" } else { "down" };
        write!(formatter, "{direction} {}", self.connections)
    }
}

/// The values of one transfer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// The payload that the receiver got.
    pub megabits: f64,
    /// The round trip of an echo beside the transfer, in milliseconds.
    pub ping_p50: f64,
    pub ping_p99: f64,
    /// The TCP connections on the path that carried it at the end.
    pub links: usize,
}

impl fmt::Display for Sample {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{:.1} Mbit/s, echo {:.0} / {:.0} ms, {} connections on the path",
            self.megabits, self.ping_p50, self.ping_p99, self.links
        )
    }
}

/// Where the load connects to: the service itself, or the client.
pub(crate) struct Target<'a> {
    namespace: &'a NetworkNamespace,
    address: SocketAddr,
}

impl<'a> Target<'a> {
    /// Creates a target that is reachable in the namespace.
    pub(crate) fn new(namespace: &'a NetworkNamespace, address: SocketAddr) -> Self {
        Target { namespace, address }
    }

    /// Connects and sends the first bytes. The connection is reset when it is closed, so that
    /// nothing of it remains on the path.
    pub(crate) fn connect(&self, first: &[u8]) -> io::Result<TcpStream> {
        let address = self.address;
        let connect = || TcpStream::connect_timeout(&address, STALL_TIMEOUT);
        let mut stream = self.namespace.run(connect)??;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(STALL_TIMEOUT))?;
        stream.set_write_timeout(Some(STALL_TIMEOUT))?;
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        stream.write_all(first)?;
        Ok(stream)
    }

    /// Measures the median round trip of an echo without a transfer, in milliseconds.
    pub(crate) fn idle_ping(&self) -> anyhow::Result<f64> {
        let stream = self.connect(&[ECHO])?;
        let times: Result<Vec<_>, _> = (0..IDLE_ECHOES).map(|_| ping(&stream)).collect();
        quantile(&mut times?, 0.5).context("no echo")
    }
}

/// Sends an echo and waits for it. Returns the round trip in milliseconds.
pub(crate) fn ping(mut stream: &TcpStream) -> io::Result<f64> {
    let begun = Instant::now();
    let mut answer = [0; ECHO_BYTES];
    stream.write_all(&[7; ECHO_BYTES])?;
    stream.read_exact(&mut answer)?;
    if answer != [7; ECHO_BYTES] {
        return Err(io::Error::other("the echo differs from the sent bytes"));
    }
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// Measures one transfer and the echoes beside it. Waits until the path is quiet again.
pub(crate) fn measure(
    target: &Target<'_>,
    transfer: Transfer,
    service: &FarService,
    path: &LossyPath,
    options: &Options,
) -> anyhow::Result<Sample> {
    let command = if transfer.is_upload { UPLOAD } else { DOWNLOAD };
    let streams = (0..transfer.connections)
        .map(|_| target.connect(&[command]))
        .collect::<Result<Vec<_>, _>>()
        .context("cannot connect")?;
    let echoes = target.connect(&[ECHO]).context("cannot connect")?;
    let here = AtomicU64::new(0);
    let received = if transfer.is_upload {
        service.received()
    } else {
        &here
    };
    let (is_counted, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let sample = thread::scope(|scope| {
        let downloaded = &here;
        let bulk: Vec<_> = streams
            .iter()
            .map(|stream| scope.spawn(move || move_bytes(stream, transfer, downloaded)))
            .collect();
        let pinging = scope.spawn(|| ping_until(&echoes, &is_counted, &stop));
        sleep(options.warm_up);
        let (begun, before) = (Instant::now(), received.load(Relaxed));
        is_counted.store(true, Relaxed);
        sleep(options.window);
        let bytes = received.load(Relaxed) - before;
        let megabits = bytes as f64 * 8e-6 / begun.elapsed().as_secs_f64();
        let links = links_in_use(path);
        let has_failed = bulk.iter().any(|thread| thread.is_finished());
        stop.store(true, Relaxed);
        for stream in streams.iter().chain([&echoes]) {
            // An error means that the connection has ended, which is checked.
            let _ = stream.shutdown(Shutdown::Both);
        }
        let ended: Vec<_> = bulk.into_iter().map(|thread| thread.join()).collect();
        let times = pinging.join();
        if has_failed {
            eprintln!("  ended early: {ended:?}");
        }
        ensure!(!has_failed, "a connection ended during the transfer");
        let mut times = times.map_err(|_| anyhow::anyhow!("the echoes panicked"))??;
        Ok(Sample {
            megabits,
            ping_p50: quantile(&mut times, 0.5).context("no echo")?,
            ping_p99: quantile(&mut times, 0.99).context("no echo")?,
            links,
        })
    });
    drop((streams, echoes));
    wait_until_quiet(path);
    sample
}

fn move_bytes(mut stream: &TcpStream, transfer: Transfer, received: &AtomicU64) -> io::Result<()> {
    if !transfer.is_upload {
        return service::count(stream, received);
    }
    let block = service::random_block();
    loop {
        stream.write_all(&block)?;
    }
}

/// Repeats echoes until `stop`. Returns the times of those that began while `is_counted`. The last
/// one is interrupted, so it takes at least that long.
fn ping_until(
    stream: &TcpStream,
    is_counted: &AtomicBool,
    stop: &AtomicBool,
) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::new();
    while !stop.load(Relaxed) {
        let (begun, counts) = (Instant::now(), is_counted.load(Relaxed));
        let time = match ping(stream) {
            Ok(time) => time,
            Err(_) if stop.load(Relaxed) => begun.elapsed().as_secs_f64() * 1e3,
            Err(error) => return Err(error).context("an echo failed"),
        };
        // An interrupted echo counts only as an outlier, not as a short one.
        let is_short = stop.load(Relaxed) && times.iter().any(|other| *other > time);
        if counts && !is_short {
            times.push(time);
        }
    }
    Ok(times)
}

/// Returns the number of TCP connections on the path with a share of the recent traffic.
pub(crate) fn links_in_use(path: &LossyPath) -> usize {
    let traffic = path.traffic();
    let all: f64 = traffic.iter().map(|flow| flow.recent_bytes).sum();
    traffic
        .iter()
        .filter(|flow| flow.recent_bytes > all * LINK_SHARE)
        .count()
}

/// Waits until data in flight has arrived, so that it is not a part of the next transfer.
fn wait_until_quiet(path: &LossyPath) {
    let packets = || -> u64 { End::BOTH.map(|end| path.counts(end).carried).iter().sum() };
    let begun = Instant::now();
    let mut before = packets();
    while begun.elapsed() < QUIET_TIMEOUT {
        sleep(QUIET_INTERVAL);
        let now = packets();
        if now - before < QUIET_PACKETS {
            return;
        }
        before = now;
    }
}

/// Waits for this long.
pub(crate) fn sleep(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        thread::park_timeout(left);
    }
}

/// Sorts the values and returns a quantile.
pub(crate) fn quantile(values: &mut [f64], share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    values.get((last as f64 * share).round() as usize).copied()
}
