//! What is sent through a system, and how long it takes. The load runs on plain threads with blocking sockets, so that it takes little of the
//! machine. Latencies are those of one connection that has been open for a while.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

use crate::{
    options::Options,
    results::Values,
    services::{self, BLOCK, ECHO, GIVE_RANDOM, GIVE_TEXT, PIECE, TAKE},
    systems::{PROBE_INTERVAL, System},
};

/// A socket that nothing comes from, or goes into, for this long is an error.
const STALLED: Duration = Duration::from_secs(30);

/// Bytes of an echo: a keystroke and its frame.
const ECHO_BYTES: usize = 64;

/// What a bulk copy moves before echoes beside it are measured, in bytes: its windows have grown then.
const BULK_UNDER_WAY: u64 = 32 << 20;

/// Connections at once where several are measured.
const MANY: usize = 8;
const AT_ONCE: usize = 16;

/// What one turn measures.
#[derive(Debug, Clone, Copy)]
pub enum Measure {
    Up(usize),
    Down(usize),
    Echo,
    EchoBesideBulk,
    Connect,
    ConnectAtOnce,
}

impl Measure {
    /// In the order of a round.
    pub const ALL: [Measure; 8] = [
        Measure::Up(1),
        Measure::Down(1),
        Measure::Up(MANY),
        Measure::Down(MANY),
        Measure::Echo,
        Measure::EchoBesideBulk,
        Measure::Connect,
        Measure::ConnectAtOnce,
    ];
}

/// Sends and receives.
pub struct Load {
    options: Options,
    /// What is sent: random bytes, and text.
    blocks: [Vec<u8>; 2],
}

impl Load {
    /// Makes what is to be sent.
    pub fn new(options: &Options) -> Self {
        Load { options: options.clone(), blocks: [services::block(false), services::block(true)] }
    }

    /// Whether bytes come back through the system as they were sent.
    pub fn verify(&self, system: &System) -> anyhow::Result<()> {
        let sent = &self.blocks[usize::from(system.text())];
        let mut reader = connect(system, &[ECHO])?;
        let mut writer = reader.try_clone()?;
        thread::scope(|scope| {
            let writing = scope.spawn(move || writer.write_all(sent));
            let mut received = vec![0; BLOCK];
            reader.read_exact(&mut received)?;
            joined(writing)??;
            let differs = sent.iter().zip(&received).position(|(sent, received)| sent != received);
            ensure!(differs.is_none(), "byte {} is another", differs.unwrap_or_default());
            Ok(())
        })
    }

    /// One turn of a measure.
    pub fn run(&self, measure: Measure, system: &System) -> anyhow::Result<Values> {
        match measure {
            Measure::Up(1) => self.transfer(system, 1, Self::up, ["up_1_mb_s", "up_1_cpu_s_gib"]),
            Measure::Up(many) => self.transfer(system, many, Self::up, ["up_8_mb_s", "up_8_cpu_s_gib"]),
            Measure::Down(1) => self.transfer(system, 1, Self::down, ["down_1_mb_s", "down_1_cpu_s_gib"]),
            Measure::Down(many) => self.transfer(system, many, Self::down, ["down_8_mb_s", "down_8_cpu_s_gib"]),
            Measure::Echo => {
                let times = self.echoes(system, self.options.echoes)?;
                Ok(vec![("echo_p50_us", quantile(&times, 0.5) * 1e6), ("echo_p99_us", quantile(&times, 0.99) * 1e6)])
            }
            Measure::EchoBesideBulk => self.echo_beside_bulk(system),
            Measure::Connect => Ok(vec![("connect_1_s", connections(system, 1, self.options.connections)?)]),
            Measure::ConnectAtOnce => Ok(vec![("connect_16_s", connections(system, AT_ONCE, self.options.connections_at_once)?)]),
        }
    }

    /// Megabytes (10^6) a second over `connections`, and the CPU time that the system's processes used for each GiB.
    fn transfer(
        &self,
        system: &System,
        connections: usize,
        one: fn(&Self, &System, u64) -> anyhow::Result<()>,
        names: [&'static str; 2],
    ) -> anyhow::Result<Values> {
        let share = self.options.transfer_bytes / connections as u64;
        let cpu = system.cpu_seconds()?;
        let begun = Instant::now();
        thread::scope(|scope| {
            let running: Vec<_> = (0..connections).map(|_| scope.spawn(|| one(self, system, share))).collect();
            running.into_iter().try_for_each(|running| joined(running)?)
        })?;
        let elapsed = begun.elapsed().as_secs_f64();
        let bytes = (share * connections as u64) as f64;
        let cpu = system.cpu_seconds()? - cpu;
        Ok(vec![(names[0], bytes / elapsed / 1e6), (names[1], cpu / (bytes / f64::from(1 << 30)))])
    }

    /// Sends `bytes` until the service says that it has them.
    fn up(&self, system: &System, bytes: u64) -> anyhow::Result<()> {
        let mut connection = connect(system, &request(TAKE, bytes))?;
        let mut left = bytes;
        for piece in self.blocks[usize::from(system.text())].chunks(PIECE).cycle() {
            if left == 0 {
                break;
            }
            let length = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            connection.write_all(&piece[..length]).with_context(|| format!("{left} of {bytes} bytes are not sent"))?;
            left -= length as u64;
        }
        connection.read_exact(&mut [0]).context("the service does not say that it has everything")
    }

    /// Receives `bytes`, and the end after them.
    fn down(&self, system: &System, bytes: u64) -> anyhow::Result<()> {
        let mut connection = connect(system, &give(system, bytes))?;
        let mut buffer = vec![0; PIECE];
        let mut left = bytes;
        loop {
            match connection.read(&mut buffer).with_context(|| format!("{left} of {bytes} bytes did not come"))? {
                0 if left == 0 => return Ok(()),
                0 => bail!("an end of file, where {left} of {bytes} bytes are missing"),
                length => left = left.checked_sub(length as u64).context("more than was asked for")?,
            }
        }
    }

    /// Seconds of each round trip, sorted.
    fn echoes(&self, system: &System, count: usize) -> anyhow::Result<Vec<f64>> {
        let mut connection = connect(system, &[ECHO])?;
        let mut times = Vec::with_capacity(count);
        let mut received = [0; ECHO_BYTES];
        for sent in self.blocks[0].chunks_exact(ECHO_BYTES).cycle().take(count) {
            let begun = Instant::now();
            connection.write_all(sent)?;
            connection.read_exact(&mut received)?;
            times.push(begun.elapsed().as_secs_f64());
            ensure!(sent == received, "an echo of other bytes");
        }
        times.sort_by(f64::total_cmp);
        Ok(times)
    }

    /// Echoes while the same system carries a bulk copy from the service.
    fn echo_beside_bulk(&self, system: &System) -> anyhow::Result<Values> {
        let (stop, moved) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            let bulk = scope.spawn(|| {
                let result = bulk_until(system, &stop, &moved);
                stop.store(true, Relaxed);
                result
            });
            while moved.load(Relaxed) < BULK_UNDER_WAY && !stop.load(Relaxed) {
                thread::park_timeout(PROBE_INTERVAL);
            }
            let (begun, before) = (Instant::now(), moved.load(Relaxed));
            let times = self.echoes(system, self.options.echoes_beside);
            let rate = (moved.load(Relaxed) - before) as f64 / begun.elapsed().as_secs_f64() / 1e6;
            stop.store(true, Relaxed);
            joined(bulk)?.context("the bulk copy")?;
            let times = times?;
            Ok(vec![
                ("beside_p50_ms", quantile(&times, 0.5) * 1e3),
                ("beside_p99_ms", quantile(&times, 0.99) * 1e3),
                ("beside_bulk_mb_s", rate),
            ])
        })
    }
}

fn bulk_until(system: &System, stop: &AtomicBool, moved: &AtomicU64) -> anyhow::Result<()> {
    let mut connection = connect(system, &give(system, u64::MAX))?;
    let mut buffer = vec![0; PIECE];
    while !stop.load(Relaxed) {
        match connection.read(&mut buffer)? {
            0 => bail!("an end of file in the middle"),
            length => moved.fetch_add(length as u64, Relaxed),
        };
    }
    Ok(())
}

/// New connections a second, `at_once` at a time, each with a byte that comes back.
fn connections(system: &System, at_once: usize, count: usize) -> anyhow::Result<f64> {
    let each = count.div_ceil(at_once);
    let begun = Instant::now();
    thread::scope(|scope| {
        let one_after_another = || {
            (0..each).try_for_each(|_| {
                let mut connection = connect(system, &[ECHO, 1])?;
                connection.read_exact(&mut [0]).context("a new connection that does not answer")
            })
        };
        let running: Vec<_> = (0..at_once).map(|_| scope.spawn(one_after_another)).collect();
        running.into_iter().try_for_each(|running| joined(running)?)
    })?;
    Ok((each * at_once) as f64 / begun.elapsed().as_secs_f64())
}

fn connect(system: &System, first: &[u8]) -> io::Result<TcpStream> {
    let mut connection = TcpStream::connect(system.entry)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(STALLED))?;
    connection.set_write_timeout(Some(STALLED))?;
    connection.write_all(first)?;
    Ok(connection)
}

fn give(system: &System, bytes: u64) -> [u8; 9] {
    request(if system.text() { GIVE_TEXT } else { GIVE_RANDOM }, bytes)
}

fn request(kind: u8, bytes: u64) -> [u8; 9] {
    let mut request = [kind; 9];
    request[1..].copy_from_slice(&bytes.to_be_bytes());
    request
}

fn joined<T>(running: thread::ScopedJoinHandle<'_, T>) -> anyhow::Result<T> {
    running.join().map_err(|_| anyhow::anyhow!("a thread of the load panicked"))
}

/// Of sorted times.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(((last as f64) * share).round() as usize).copied().unwrap_or(f64::NAN)
}
